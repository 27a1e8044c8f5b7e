"""Weights for inference, in the layouts that other tools read."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from trainer.config import TrainConfig
from trainer.models.family import Family
from trainer.models.lora import save_lora


def save_export(
    folder: Path,
    family: Family,
    config: TrainConfig,
    weights: Mapping[str, Tensor],
    *,
    prediction: str,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Write trained weights into `folder`; what a manifest should say of them.

    `weights` are whole, named as in `Trained`. If only adapters were trained, diffusers' LoRA file
    is written and the base named; else a whole diffusers folder. Nothing here is collective, and no
    network of `family` is read, only their configs.
    """
    by_network = {
        name: _below(weights, f"{name}.")
        for name in family.networks
        if config.how(name) != "frozen"
    }
    if all(config.how(name) == "lora" for name in by_network):
        save_lora(family, by_network, folder)
        return {"kind": "lora", "base": str(family.folder.resolve()), "prediction": prediction}
    _save_folder(folder, family, by_network, prediction, dtype)
    return {"kind": "full", "base": None, "prediction": prediction}


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _save_folder(
    folder: Path,
    family: Family,
    by_network: Mapping[str, Mapping[str, Tensor]],
    prediction: str,
    dtype: torch.dtype,
) -> None:
    ignored = shutil.ignore_patterns(*by_network, ".*")
    shutil.copytree(family.folder, folder, ignore=ignored, dirs_exist_ok=True)
    for name, weights in by_network.items():
        family.networks[name].save_config(folder / name)  # type: ignore[operator]
        cast = {key: weight.to(dtype).contiguous() for key, weight in weights.items()}
        save_file(cast, folder / name / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    scheduler = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(scheduler.read_text()) | {"prediction_type": prediction}
    scheduler.write_text(json.dumps(settings, indent=2) + "\n")
