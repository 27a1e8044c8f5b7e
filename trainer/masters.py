"""What the optimizer steps on: this rank's fp32 master weights and AdamW's moments of them.

DeepSpeed keeps them flat and cuts them over the ranks, at each stage in a way of its own. Here they
are a list of flat tensors and a list of fragments, which say what part of which weight lies where;
with that, averaging, saving and loading are the same at every stage and for any number of ranks.
The attributes of DeepSpeed that are read here are internal: its version is pinned, and
tests/integration/test_elastic.py compares every stage with plain torch.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")


class Fragment(NamedTuple):
    """Where a part of a weight lies."""

    weight: str
    offset: int
    """Its first element in the flattened weight."""
    numel: int
    flat: int
    """The number of the flat tensor that holds it."""
    start: int
    """Its first element there."""


Read = Callable[[str, Fragment], Tensor]
"""Answers a kind of tensor (MASTER or one of MOMENTS) and a fragment with its values, fp32, 1-D."""
Named = list[tuple[str, Tensor]]


class Masters:
    """This rank's part of the trained weights, as DeepSpeed laid it out."""

    def __init__(self, engine: Any, rank: int, ranks: int) -> None:
        weights = [(n, w) for n, w in engine.module.named_parameters() if w.requires_grad]
        stage = engine.zero_optimization_stage()
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(weight.ds_shape if stage == 3 else weight.shape) for name, weight in weights
        }
        optimizer = engine.optimizer
        self.optimizer: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        if stage == 0:
            self.flats = [master for group in _whole_groups(optimizer) for master in group]
            self.fragments = list(_whole(weights, self.flats, optimizer))
            self.mine = _share(self.flats, rank, ranks)
        elif stage == 3:
            self.flats = list(optimizer.fp32_partitioned_groups_flat)
            self.fragments = list(_split_each(weights, optimizer, rank))
            self.mine = list(range(len(self.flats)))
        else:
            self.flats = list(optimizer.single_partition_of_fp32_groups)
            self.fragments = list(_split_all(weights))
            self.mine = list(range(len(self.flats)))
        assert all(flat.dtype == torch.float32 for flat in self.flats)

    def tensors(self, kind: str) -> dict[int, Tensor]:
        """The flat tensors that this rank answers for, by number: masters, or one of MOMENTS.

        Without ZeRO every rank holds all weights, and answers for its share of them. Moments are
        there after the first step.
        """
        if kind == MASTER:
            return {number: self.flats[number].detach().view(-1) for number in self.mine}
        state = self.optimizer.state
        return {
            number: state[self.flats[number]][kind].detach().view(-1)
            for number in self.mine
            if self.flats[number] in state
        }

    def fragments_of(self, numbers: list[int]) -> list[Fragment]:
        """What lies in these flat tensors."""
        wanted = set(numbers)
        return [fragment for fragment in self.fragments if fragment.flat in wanted]

    @torch.no_grad()
    def load(self, read: Read) -> None:
        """Set the masters; the weights that the networks compute with must be these already."""
        for fragment in self.fragments:
            flat = self.flats[fragment.flat].view(-1)
            flat[fragment.start : fragment.start + fragment.numel] = read(MASTER, fragment)

    @torch.no_grad()
    def load_moments(self, read: Read, step: int) -> None:
        """Set AdamW's state to what it was after `step` steps."""
        for flat in self.flats:
            state = {kind: torch.zeros_like(flat) for kind in MOMENTS}
            self.optimizer.state[flat] = {"step": self._step(flat, step), **state}
        for fragment in self.fragments:
            state = self.optimizer.state[self.flats[fragment.flat]]
            for kind in MOMENTS:
                part = slice(fragment.start, fragment.start + fragment.numel)
                state[kind].view(-1)[part] = read(kind, fragment)

    def _step(self, flat: Tensor, step: int) -> Tensor:
        fused = self.optimizer.defaults.get("fused")
        return torch.tensor(float(step), device=flat.device if fused else "cpu")


def _whole_groups(optimizer: Any) -> list[list[Tensor]]:
    """Stage 0: in fp32 the weights are their own masters, in bf16 DeepSpeed has copies."""
    if hasattr(optimizer, "fp32_groups"):
        return list(optimizer.fp32_groups)
    return [group["params"] for group in optimizer.param_groups]


def _whole(weights: Named, masters: list[Tensor], optimizer: Any) -> Iterator[Fragment]:
    """Stage 0: a flat tensor for each weight, in the order of the optimizer's groups."""
    copied = getattr(optimizer, "fp16_groups", None)
    groups = copied or [group["params"] for group in optimizer.param_groups]
    name_of = {id(weight): name for name, weight in weights}
    for number, weight in enumerate(weight for group in groups for weight in group):
        assert weight.numel() == masters[number].numel()
        yield Fragment(name_of[id(weight)], 0, weight.numel(), number, 0)


def _split_all(weights: Named) -> Iterator[Fragment]:
    """Stages 1 and 2: all weights of a group in one row, which is cut into equal parts."""
    for name, weight in weights:
        mapping = weight._hp_mapping  # type: ignore[attr-defined]
        if mapping is not None:
            low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
            yield Fragment(name, low.start, low.numel, mapping.param_group_index, high.start)


def _split_each(weights: Named, optimizer: Any, rank: int) -> Iterator[Fragment]:
    """Stage 3: each weight is cut into equal parts, the last one padded."""
    for name, weight in weights:
        group, start, padded = optimizer.grad_position[optimizer.get_param_id(weight)]
        offset = rank * padded
        numel = min(padded, weight.ds_numel - offset)  # type: ignore[attr-defined]
        if numel > 0:
            yield Fragment(name, offset, numel, group, start)


def _share(flats: list[Tensor], rank: int, ranks: int) -> list[int]:
    """The tensors that a rank answers for where all hold all: about as many elements each."""
    load = [0] * ranks
    mine = []
    for number in sorted(range(len(flats)), key=lambda n: -flats[n].numel()):
        least = load.index(min(load))
        load[least] += flats[number].numel()
        if least == rank:
            mine.append(number)
    return sorted(mine)
