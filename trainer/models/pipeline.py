"""Loading models: whole for making pictures, network by network for training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from cluster.run_folder import MANIFEST, verify
from trainer.models.family import Family
from trainer.models.lora import LORA_FILE
from trainer.models.source import Source, find_model
from trainer.models.stable_diffusion import StableDiffusion
from trainer.models.stable_diffusion_xl import StableDiffusionXL
from trainer.models.untrusted import tensors_of

FAMILIES: tuple[type[Family], ...] = (StableDiffusion, StableDiffusionXL)


def family_of(source: Source) -> type[Family]:
    """The family of a model, by the class that its pipeline names."""
    name = str(source.index.get("_class_name"))
    for family in FAMILIES:
        if name in (pipeline.__name__ for pipeline in family.pipeline_classes):
            return family
    known = sorted(p.__name__ for family in FAMILIES for p in family.pipeline_classes)
    raise ValueError(f"model {source.config} is a {name}; what can be trained: {', '.join(known)}")


def load_family(
    model: str,
    *,
    device: torch.device,
    dtype_of: Callable[[str], torch.dtype],
    model_config: str | None = None,
) -> Family:
    """Load a model's networks, all frozen; `dtype_of` tells each one's dtype by its name.

    `model` and `model_config` as in `find_model`. ValueError if the model cannot be found, is not
    to be trusted, or is of no known family.
    """
    source = find_model(model, model_config)
    return family_of(source).load(source, dtype_of=dtype_of).to(device)


def load_pipeline(
    model: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    model_config: str | None = None,
) -> DiffusionPipeline:
    """Load an export of ours, or any model that `find_model` finds, ready to make pictures.

    An export is checked against its manifest first: BrokenFolder names what differs.
    """
    facts = export_facts(model)
    if facts.get("base"):
        source = find_model(str(facts["base"]), facts.get("base_config"))
    else:
        source = find_model(str(model), model_config)
    family = family_of(source)
    pipeline = source.open(family.pipeline_classes[0], dtype=dtype, **family.pipeline_settings)
    if facts.get("kind") in ("lora", "mixed"):
        _load_adapters(pipeline, Path(model))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def export_facts(folder: str | Path) -> dict[str, Any]:
    """The manifest of an export; empty for a model that is not one of ours."""
    if not Path(folder, MANIFEST).is_file():
        return {}
    return verify(Path(folder))


def _load_adapters(pipeline: DiffusionPipeline, folder: Path) -> None:
    """From safetensors alone: an adapter that comes as a pickle is converted first."""
    path = folder / LORA_FILE
    if not path.is_file():
        raise ValueError(
            f"export {folder} holds no {LORA_FILE}, and adapters are read from nothing else"
        )
    tensors_of(path)
    pipeline.load_lora_weights(str(folder), weight_name=LORA_FILE, use_safetensors=True)
