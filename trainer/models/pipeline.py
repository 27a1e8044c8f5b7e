"""Finding and loading models: whole for making pictures, network by network for training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers.utils import logging as transformers_logging

from cluster.run_folder import MANIFEST, verify
from trainer.models.family import Family
from trainer.models.stable_diffusion import StableDiffusion

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


FAMILIES: tuple[type[Family], ...] = (StableDiffusion,)


def find_model(model: str) -> Path:
    """The folder of a diffusers pipeline: `model` itself, or its snapshot in the hub cache."""
    if Path(model, "model_index.json").is_file():
        return Path(model)
    if Path(model).exists():
        raise ValueError(f"model {model} is no diffusers folder: it holds no model_index.json")
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise ValueError(
            f"model {model!r} is neither a folder nor in the Hugging Face cache "
            f"({constants.HF_HUB_CACHE}): give the path of a diffusers folder, or fill the cache"
        ) from None


def family_of(folder: Path) -> type[Family]:
    """The family of the pipeline in a diffusers folder, by the class that it names."""
    name = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    for family in FAMILIES:
        if name in (pipeline.__name__ for pipeline in family.pipeline_classes):
            return family
    known = sorted(p.__name__ for family in FAMILIES for p in family.pipeline_classes)
    raise ValueError(f"model {folder} is a {name}; what can be trained: {', '.join(known)}")


def load_family(
    model: str, *, device: torch.device, dtype_of: Callable[[str], torch.dtype]
) -> Family:
    """Load a model's networks, all frozen; `dtype_of` tells each one's dtype by its name.

    ValueError if the model cannot be found or is of no known family.
    """
    folder = find_model(model)
    return family_of(folder).load(folder, dtype_of=dtype_of).to(device)


def load_pipeline(
    folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> DiffusionPipeline:
    """Load an export of ours, or any diffusers folder, ready to make pictures.

    An export is checked against its manifest first: BrokenFolder names what differs.
    """
    facts = export_facts(folder)
    base = find_model(str(facts.get("base") or folder))
    cls = family_of(base).pipeline_classes[0]
    checker = {"safety_checker": None} if "safety_checker" in cls._optional_components else {}
    pipeline = cls.from_pretrained(base, dtype=dtype, local_files_only=True, **checker)
    if facts.get("kind") == "lora":
        pipeline.load_lora_weights(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def export_facts(folder: str | Path) -> dict[str, Any]:
    """The manifest of an export; empty for a diffusers folder that is not one of ours."""
    if not Path(folder, MANIFEST).is_file():
        return {}
    return verify(Path(folder))
