"""The actor that makes pictures: one pipeline, whose weights change with the checkpoint."""

import hashlib
import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cluster.run_folder import write_bytes
from evalfarm.config import EvalConfig
from evalfarm.farm.worker import worker_facts
from evalfarm.rows import Picture
from evalfarm.suite import Item, Sampling
from evalfarm.work import Generate, Result, picture_file
from trainer.models.dtypes import DTYPES
from trainer.models.loaded import LoadedModel
from trainer.models.named import find_named, short_name
from trainer.models.samplers import WEB_UI_SAMPLERS, new_sampler

NOT_FINITE = "the model gave NaN or infinite values for this picture"
ONE_COLOR = "all of one colour"


class Generator:
    """Makes the pictures of suites. A Ray actor in the farm, a plain object anywhere else."""

    def __init__(self, config: EvalConfig) -> None:
        self.facts = worker_facts("generator", config.device)
        self._loaded = LoadedModel(
            device=config.device,
            dtype=DTYPES[config.precision],
            compiled=config.compile,
            channels_last=config.channels_last,
        )

    def started(self) -> None:
        """Answer once the actor is up."""

    def run(self, unit: Generate) -> Result:
        """Make a unit's pictures, one batch, each from noise of its own.

        ValueError if the model cannot be loaded; it names the file.
        """
        started = time.monotonic()
        images = make_pictures(self._pipeline(unit), unit.sampling, unit.items)
        seconds = (time.monotonic() - started) / len(images)
        pictures = [
            self._save(unit, image, item, seconds)
            for image, item in zip(images, unit.items, strict=True)
        ]
        return Result(pictures=pictures, worker=self.facts)

    def _pipeline(self, unit: Generate) -> DiffusionPipeline:
        pipeline = self._loaded.switch(find_named(unit.path))
        schedule = self._loaded.schedule
        prediction = schedule.get("prediction_type", "epsilon")
        pipeline.scheduler = new_sampler(schedule, prediction, unit.sampling.sampler)
        return pipeline

    def _save(
        self, unit: Generate, image: Image.Image | None, item: Item, seconds: float
    ) -> Picture:
        facts: dict[str, Any] = {"status": "failed", "error": NOT_FINITE}
        if image:
            data = _png(image, parameters(unit, item))
            digest = hashlib.sha256(data).hexdigest()
            file = picture_file(unit.subfolder, item, digest)
            write_bytes(unit.folder / file, data)
            note = ONE_COLOR if image.getcolors(maxcolors=1) else None
            facts = {"status": "ok", "file": file, "sha256": digest, "note": note}
        return Picture(
            checkpoint=unit.checkpoint,
            prompt=item.prompt,
            sample=item.sample,
            worker=self.facts.worker,
            seconds=seconds,
            **facts,
        )


def make_pictures(
    pipeline: DiffusionPipeline, sampling: Sampling, items: Sequence[Item]
) -> list[Image.Image | None]:
    """The pictures of these items, made as one batch; None where the values are not finite."""
    # Drawn on the CPU: the noise is the same on every machine.
    noise = [
        torch.Generator().manual_seed(picture_seed(sampling.seed, item.prompt, item.sample))
        for item in items
    ]
    negative = sampling.negative_prompt
    with _watch_decoder(pipeline) as finite:
        pixels = pipeline(
            [item.text for item in items],
            negative_prompt=[negative] * len(items) if negative else None,
            num_inference_steps=sampling.sampler_steps,
            guidance_scale=sampling.guidance,
            height=sampling.height,
            width=sampling.width,
            generator=noise,
            output_type="np",
        ).images
    to_image = pipeline.image_processor.numpy_to_pil
    return [
        to_image(picture)[0] if is_finite else None
        for picture, is_finite in zip(pixels, finite, strict=True)
    ]


def parameters(unit: Generate, item: Item) -> str:
    """How a picture was made, in the words that Stable Diffusion web UIs read from a PNG."""
    sampling = unit.sampling
    negative = sampling.negative_prompt
    facts = {
        "Steps": sampling.sampler_steps,
        "Sampler": WEB_UI_SAMPLERS[sampling.sampler],
        "CFG scale": sampling.guidance,
        "Seed": picture_seed(sampling.seed, item.prompt, item.sample),
        "Size": f"{sampling.width}x{sampling.height}",
        "Model hash": unit.checkpoint[:10],
        "Model": short_name(unit.path),
        "RNG": "CPU",
    }
    lines = [item.text, *([f"Negative prompt: {negative}"] if negative else [])]
    return "\n".join([*lines, ", ".join(f"{key}: {_quoted(facts[key])}" for key in facts)])


def picture_seed(seed: int, prompt: int, sample: int) -> int:
    """The seed of a picture's noise, 32 bits as the web UIs have it."""
    digest = hashlib.blake2b(f"{seed}/{prompt}/{sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


@contextmanager
def _watch_decoder(pipeline: DiffusionPipeline) -> Iterator[list[bool]]:
    """Filled with whether each decoded picture is finite: its pixels, between 0 and 1, hide it."""
    finite: list[bool] = []

    def look(_module: Any, _inputs: Any, decoded: torch.Tensor) -> None:
        finite.extend(decoded.isfinite().flatten(1).all(dim=1).tolist())

    hook = pipeline.vae.decoder.register_forward_hook(look)
    try:
        yield finite
    finally:
        hook.remove()


def _quoted(value: Any) -> str:
    """A value as the web UIs write it: in JSON's quotes where they would not see its end."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def _png(image: Image.Image, parameters: str) -> bytes:
    info = PngInfo()
    info.add_text("parameters", parameters)
    buffer = io.BytesIO()
    image.save(buffer, "png", pnginfo=info)
    return buffer.getvalue()
