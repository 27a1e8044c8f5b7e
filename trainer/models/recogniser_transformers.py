"""Text recognisers out of folders of transformers, such as `pp_ocrv6_small_rec`."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cluster.config import read_yaml
from trainer.models.digest import SHORT, weights_digest
from trainer.models.networks import MissingNetwork
from trainer.models.recogniser_files import HEIGHT_PX, RecogniserFiles, characters_of

RED_FIRST = "pp_ocrv5"
"""Whose processor in transformers shows red first; that of v6 shows blue first, as PaddleOCR."""


class TransformersNetwork(nn.Module):
    """A text recogniser of transformers, read at its last layer."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model = model
        (self.last,) = (
            name
            for name, part in model.named_modules()
            if isinstance(part, nn.Linear) and part.out_features == classes
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features, in the precision of `inputs`."""
        seen: list[Tensor] = []  # its own output is the softmax, of which small values are lost
        layer = self.model.get_submodule(self.last)
        hook = layer.register_forward_hook(lambda _, given, made: seen.extend((made, *given)))
        floats = {
            name: value.to(inputs.dtype)
            for name, value in self.model.state_dict(keep_vars=True).items()
            if value.is_floating_point()
        }
        try:
            functional_call(self.model, floats, (inputs,))
        finally:
            hook.remove()
        logits, features = seen
        return logits, features


def read_transformers(folder: Path, name: str) -> RecogniserFiles:
    """A folder as `save_pretrained` writes it, with the settings of its processor."""
    from transformers import AutoModelForTextRecognition
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_RECOGNITION_MAPPING_NAMES

    kind = str(read_yaml(folder / "config.json").get("model_type"))  # JSON is YAML
    if kind not in MODEL_FOR_TEXT_RECOGNITION_MAPPING_NAMES:
        raise ValueError(f"{folder} is no text recogniser: its config.json says {kind}")
    try:
        model, found = AutoModelForTextRecognition.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        settings: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(folder)[0]
    except OSError as error:
        first = str(error).partition("\n")[0]
        raise MissingNetwork(f"{folder} is not whole ({first}): fetch it again") from None
    settings_lacking = {"character_list", "image_mean", "image_std"} - set(settings)
    if lacking := sorted({*found["missing_keys"], *settings_lacking}):
        raise ValueError(f"{folder} is not whole: it lacks {', '.join(lacking[:3])}")
    classes = model.config.head_out_channels
    return RecogniserFiles(
        network=TransformersNetwork(model, classes),
        characters=characters_of(settings["character_list"], classes, folder),
        name=f"{name}@{weights_digest(folder)[:SHORT]}",
        height_px=settings.get("size", {}).get("height", HEIGHT_PX),
        mean=tuple(settings["image_mean"]),
        std=tuple(settings["image_std"]),
        blue_first=not kind.startswith(RED_FIRST),
    )
