"""Weights for inference, in the layouts that other tools read."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.models.digest import web_ui_hash, web_ui_lora_hash
from trainer.models.family import Family
from trainer.models.kohya import KOHYA_FILE, save_kohya
from trainer.models.ldm import ldm_weights
from trainer.models.lora import save_lora
from trainer.models.samplers import FLOW, new_sampler
from trainer.models.source import MARKS

SINGLE_FILE = "model.safetensors"
MAX_SHARD_SIZE = "10GB"  # all UNets fit one file; larger networks get several and an index


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

    `weights` are whole, named as in `Trained`. Adapters are written in the layouts of diffusers and
    of kohya, as they are; their base is named. If any network was trained whole, a whole diffusers
    folder is written in `dtype`, and the same in one file for web UIs; adapters of other networks
    lie beside them. Nothing here is collective, and no network of `family` is read, only their
    configs.
    """
    assert all(weight.numel() for weight in weights.values()), "weights that were not gathered"
    by_how: dict[str, dict[str, dict[str, Tensor]]] = {"lora": {}, "full": {}, "frozen": {}}
    for name in family.networks:
        by_how[config.how(name)][name] = _below(weights, f"{name}.")
    facts: dict[str, Any] = {"kind": "lora", **family.source.facts, "prediction": prediction}
    hashes = {}
    if by_how["lora"]:
        save_lora(family, by_how["lora"], folder)
        save_kohya(family, by_how["lora"], folder)
        hashes[KOHYA_FILE] = web_ui_lora_hash(folder / KOHYA_FILE)
    if by_how["full"]:
        _save_whole(folder, family, by_how["full"], prediction, dtype)
        facts |= {"kind": "mixed" if by_how["lora"] else "full", "base": None, "base_config": None}
        hashes[SINGLE_FILE] = web_ui_hash(folder / SINGLE_FILE)
    return {**facts, "web_ui_hashes": hashes}


def forget_where_it_lay(folder: Path) -> None:
    """Drop the path that diffusers notes in what it saves: it means nothing on another machine."""
    for path in folder.rglob("*.json"):
        settings = json.loads(path.read_text())
        if settings.pop("_name_or_path", None):
            path.write_text(json.dumps(settings, indent=2) + "\n")


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _save_whole(
    folder: Path,
    family: Family,
    by_network: Mapping[str, Mapping[str, Tensor]],
    prediction: str,
    dtype: torch.dtype,
) -> None:
    """A diffusers folder and a single file: the base from where it lies, and what was trained."""
    trained = {
        name: _network(family.networks[name], weights, dtype)
        for name, weights in by_network.items()
    }
    # In fp32 first: for another dtype the libraries change torch's default while they load, for all
    # threads, and training goes on in another.
    pipeline = family.source.open(
        family.pipeline_classes[0], dtype=torch.float32, **family.pipeline_settings, **trained
    )
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.to(dtype)
    if prediction == FLOW:
        pipeline.scheduler = new_sampler(pipeline.scheduler.config, FLOW)
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    pipeline.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE)
    forget_where_it_lay(folder)
    single = ldm_weights(pipeline.components, family.web_ui_names.single_file)
    if prediction in MARKS:
        single[MARKS[prediction]] = torch.tensor([])
    save_file({name: weight.contiguous() for name, weight in single.items()}, folder / SINGLE_FILE)


def _network(live: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """A network of the shape of `live` with these weights; `live` may be split over ranks."""
    make = getattr(type(live), "from_config", type(live))
    with torch.device("meta"):
        network: nn.Module = make(copy.deepcopy(live.config))
    cast = {name: weight.to(dtype) for name, weight in weights.items()}
    network.load_state_dict(cast, assign=True)
    return network
