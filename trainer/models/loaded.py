"""One pipeline, in which the weights of each model take the place of those before.

Models that stand on the same base exchange adapters. Exports of whole networks with equal configs
exchange the networks whose files differ: a frozen one is not read again. All else is opened anew.
Of a blend it is the first model, and the text encoders of the others lie beside it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from cluster.run_folder import MANIFEST, read_manifest, verify
from trainer.models.blended import unblend
from trainer.models.digest import PREVIEWS, WEIGHTS
from trainer.models.named import NamedModel
from trainer.models.pipeline import load_adapters, mix_encoders, open_pipeline
from trainer.models.source import INDEX, Source


class LoadedModel:
    """What is loaded at present."""

    def __init__(
        self,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
        channels_last: bool = False,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.compiled = compiled
        self.channels_last = channels_last
        self.schedule: Mapping[str, Any] = {}
        """The model's noise schedule, whichever sampler is put in."""
        self._model: NamedModel | None = None
        self._pipeline: DiffusionPipeline | None = None

    def switch(self, model: NamedModel) -> DiffusionPipeline:
        """The pipeline with the weights of `model`, the same as if it had been opened with them.

        BrokenFolder and ValueError name the file that is not as it should be.
        """
        if self._model != model or self._pipeline is None:
            for export in model.exports:
                verify(export)
            before, self._model = self._model, None  # what fails half-way is opened anew
            pipeline = self._take_out(before)
            if not (before and pipeline and _exchange(pipeline, before.source, model.source)):
                pipeline = self._open(model.source)
            if model.adapters:
                load_adapters(pipeline, model.adapters)
            mix_encoders(pipeline, model.blend)
            self._model, self._pipeline = model, pipeline
        return self._pipeline

    def _take_out(self, before: NamedModel | None) -> DiffusionPipeline | None:
        """The pipeline without the adapters and the other text encoders of the last model."""
        if before and self._pipeline:
            unblend(self._pipeline)
            if before.adapters:
                self._pipeline.unload_lora_weights()
        return self._pipeline

    def _open(self, source: Source) -> DiffusionPipeline:
        self._pipeline = None  # two do not fit where one does
        pipeline = open_pipeline(source, device=self.device, dtype=self.dtype)
        self.schedule = pipeline.scheduler.config
        if self.channels_last:
            pipeline.unet.to(memory_format=torch.channels_last)
            pipeline.vae.to(memory_format=torch.channels_last)
        if self.compiled:
            # Block by block and in place: what takes the place of weights or adapters of the same
            # shapes is not compiled again.
            pipeline.unet.compile_repeated_blocks()
        return pipeline


def _exchange(pipeline: DiffusionPipeline, before: Source, after: Source) -> bool:
    """Put the weights of one whole model in the place of another's; False if they do not fit."""
    if before == after:
        return True
    if not all((source.weights / MANIFEST).is_file() for source in (before, after)):
        return False  # a model that is no export says nothing of its files without reading them
    old, new = _parts(before.weights), _parts(after.weights)
    if _configs(old) != _configs(new):
        return False
    for name in sorted({Path(file).parts[0] for file in new if old.get(file) != new[file]}):
        network = pipeline.components[name]
        fresh = type(network).from_pretrained(
            after.weights / name, dtype=network.dtype, local_files_only=True, use_safetensors=True
        )
        network.load_state_dict(fresh.state_dict())
    return True


def _parts(export: Path) -> dict[str, str]:
    """The files that a pipeline is loaded from, with their SHA-256."""
    files = read_manifest(export)["files"]
    return {
        name: facts["sha256"]
        for name, facts in files.items()
        if name == INDEX or ("/" in name and not name.startswith(PREVIEWS))
    }


def _configs(parts: Mapping[str, str]) -> dict[str, str]:
    """All but the weights, and the names of these."""
    return {name: "" if name.endswith(WEIGHTS) else sha256 for name, sha256 in parts.items()}
