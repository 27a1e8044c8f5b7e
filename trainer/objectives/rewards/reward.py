"""What judges pictures, differentiably."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor


class Judged(NamedTuple):
    """What a reward says of a batch."""

    values: Tensor
    """fp32, batch; more is better. 0 for a picture of which it can say nothing."""
    judged: Tensor
    """bool, batch: whether it could."""
    counts: Mapping[str, int] = {}
    """What it could not judge, or not as it should, by why."""


Reward = Callable[[Tensor, Sequence[str]], Judged]
"""Of RGB in [0, 1], batch 3 height width, and their prompts. Its networks are frozen, the gradient
reaches the pixels, and a picture is judged alike whatever it is in a batch with."""
