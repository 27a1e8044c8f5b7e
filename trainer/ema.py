"""The running average of the weights, on each rank's part of the fp32 masters.

Exactly what an average of the whole weights would be, since averaging is element by element; it
takes no communication, and each rank keeps 1/N of it.
"""

import torch

from trainer.checkpoint import Checkpoint
from trainer.config import EmaConfig
from trainer.masters import Masters

EMA = "ema"


class Ema:
    """An exponential moving average of what this rank answers for."""

    def __init__(self, masters: Masters, config: EmaConfig) -> None:
        self.config = config
        self._masters = masters
        self.averages = {n: flat.clone() for n, flat in masters.masters().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        if step % self.config.every:
            return
        masters = self._masters.masters()
        averages = [self.averages[number] for number in masters]
        # Before start_step the weight of the new is 1: the average begins at that step.
        torch._foreach_lerp_(averages, list(masters.values()), 1 - self.decay(step))

    def decay(self, step: int) -> float:
        """The share of the old average that step `step` keeps, 0 to 1.

        min(decay, (1 + n) / (10 + n)) after n updates, so that a short run averages too: the ramp
        of diffusers' EMAModel, which has it from TensorFlow's ExponentialMovingAverage.
        """
        updates = (step - self.config.start_step) // self.config.every
        if updates <= 0:
            return 0.0
        return min(self.config.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Set the average to the one that was saved."""
        for fragment in self._masters.fragments_of(list(self.averages)):
            self.averages[fragment.flat][fragment.place] = checkpoint.read(EMA, fragment)
