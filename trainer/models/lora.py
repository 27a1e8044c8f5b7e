"""Low-rank adapters on a UNet, and the file that diffusers and peft load them from."""

from pathlib import Path

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model_state_dict
from torch import Tensor

from trainer.config import LoraConfig


def add_lora(unet: UNet2DConditionModel, config: LoraConfig) -> None:
    """Freeze the UNet and give its `target_modules` adapters, which start without effect."""
    unet.requires_grad_(False)
    adapter = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        init_lora_weights="gaussian",
    )
    try:
        unet.add_adapter(adapter)
    except ValueError as error:
        if "not found" not in str(error):
            raise
        raise ValueError(
            f"train.lora.target_modules {list(config.target_modules)} match no layer of the UNet"
        ) from None


def save_lora(unet: UNet2DConditionModel, state: dict[str, Tensor], folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors` with the true alpha in its metadata.

    `state` holds the adapter's weights by their names in `unet`, gathered from all ranks.
    """
    layers = get_peft_model_state_dict(unet, state_dict=state)
    empty = [name for name, weight in layers.items() if weight.numel() == 0]
    assert layers
    assert not empty, f"LoRA weights were not gathered: {empty}"
    metadata = _collate_lora_metadata({"unet": unet})
    # `load_lora_weights` leaves a dropout that it reads here switched on, and every picture random.
    metadata["unet_lora_adapter_metadata"]["lora_dropout"] = 0.0
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, **metadata)
