"""Rewards that are the farm's own scores, on its scales, as functions of pixels."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainer.models.aesthetic import AestheticHead
from trainer.models.clip import Clip
from trainer.models.hps import Hps
from trainer.models.pick_score import PickScore
from trainer.objectives.rewards.reward import Judged, Reward

Find = Callable[[str], Path]
"""Where a network of the recipe lies; ValueError says what to do if it does not."""
Score = Callable[[Tensor, Sequence[str]], Tensor]


def open_clip_score(find: Find, device: str) -> Reward:
    """100 cosines of picture and prompt."""
    clip = Clip(find("clip"), device)
    return _always(lambda pixels, prompts: 100 * clip.cosines(pixels, prompts))


def open_aesthetic(find: Find, device: str) -> Reward:
    """LAION's rating, nominally 1 to 10; the prompt does not count."""
    head = AestheticHead(find("aesthetic")).to(device)
    clip = Clip(find("clip_l14"), device)
    return _always(lambda pixels, _: head(clip.vectors(pixels)))


def open_pick_score(find: Find, device: str) -> Reward:
    """PickScore's points, of each picture with its own prompt."""
    return _always(PickScore(find("pick_score"), device).score)


def open_hps(find: Find, device: str, network: str) -> Reward:
    """100 cosines of HPS v2 or v2.1; the tokenizer is that of any CLIP."""
    hps = Hps(find(network), find("clip_l14"), device)
    return _always(lambda pixels, prompts: 100 * hps.score(pixels, prompts))


def _always(score: Score) -> Reward:
    def judge(pixels: Tensor, prompts: Sequence[str]) -> Judged:
        values = score(pixels, prompts)
        return Judged(values, torch.ones_like(values, dtype=torch.bool))

    return judge
