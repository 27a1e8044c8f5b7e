"""The diffusion objective: predict the noise, the velocity or the flow in a noised latent."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data.loader import Batch
from trainer.models.dtypes import DTYPES
from trainer.models.family import Conditioning, Family, TokenIds
from trainer.objectives.config import ObjectiveConfig
from trainer.objectives.noising import (
    Schedule,
    min_snr_weight,
    offset_noise,
    schedule_of,
)
from trainer.objectives.objective import Objective
from trainer.objectives.randomness import draw
from trainer.objectives.term import Denoised, Loss, Said
from trainer.objectives.terms import gradient_shares, open_terms, said_by, sample_weights

DENOISING = "denoising"  # the name of the loss that is always there


class Denoising(Objective):
    """Squared error between what the network predicts and what it should, weighted and masked."""

    def __init__(self, family: Family, config: TrainConfig) -> None:
        self.family = family
        self.seed = config.seed
        self.config: ObjectiveConfig = config.objective
        self.prediction = predicted_by(family, config)
        self.schedule: Schedule = schedule_of(family.scheduler, self.prediction, family.device)
        self.num_timesteps = self.schedule.num_timesteps
        self.terms = open_terms(family, config.objective)
        self._dtype = DTYPES[config.precision]
        self._captions_in_engine = config.text_encoder != "frozen"

    def __call__(self, trained: Any, batch: Batch, step: int) -> Loss:
        """The recipe's terms on a batch's pictures with noise of their own."""
        draws = draw(
            batch.positions,
            seed=self.seed,
            latent_shape=self.latent_shape(batch),
            num_timesteps=self.num_timesteps,
            caption_dropout=self.config.caption_dropout,
        )
        latents = self.latents(batch, draws.posterior)
        noise = offset_noise(draws.noise, draws.offset, self.config.noise_offset).to(latents)
        captions = self.told(batch, draws.drop_caption)
        denoised = self.denoise(trained, latents, noise, draws.timesteps, captions, batch)
        return self.add_up(denoised, batch, step)

    def denoise(
        self,
        trained: Any,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        captions: TokenIds | Conditioning,
        batch: Batch,
    ) -> Denoised:
        """What `trained` answers to these latents with this noise at these timesteps."""
        noise, timesteps = noise.to(latents), timesteps.to(latents.device)
        # Mixed in fp32: bf16 would round the first alphas to 1, and their noise away.
        noised = self.schedule.add_noise(latents, noise, timesteps)
        shown = noised.to(self._dtype)
        told, sizes = self.schedule.told[timesteps], batch.sizes.to(latents.device)
        predicted = trained(self.family.predict, shown, told, captions, sizes)
        return Denoised(
            schedule=self.schedule,
            prediction=self.prediction,
            latents=latents,
            noise=noise,
            timesteps=timesteps,
            noised=noised,
            # A copy: DeepSpeed takes any gradient at its own answer for the start of a backward
            # pass, also one that only measures shares.
            predicted=predicted.to(torch.float32, copy=True),
        )

    def add_up(self, denoised: Denoised, batch: Batch, step: int) -> Loss:
        """The denoising loss and the recipe's other terms, by their weights in this step."""
        weights = self._weights(step)
        errors = self.weigh(denoised.errors, denoised.timesteps, batch)
        said = {DENOISING: Said(errors * sample_weights(self.config.denoising, denoised))}
        said |= {n: said_by(self.terms[n], denoised, batch) for n in weights if n != DENOISING}
        means = {name: one.losses.mean() for name, one in said.items()}
        parts = {name: weights[name] * mean for name, mean in means.items()}
        shares = gradient_shares(parts, denoised.predicted) if self._measures_shares(step) else {}
        return Loss(
            total=torch.stack(list(parts.values())).sum(),
            scalars=_scalars({name: mean.detach() for name, mean in means.items()}, shares),
            counts={f"{n}_{why}": k for n, one in said.items() for why, k in one.counts.items()},
        )

    def _weights(self, step: int) -> dict[str, float]:
        """The terms that count in a step."""
        configs = {name: term.config for name, term in self.terms.items()}
        weights = {name: config.weight_at(step) for name, config in configs.items()}
        plain = {DENOISING: self.config.denoising.weight_at(step)}
        return plain | {name: weight for name, weight in weights.items() if weight}

    def _measures_shares(self, step: int) -> bool:
        every = self.config.gradient_shares_every
        return every > 0 and step % every == 0

    def weigh(self, errors: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        """Each sample's mean of the errors under its mask, by its weight: batch."""
        if batch.masks is not None:
            errors = errors * _mask_weights(batch.masks.to(errors), errors, self.config)
        losses = errors.mean(dim=(1, 2, 3))
        if self.config.min_snr_gamma:
            snr = self.schedule.snr(timesteps.to(errors.device))
            losses = losses * min_snr_weight(snr, self.config.min_snr_gamma, self.prediction)
        return losses

    def nothing(self, trained: Any, batch: Batch, step: int) -> Loss:
        """A loss of 0 from a forward pass on blank latents."""
        blank = torch.zeros(len(batch.positions), *self.latent_shape(batch))
        latents = blank.to(self.family.device)
        timesteps = torch.zeros(len(batch.positions), dtype=torch.int64)
        captions = self.captions([""] * len(batch.positions))
        denoised = self.denoise(trained, latents, latents, timesteps, captions, batch)
        zero = denoised.predicted.mean() * 0
        zeros = dict.fromkeys(self._weights(step), zero.detach())
        return Loss(
            total=zero, scalars=_scalars(zeros, zeros if self._measures_shares(step) else {})
        )

    def latent_shape(self, batch: Batch) -> tuple[int, int, int]:
        """Channels, height and width of a batch's latents; ValueError if the model takes none."""
        if batch.posterior is not None:
            channels, height, width = batch.posterior.shape[2:]
            return channels, height, width
        assert batch.images is not None, "a batch has pictures or their posterior"
        height, width = batch.images.shape[2:]
        return self.family.latent_shape(height, width, "the samples are")

    def latents(self, batch: Batch, posterior: Tensor) -> Tensor:
        """The scaled latents of a batch's pictures, fp32."""
        if batch.images is not None:
            return self.family.encode_images(batch.images, posterior).float()
        assert batch.posterior is not None, "a batch has pictures or their posterior"
        mean, std = batch.posterior.to(self.family.device).unbind(1)
        return self.family.scale_latents(mean + std * posterior.to(mean)).float()

    def told(self, batch: Batch, drop_caption: Sequence[bool]) -> TokenIds | Conditioning:
        """A batch's captions as `Trained` takes them, those that are dropped as empty ones."""
        if batch.text is None:
            pairs = zip(batch.captions, drop_caption, strict=True)
            return self.captions(["" if drop else caption for caption, drop in pairs])
        empty = len(drop_caption)
        rows = [empty if drop else row for row, drop in enumerate(drop_caption)]
        device = self.family.device
        return Conditioning(**{name: text[rows].to(device) for name, text in batch.text.items()})

    def captions(self, captions: Sequence[str]) -> TokenIds | Conditioning:
        """Captions as `Trained` takes them: tokens where their encoders learn, else embeddings."""
        ids = self.family.tokenize(captions)
        if self._captions_in_engine:
            return ids
        with torch.no_grad():
            return self.family.encode_tokens(ids)


def predicted_by(family: Family, config: TrainConfig) -> str:
    """What the denoiser learns to predict; ValueError if it cannot be trained so."""
    made_for = str(family.scheduler.config.prediction_type)
    wanted: str = config.objective.prediction
    if wanted == "as_model":
        wanted = made_for
    elif config.unet != "full" and wanted != made_for:
        raise ValueError(
            f"train.objective.prediction {wanted} needs every weight of a model made for "
            f"{made_for}: leave it as_model, or set train.unet to full"
        )
    if wanted not in ("epsilon", "v_prediction", "flow_prediction"):
        raise ValueError(
            f"the model predicts {wanted!r}: only epsilon, v_prediction and flow_prediction are "
            "trained"
        )
    return wanted


def _scalars(losses: Mapping[str, Tensor], shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"loss_{name}": loss for name, loss in losses.items()} | {
        f"gradient_share_{name}": share for name, share in shares.items()
    }


def _mask_weights(masks: Tensor, errors: Tensor, config: ObjectiveConfig) -> Tensor:
    """The weight of each latent (batch 1 h w) from masks of pixels (batch 1 height width).

    1 outside the mask and `mask_weight` inside, by the share of a latent's pixels that it covers,
    scaled to a mean of 1 over each picture: the mask moves attention, not the learning rate.
    """
    height, width = errors.shape[2:]
    share = F.adaptive_avg_pool2d(masks, (height, width))
    weights = 1 + (config.mask_weight - 1) * share
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)
