"""The diffusion objective: predict the noise, or the velocity, in a noised latent."""

from typing import Any

import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data.loader import Batch
from trainer.models.family import Conditioning, Family, TokenIds
from trainer.objectives.randomness import Draws, draw


class Denoising:
    """Mean squared error between what the network predicts and what was mixed in."""

    def __init__(self, family: Family, config: TrainConfig) -> None:
        self.family = family
        self.seed = config.seed
        self.caption_dropout = config.objective.caption_dropout
        self.prediction: str = config.objective.prediction
        if self.prediction == "as_model":
            self.prediction = family.scheduler.config.prediction_type
        elif config.unet != "full" and self.prediction != family.scheduler.config.prediction_type:
            raise ValueError(
                f"train.objective.prediction {self.prediction} needs every weight of a model made "
                f"for {family.scheduler.config.prediction_type}: leave it as_model, or unet full"
            )
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"the model predicts {self.prediction!r}: only epsilon and v_prediction are trained"
            )
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.captions_in_engine = config.text_encoder != "frozen"
        self.alphas_cumprod = family.scheduler.alphas_cumprod.to(family.device)

    def __call__(self, trained: Any, batch: Batch) -> Tensor:
        """The loss of one forward pass of `trained` (an engine, or the plain networks)."""
        family, scale = self.family, self.family.latent_scale
        height, width = batch.images.shape[2:]
        if height % scale or width % scale:
            raise ValueError(
                f"the samples are {width} x {height} pixels: this model takes multiples of {scale}"
            )
        draws = draw(
            batch.positions,
            seed=self.seed,
            latent_shape=(family.vae.config.latent_channels, height // scale, width // scale),
            num_timesteps=len(self.alphas_cumprod),
            caption_dropout=self.caption_dropout,
        )
        # In fp32: bf16 would round the first alphas to 1, and their noise away.
        latents = family.encode_images(batch.images, draws.posterior).float()
        captions = self._captions(batch, draws)
        noise = draws.noise.to(latents)
        timesteps = draws.timesteps.to(latents.device)
        alphas = self.alphas_cumprod[timesteps]
        noised = add_noise(latents, noise, alphas).to(self.dtype)
        predicted = trained(noised, timesteps, captions, whole_pictures(batch).to(latents.device))
        return mean_squared_error(predicted, target(self.prediction, latents, noise, alphas))

    def _captions(self, batch: Batch, draws: Draws) -> TokenIds | Conditioning:
        captions = [
            "" if drop else caption
            for caption, drop in zip(batch.captions, draws.drop_caption, strict=True)
        ]
        ids = self.family.tokenize(captions)
        if self.captions_in_engine:
            return ids
        with torch.no_grad():
            return self.family.encode_tokens(ids)


def whole_pictures(batch: Batch) -> Tensor:
    """The framing (batch 6, as `Family.denoise` takes it) of pictures that nothing was cut from."""
    height, width = batch.images.shape[2:]
    return torch.tensor([[height, width, 0, 0, height, width]] * len(batch.positions))


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) e, with one a per sample (Ho et al. 2020)."""
    a = alphas_cumprod.view(-1, 1, 1, 1)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def target(prediction: str, latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What the network should answer.

    epsilon: the noise e. v_prediction: sqrt(a) e - sqrt(1 - a) x_0 (Salimans & Ho 2022).
    """
    if prediction == "epsilon":
        return noise
    assert prediction == "v_prediction", prediction
    a = alphas_cumprod.view(-1, 1, 1, 1)
    return a.sqrt() * noise - (1 - a).sqrt() * latents


def mean_squared_error(predicted: Tensor, wanted: Tensor) -> Tensor:
    """The mean over all elements, in fp32 whatever the dtype of the network."""
    return (predicted.float() - wanted.float()).square().mean()
