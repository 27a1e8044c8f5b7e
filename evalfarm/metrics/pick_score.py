"""PickScore: which picture would people pick for this prompt?

    s(picture, prompt) = exp(logit scale) * cos(picture, prompt)        Kirstain et al. 2023

of PickScore_v1, a CLIP-H trained on choices of people; the scale is 100. Points, at most 100, in
practice 17 to 24; higher is better.

    diagonal   the mean of each picture with its own prompt
    matrix4    the mean of every picture of four prompts with every one of the four, three quarters
               of them not its own; only to compare with the table of TextCraftor (Li et al. 2024),
               which was computed so. Prompts 0 to 3 are the first four; a rest counts by its size.
"""

import numpy as np
import torch

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.rows import Rows
from trainer.models.config import NetworksConfig
from trainer.models.pick_score import PickScore as PickScoreNetwork

TITLES = {"diagonal": "PickScore", "matrix4": "PickScore 4×4"}
CHUNK = 4
"""Prompts at a time, in TextCraftor's evaluation."""


@register("pick_score")
class PickScore(ConfiguredMetric):
    """Mean score of pictures and prompts."""

    modes = tuple(TITLES)
    weights = ("pick_score",)
    resamples = 0  # of prompts drawn twice, matrix4 would pair a picture with its own prompt twice

    def __init__(self, mode: str, networks: NetworksConfig) -> None:
        super().__init__(mode, networks)
        self.columns = (
            Column(
                name="score",
                title=TITLES[mode],
                unit="points",
                higher_is_better=True,
                mean_of="score" if mode == "diagonal" else None,
            ),
        )

    def look(self, batch: Batch) -> list[Seen]:
        """Its score, or for the matrix both its vectors: it needs those of other pictures too."""
        images, texts = batch.once("pick_score", lambda: _vectors(batch))
        if self.mode == "matrix4":
            return [Seen(features=row) for row in torch.cat([images, texts], dim=1).numpy()]
        return [Seen(numbers={"score": score}) for score in (images * texts).sum(dim=1).tolist()]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The mean over pictures, or over all pairs within each four prompts."""
        return {"score": matrix_mean(rows)} if self.mode == "matrix4" else self.means(rows)


def matrix_mean(rows: Rows) -> float:
    """The mean over chunks, by their pictures, of the mean over all pairs in a chunk.

    A chunk is what there is of one sample of four consecutive prompts. Features are a picture's
    vector, times the scale, and its prompt's.
    """
    assert rows.features is not None
    chunks = np.stack([rows.samples, rows.prompts // CHUNK])
    _, which = np.unique(chunks, axis=1, return_inverse=True)
    images, texts = np.split(rows.features.astype(np.float64), 2, axis=1)
    sums = 0.0
    for chunk in range(which.max() + 1):
        members = which == chunk
        sums += (images[members] @ texts[members].T).mean() * members.sum()
    return float(sums / len(rows))


def _vectors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    device = batch.networks.device
    network = batch.networks.load("pick_score", lambda path: PickScoreNetwork(path, device))
    return network.scale * network.clip.images(batch.images), network.clip.texts(batch.prompts)
