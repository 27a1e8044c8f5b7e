"""The actor that makes pictures: one pipeline, whose weights change with the checkpoint."""

import hashlib
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cluster.run_folder import write_bytes
from evalfarm.ledger import Picture
from evalfarm.suite import Item, Sampling
from evalfarm.work import Generate, Result, picture_file
from evalfarm.worker import worker_facts
from trainer.models.dtypes import DTYPES
from trainer.models.pipeline import load_pipeline
from trainer.models.samplers import new_sampler


class Generator:
    """Makes the pictures of suites. A Ray actor in the farm, a plain object anywhere else."""

    def __init__(self, device: Literal["cuda", "cpu"], precision: Literal["bf16", "fp32"]) -> None:
        self.device = device
        self.dtype = DTYPES[precision]
        self.facts = worker_facts("generator", device)
        self._loaded: tuple[str, DiffusionPipeline] | None = None

    def started(self) -> None:
        """Answer once the actor is up."""

    def run(self, unit: Generate) -> Result:
        """Make a unit's pictures, one batch, each from noise of its own."""
        started = time.monotonic()
        images = make_pictures(self._pipeline(unit), unit.sampling, unit.items)
        seconds = (time.monotonic() - started) / len(images)
        pictures = [
            self._save(unit, image, item, seconds)
            for image, item in zip(images, unit.items, strict=True)
        ]
        return Result(pictures=pictures, worker=self.facts)

    def _pipeline(self, unit: Generate) -> DiffusionPipeline:
        if self._loaded is None or self._loaded[0] != unit.checkpoint:
            self._loaded = None  # two do not fit where one does
            pipeline = load_pipeline(unit.path, device=self.device, dtype=self.dtype)
            schedule = pipeline.scheduler.config
            prediction = schedule.get("prediction_type", "epsilon")
            pipeline.scheduler = new_sampler(schedule, prediction)
            self._loaded = (unit.checkpoint, pipeline)
        return self._loaded[1]

    def _save(self, unit: Generate, image: Image.Image, item: Item, seconds: float) -> Picture:
        file = picture_file(unit.subfolder, item.prompt, item.sample)
        data = _png(image, parameters(unit, item))
        write_bytes(unit.folder / file, data)
        return Picture(
            checkpoint=unit.checkpoint,
            prompt=item.prompt,
            sample=item.sample,
            status="ok",
            file=file,
            sha256=hashlib.sha256(data).hexdigest(),
            worker=self.facts.worker,
            seconds=seconds,
        )


def make_pictures(
    pipeline: DiffusionPipeline, sampling: Sampling, items: Sequence[Item]
) -> list[Image.Image]:
    """The pictures of these items, made as one batch."""
    # Drawn on the CPU: the noise is the same on every machine.
    noise = [
        torch.Generator().manual_seed(picture_seed(sampling.seed, item.prompt, item.sample))
        for item in items
    ]
    images: list[Image.Image] = pipeline(
        [item.text for item in items],
        num_inference_steps=sampling.sampler_steps,
        guidance_scale=sampling.guidance,
        height=sampling.height,
        width=sampling.width,
        generator=noise,
    ).images
    return images


def parameters(unit: Generate, item: Item) -> str:
    """How a picture was made, in the words that Stable Diffusion web UIs read from a PNG."""
    sampling = unit.sampling
    return (
        f"{item.text}\n"
        f"Steps: {sampling.sampler_steps}, Sampler: DDIM, CFG scale: {sampling.guidance}, "
        f"Seed: {picture_seed(sampling.seed, item.prompt, item.sample)}, "
        f"Size: {sampling.width}x{sampling.height}, "
        f"Model hash: {unit.checkpoint[:10]}, Model: {Path(unit.path).name}, RNG: CPU"
    )


def picture_seed(seed: int, prompt: int, sample: int) -> int:
    """The seed of a picture's noise, 32 bits as the web UIs have it."""
    digest = hashlib.blake2b(f"{seed}/{prompt}/{sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _png(image: Image.Image, parameters: str) -> bytes:
    info = PngInfo()
    info.add_text("parameters", parameters)
    buffer = io.BytesIO()
    image.save(buffer, "png", pnginfo=info)
    return buffer.getvalue()
