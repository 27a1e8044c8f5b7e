"""Connectionist temporal classification (Graves et al. 2006): how likely a text is to be read."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def ctc_per_step(log_probabilities: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """-log P of each text (its classes) by log probabilities batch time classes, over time: batch.

    Class 0 is the blank. A text that the time is too short for has no loss but infinity.
    """
    lines, time = log_probabilities.shape[:2]
    losses = F.ctc_loss(
        log_probabilities.transpose(0, 1),
        torch.tensor([c for text in texts for c in text], device=log_probabilities.device),
        input_lengths=torch.full((lines,), time),
        target_lengths=torch.tensor([len(text) for text in texts]),
        reduction="none",
    )
    return losses / time


def steps_needed(text: Sequence[object]) -> int:
    """The fewest time steps that can say a text: a blank has to stand between two of a kind."""
    return len(text) + sum(first == second for first, second in pairwise(text))
