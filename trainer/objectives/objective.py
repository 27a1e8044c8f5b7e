"""What a run learns by: how a batch becomes a loss."""

from abc import ABC, abstractmethod
from typing import Any

from trainer.data.loader import Batch
from trainer.models.family import Family
from trainer.objectives.term import Loss


class Objective(ABC):
    """Asked for the loss of one forward pass after the other."""

    family: Family
    prediction: str
    """What the denoiser predicts once it is trained: epsilon, v_prediction or flow_prediction."""

    @abstractmethod
    def __call__(self, trained: Any, batch: Batch, step: int) -> Loss:
        """The loss of one forward pass of `trained` (an engine, or the plain networks).

        `step` is the number of the optimizer step that it is for, from 0.
        """

    @abstractmethod
    def nothing(self, trained: Any, batch: Batch, step: int) -> Loss:
        """A loss of 0 from a forward pass like any other, in place of one that is broken.

        It has the same scalars as any other of its step: the ranks average them together.
        """

    def long_captions(self, batch: Batch) -> tuple[list[str], int]:
        """Captions whose end the text encoder does not read, and how many tokens it reads."""
        limit = int(self.family.tokenizers[0].model_max_length)
        # A token is a byte at least, and tokenising takes longer than looking.
        candidates = [caption for caption in batch.captions if len(caption.encode()) > limit - 2]
        lengths = self.family.count_tokens(candidates) if candidates else []
        return [c for c, n in zip(candidates, lengths, strict=True) if n > limit], limit
