"""Inception v3 (Szegedy et al. 2016) as TensorFlow's graph of December 2015 has it.

That graph pools by a mean that leaves the padding out, its last block by the maximum instead, and
it knows 1008 classes. Modules are named as in the files of its weights.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOL, CLASSES = 2048, 1008
BATCH_NORM_EPSILON = 1e-3


class Outputs(NamedTuple):
    """What the network says of pictures."""

    pool: Tensor
    """The mean of the last feature map: pictures 2048."""
    logits: Tensor
    """Without the bias, as the Inception Score takes them: pictures 1008."""


class Step(NamedTuple):
    """A convolution in a branch of a block."""

    name: str
    width: int
    """Channels that it puts out."""
    height: int = 1
    across: int = 1
    """Its window is of so many pixels by so many."""
    stride: int = 1


Branch = tuple[Step | tuple[Step, Step], ...]
"""Convolutions in a row; two in the place of one see the same input, and are joined."""


class Plan(NamedTuple):
    """What a block is made of."""

    branches: tuple[Branch, ...]
    pool: Literal["mean", "max", "halve"]
    """What becomes of its input beside them; `halve` is the maximum at half the size."""
    pooled: int = 0
    """Channels that this is projected to; 0 leaves it as it is."""


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation, ReLU."""

    def __init__(self, channels: int, step: Step, *, pad: bool) -> None:
        super().__init__()
        window = (step.height, step.across)
        padding = (step.height // 2, step.across // 2) if pad else 0
        self.conv = nn.Conv2d(channels, step.width, window, step.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(step.width, eps=BATCH_NORM_EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        """pictures channels height width"""
        return F.relu(self.bn(self.conv(maps)))


class Block(nn.Module):
    """Branches of one input, joined with what is pooled of it."""

    def __init__(self, channels: int, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.width = plan.pooled or channels
        for branch in plan.branches:
            self.width += self._add(channels, branch)
        if plan.pooled:
            self.branch_pool = Convolution(channels, Step("pool", plan.pooled), pad=False)

    def forward(self, maps: Tensor) -> Tensor:
        """pictures channels height width"""
        ways = [self._run(branch, maps) for branch in self.plan.branches]
        return torch.cat([*ways, self._pool(maps)], 1)

    def _add(self, width: int, branch: Branch) -> int:
        for place in branch:
            steps = _steps(place)
            for step in steps:
                # What halves the picture takes its inside only.
                convolution = Convolution(width, step, pad=step.stride == 1)
                self.add_module(f"branch{step.name}", convolution)
            width = sum(step.width for step in steps)
        return width

    def _run(self, branch: Branch, maps: Tensor) -> Tensor:
        for place in branch:
            ways = [self.get_submodule(f"branch{step.name}")(maps) for step in _steps(place)]
            maps = torch.cat(ways, 1)
        return maps

    def _pool(self, maps: Tensor) -> Tensor:
        if self.plan.pool == "halve":
            return F.max_pool2d(maps, 3, stride=2)
        if self.plan.pool == "max":
            pooled = F.max_pool2d(maps, 3, stride=1, padding=1)
        else:
            pooled = F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)
        projected: Tensor = self.branch_pool(pooled)
        return projected


class InceptionV3(nn.Module):
    """The network, untrained. A gradient that is asked for reaches the pixels."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for step in STEM:
            self.add_module(step.name, Convolution(channels, step, pad=step.name in PADDED))
            channels = step.width
        for name, plan in BLOCKS.items():
            block = Block(channels, plan)
            self.add_module(name, block)
            channels = block.width
        self.fc = nn.Linear(POOL, CLASSES)

    def forward(self, pixels: Tensor) -> Outputs:
        """Look at pictures of 299 x 299 pixels in about [-1, 1]: pictures 3 299 299."""
        maps = pixels
        for name in (*(step.name for step in STEM), *BLOCKS):
            maps = self.get_submodule(name)(maps)
            if name in HALVED:
                maps = F.max_pool2d(maps, 3, stride=2)
        pool = maps.mean(dim=(2, 3))
        return Outputs(pool, pool @ self.fc.weight.T)


def _steps(place: Step | tuple[Step, Step]) -> tuple[Step, ...]:
    return (place,) if isinstance(place, Step) else place


def _fine(pooled: int) -> Plan:
    """A block at 35 x 35."""
    threes = Step("3x3dbl_1", 64), Step("3x3dbl_2", 96, 3, 3), Step("3x3dbl_3", 96, 3, 3)
    fives = Step("5x5_1", 48), Step("5x5_2", 64, 5, 5)
    return Plan(((Step("1x1", 64),), fives, threes), "mean", pooled)


def _middle(width: int) -> Plan:
    """A block at 17 x 17."""
    sevens = Step("7x7_1", width), Step("7x7_2", width, 1, 7), Step("7x7_3", 192, 7, 1)
    doubled = (
        Step("7x7dbl_1", width),
        *(Step("7x7dbl_2", width, 7, 1), Step("7x7dbl_3", width, 1, 7)),
        *(Step("7x7dbl_4", width, 7, 1), Step("7x7dbl_5", 192, 1, 7)),
    )
    return Plan(((Step("1x1", 192),), sevens, doubled), "mean", 192)


def _coarse(pool: Literal["mean", "max"]) -> Plan:
    """A block at 8 x 8."""
    fork = Step("3x3_2a", 384, 1, 3), Step("3x3_2b", 384, 3, 1)
    doubled = Step("3x3dbl_3a", 384, 1, 3), Step("3x3dbl_3b", 384, 3, 1)
    branches: tuple[Branch, ...] = (
        (Step("1x1", 320),),
        (Step("3x3_1", 384), fork),
        (Step("3x3dbl_1", 448), Step("3x3dbl_2", 384, 3, 3), doubled),
    )
    return Plan(branches, pool, 192)


STEM = (
    *(Step("Conv2d_1a_3x3", 32, 3, 3, 2), Step("Conv2d_2a_3x3", 32, 3, 3)),
    *(Step("Conv2d_2b_3x3", 64, 3, 3), Step("Conv2d_3b_1x1", 80)),
    Step("Conv2d_4a_3x3", 192, 3, 3),
)
PADDED = ("Conv2d_2b_3x3",)
HALVED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
"""What the maximum halves after them."""
TO_MIDDLE: tuple[Branch, ...] = (
    (Step("3x3", 384, 3, 3, 2),),
    (Step("3x3dbl_1", 64), Step("3x3dbl_2", 96, 3, 3), Step("3x3dbl_3", 96, 3, 3, 2)),
)
TO_COARSE: tuple[Branch, ...] = (
    (Step("3x3_1", 192), Step("3x3_2", 320, 3, 3, 2)),
    (
        *(Step("7x7x3_1", 192), Step("7x7x3_2", 192, 1, 7)),
        *(Step("7x7x3_3", 192, 7, 1), Step("7x7x3_4", 192, 3, 3, 2)),
    ),
)
BLOCKS = {
    "Mixed_5b": _fine(32),
    "Mixed_5c": _fine(64),
    "Mixed_5d": _fine(64),
    "Mixed_6a": Plan(TO_MIDDLE, "halve"),
    "Mixed_6b": _middle(128),
    "Mixed_6c": _middle(160),
    "Mixed_6d": _middle(160),
    "Mixed_6e": _middle(192),
    "Mixed_7a": Plan(TO_COARSE, "halve"),
    "Mixed_7b": _coarse("mean"),
    "Mixed_7c": _coarse("max"),
}
