"""Tuning by rewards: pictures are drawn of prompts and judged, and the judges' gradient is climbed.

As TextCraftor (Li et al. 2024) does it: a chain of sampling steps, of which the last few are learnt
through. What is trained is asked in one forward pass of the engine; the autoencoder and the rewards
are frozen and stay outside of it.
"""

import math
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data.loader import Batch
from trainer.models.dtypes import DTYPES
from trainer.models.family import Conditioning, Family, TokenIds
from trainer.objectives.decoding import decode
from trainer.objectives.denoising import predicted_by
from trainer.objectives.objective import Objective
from trainer.objectives.randomness import first_noise
from trainer.objectives.reward_config import RewardConfig, RewardName
from trainer.objectives.rewards.loading import open_rewards
from trainer.objectives.rewards.reward import Judged
from trainer.objectives.sampling import Chain, Cut, cut_at
from trainer.objectives.term import Loss


class Drawn(NamedTuple):
    """What a forward pass has drawn."""

    latents: Tensor
    """Scaled, fp32: batch channels h w."""
    distance: Tensor
    """Mean squared distance of the captions' embeddings from those of the original encoder."""


class RewardTuning(Objective):
    """Less the rewards' weighted means, plus what pulls the text encoder back."""

    def __init__(self, family: Family, config: TrainConfig) -> None:
        """Before the text encoder is trained: a copy of it is kept. ValueError says what lacks."""
        assert config.reward is not None
        self.family = family
        self.config: RewardConfig = config.reward
        self.seed = config.seed
        self.prediction = predicted_by(family, config)
        self.chain = Chain(family, self.prediction, config.reward)
        height, width = config.reward.height, config.reward.width
        self.latent_shape = family.latent_shape(height, width, "train.reward draws")
        self._text_learns = config.text_encoder != "frozen"
        self.original = _frozen(family, config) if self._text_learns else family
        self.rewards = open_rewards(config.reward, family.device)

    def __call__(self, trained: Any, batch: Batch, step: int) -> Loss:
        """What the pictures of a batch's prompts cost, drawn from noise of their own."""
        noise = first_noise(batch.positions, seed=self.seed, latent_shape=self.latent_shape)
        drawn = self.draw(trained, batch.captions, noise, batch.sizes, self.cut(step))
        return self.add_up(self.judge(self.decode(drawn.latents), batch.captions), drawn)

    def cut(self, step: int) -> Cut:
        """Through which steps of the sampler an optimizer step learns."""
        return cut_at(self.config, seed=self.seed, step=step)

    def draw(
        self, trained: Any, captions: list[str], noise: Tensor, sizes: Tensor, cut: Cut
    ) -> Drawn:
        """Pictures of captions in latents, by `trained`; noise is batch channels h w."""
        ids = self.family.tokenize([*captions, ""])
        with torch.no_grad():
            early = self.original.encode_tokens(ids)
        device = self.family.device
        drawn: Drawn = trained(self._draw, ids, early, noise.to(device), sizes.to(device), cut)
        return drawn

    def _draw(
        self, ids: TokenIds, early: Conditioning, noise: Tensor, sizes: Tensor, cut: Cut
    ) -> Drawn:
        """What happens in the engine; each caption is encoded once, however often it is told."""
        late = self.family.encode_tokens(ids) if self._text_learns else early
        return Drawn(self.chain(noise, early, late, sizes, cut), _distance(late, early))

    def decode(self, latents: Tensor) -> Tensor:
        """RGB in [0, 1], batch 3 height width."""
        return decode(self.family, latents).clamp(0, 1)

    def judge(self, pixels: Tensor, captions: list[str]) -> dict[str, Judged]:
        """What each reward says; those that are only watched without a gradient."""
        judged = {}
        for name, reward in self.rewards.items():
            with torch.set_grad_enabled(name in self.config.rewards and torch.is_grad_enabled()):
                judged[name] = _of_captions(reward(pixels, captions), captions)
        return judged

    def add_up(self, judged: Mapping[str, Judged], drawn: Drawn) -> Loss:
        """The loss, and the mean of each reward: of all pictures, those not judged as 0."""
        means = {name: one.values.float().mean() for name, one in judged.items()}
        parts = [
            -weight * self._climbed(name, judged[name].values.float()).mean()
            for name, weight in self.config.rewards.items()
        ]
        parts.append(drawn.latents.mean() * 0)  # a gradient, where no picture could be judged
        if self.config.pull:
            parts.append(self.config.pull * drawn.distance)
        return Loss(
            total=torch.stack(parts).sum(),
            scalars=self._scalars(means, judged, drawn.distance),
            counts={f"{n}_{why}": k for n, one in judged.items() for why, k in one.counts.items()},
        )

    def _climbed(self, reward: RewardName, values: Tensor) -> Tensor:
        """Values without a gradient where they are enough: `relu(enough - value)` of ReFL."""
        return values.clamp(max=self.config.enough.get(reward, math.inf))

    def nothing(self, trained: Any, batch: Batch, step: int) -> Loss:
        """A loss of 0 from pictures of nothing, which are not judged."""
        captions = [""] * len(batch.positions)
        noise = torch.zeros(len(captions), *self.latent_shape)
        drawn = self.draw(trained, captions, noise, batch.sizes, self.cut(step))
        zeros = torch.zeros(len(captions), device=self.family.device)
        judged = dict.fromkeys(self.rewards, Judged(zeros, zeros.bool()))
        means = {name: zeros.mean() for name in judged}
        return Loss(
            total=(drawn.latents.mean() + drawn.distance) * 0,
            scalars=self._scalars(means, judged, zeros.mean()),
        )

    def _scalars(
        self, means: Mapping[str, Tensor], judged: Mapping[str, Judged], distance: Tensor
    ) -> dict[str, Tensor]:
        scalars = {f"reward_{name}": mean.detach() for name, mean in means.items()}
        scalars |= {f"judged_{name}": one.judged.float().mean() for name, one in judged.items()}
        return scalars | ({"distance": distance.detach()} if self._text_learns else {})


def _frozen(family: Family, config: TrainConfig) -> Family:
    """The family with text encoders of its own, as they are now, in the dtype of the run."""
    dtype = DTYPES[config.precision]
    encoders = {name: deepcopy(one).to(dtype) for name, one in family.text_encoders.items()}
    return replace(family, text_encoders=encoders)


def _distance(late: Conditioning, early: Conditioning) -> Tensor:
    """The mean over the elements of both parts, where there are two."""
    squares = [
        (tuned.float() - original.float()).square().flatten()
        for tuned, original in zip(late, early, strict=True)
        if tuned is not None and original is not None
    ]
    return torch.cat(squares).mean()


def _of_captions(judged: Judged, captions: list[str]) -> Judged:
    """Without what was judged of a picture that nobody asked for."""
    told = torch.tensor([bool(c.strip()) for c in captions], device=judged.values.device)
    counts = Counter(judged.counts)
    counts["empty_caption"] += int((~told & judged.judged).sum())
    values = torch.where(told, judged.values, torch.zeros_like(judged.values))
    return Judged(values, judged.judged & told, counts)
