"""Adapters in the layout of kohya's scripts, which web UIs (A1111, ComfyUI, Forge …) load."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from trainer.models.digest import LEGACY_HASH_BYTES, LEGACY_HASH_OFFSET, tensors_sha256
from trainer.models.family import Family
from trainer.models.ldm import unet_name
from trainer.models.lora import adapter_config, adapter_layers

KOHYA_FILE = "lora_kohya.safetensors"
SIDES = {"lora_A": "lora_down", "lora_B": "lora_up"}


def save_kohya(
    family: Family, by_network: Mapping[str, Mapping[str, Tensor]], folder: Path
) -> None:
    """Write `lora_kohya.safetensors`: the adapters of all networks, each with its true alpha.

    `by_network` as in `save_lora`.
    """
    tensors = {
        name: tensor
        for network in by_network
        for name, tensor in _tensors(family, network, by_network[network]).items()
    }
    training = _metadata(family, next(iter(by_network)))
    # As kohya's scripts do: over what the training says, so that later notes change no hash.
    data = safetensors.torch.save(tensors, training)
    legacy = data[LEGACY_HASH_OFFSET : LEGACY_HASH_OFFSET + LEGACY_HASH_BYTES]
    hashes = {
        "sshs_model_hash": tensors_sha256(data),
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
    }
    (folder / KOHYA_FILE).write_bytes(safetensors.torch.save(tensors, {**training, **hashes}))


def _tensors(family: Family, network: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = family.web_ui_names
    module = family.networks[network]
    alpha = torch.tensor(float(adapter_config(module).lora_alpha))
    tensors = {}
    for key, weight in adapter_layers(module, weights).items():
        layer, side = key.removesuffix(".weight").rsplit(".", 1)
        if network == family.denoiser_name and names.lora_unet_is_ldm:
            layer = unet_name(layer, module.config)
        name = names.lora[network] + layer.replace(".", "_")
        tensors[f"{name}.{SIDES[side]}.weight"] = weight.contiguous()
        tensors[f"{name}.alpha"] = alpha.clone()
    return tensors


def _metadata(family: Family, network: str) -> dict[str, str]:
    """What the web UIs read: the kind of base model, rank and alpha; all of them strings."""
    adapter = adapter_config(family.networks[network])
    version = family.web_ui_names.version
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(adapter.r),
        "ss_network_alpha": str(float(adapter.lora_alpha)),
        "ss_base_model_version": version,
        "ss_v2": str(version.startswith("sd_v2")),
    }
