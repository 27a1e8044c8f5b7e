"""What is trained, as one module for one engine."""

from torch import Tensor, nn

from trainer.config import LoraConfig, TrainConfig
from trainer.models.family import Conditioning, Family, TokenIds
from trainer.models.lora import add_lora


class Trained(nn.Module):
    """The trained networks of a family under their own names; what is frozen stays outside.

    So the weights are called `unet.…` and `text_encoder.…`, ZeRO splits only what it must, and a
    checkpoint holds nothing that the model's folder holds already.
    """

    def __init__(self, family: Family, config: TrainConfig) -> None:
        super().__init__()
        self._family = (family,)  # in a tuple: its frozen networks are none of our submodules
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

    def forward(
        self,
        noised: Tensor,
        timesteps: Tensor,
        captions: TokenIds | Conditioning,
        sizes: Tensor,
    ) -> Tensor:
        """The denoiser's answer, of the shape of `noised` (batch channels h w).

        Captions are tokens if their encoders are trained (see `Denoising`), else embeddings.
        """
        (family,) = self._family
        if not isinstance(captions, Conditioning):
            captions = family.encode_tokens(captions)
        return family.denoise(noised, timesteps, captions, sizes)


def _targets(name: str, family: Family, config: LoraConfig) -> tuple[str, ...]:
    if name in family.text_encoders:
        return config.text_encoder_target_modules
    return config.target_modules
