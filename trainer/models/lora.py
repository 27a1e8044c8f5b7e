"""Low-rank adapters, and the file that diffusers and peft load them from."""

from collections.abc import Mapping
from pathlib import Path

from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import CLIPTextModel

from trainer.config import LoraConfig
from trainer.models.family import Family
from trainer.models.ldm import clip_name

LORA_FILE = "pytorch_lora_weights.safetensors"


def add_lora(network: nn.Module, config: LoraConfig, target_modules: tuple[str, ...]) -> None:
    """Give the `target_modules` of a frozen network adapters, which start without effect."""
    adapter = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(target_modules),
        init_lora_weights="gaussian",
    )
    try:
        network.add_adapter(adapter)  # type: ignore[operator]
    except ValueError as error:
        if "not found" not in str(error):
            raise
        raise ValueError(
            f"train.lora: the target modules {list(target_modules)} match no layer of the "
            f"{type(network).__name__}"
        ) from None


def adapter_config(network: nn.Module) -> PeftLoraConfig:
    """What `add_lora` gave a network."""
    config: PeftLoraConfig = network.peft_config["default"]  # type: ignore[index]
    return config


def adapter_layers(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's adapters by layer, `<layer>.lora_A.weight` and `<layer>.lora_B.weight`.

    `weights` are named as in the network. A CLIP's layers get the names that they have had in
    files ever since; diffusers reads them with any transformers.
    """
    layers: dict[str, Tensor] = get_peft_model_state_dict(network, state_dict=dict(weights))
    assert layers
    if isinstance(network, CLIPTextModel):
        return {clip_name(name): weight for name, weight in layers.items()}
    return layers


def save_lora(family: Family, by_network: Mapping[str, Mapping[str, Tensor]], folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors` with the true alpha in its metadata.

    `by_network` holds each network's adapter weights by their names in it.
    """
    networks = {name: family.networks[name] for name in by_network}
    layers = {
        f"{name}_lora_layers": adapter_layers(network, by_network[name])
        for name, network in networks.items()
    }
    metadata = _collate_lora_metadata(networks)
    for name in networks:
        # `load_lora_weights` leaves a dropout that it reads here on, and every picture random.
        metadata[f"{name}_lora_adapter_metadata"]["lora_dropout"] = 0.0
    family.pipeline_classes[0].save_lora_weights(
        folder, weight_name=LORA_FILE, **layers, **metadata
    )
