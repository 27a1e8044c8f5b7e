"""What is trained, as one module for one engine."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from trainer.config import LoraConfig, TrainConfig
from trainer.models.family import Family
from trainer.models.lora import add_lora

Answer = TypeVar("Answer")


class Trained(nn.Module):
    """The trained networks of a family under their own names; what is frozen stays outside.

    So the weights are called `unet.…` and `text_encoder.…`, ZeRO splits only what it must, and a
    checkpoint holds nothing that the model's folder holds already.
    """

    def __init__(self, family: Family, config: TrainConfig) -> None:
        super().__init__()
        for name, network in family.networks.items():
            if config.how(name) == "frozen":
                continue
            if config.how(name) == "lora":
                lora = config.lora or LoraConfig()
                add_lora(network, lora, _targets(name, family, lora))
            else:
                network.requires_grad_(True)
            self.add_module(name, network)
        self.train()

    def forward(self, compute: Callable[..., Answer], *arguments: Any) -> Answer:
        """What `compute` makes of the arguments, whatever trained networks it asks on the way.

        So an engine sees one forward pass, whether a network is asked once or ten times in it.
        """
        return compute(*arguments)


def _targets(name: str, family: Family, config: LoraConfig) -> tuple[str, ...]:
    if name in family.text_encoders:
        return config.text_encoder_target_modules
    return config.target_modules
