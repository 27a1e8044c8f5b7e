"""What the optimizer steps on: this rank's fp32 master weights and AdamW's moments of them.

DeepSpeed keeps them flat and cuts them over the ranks, at each stage in a way of its own. Here they
are a list of flat tensors and a list of fragments, which say what part of which weight lies where;
with that, averaging, saving and loading are the same at every stage and for any number of ranks.
The attributes of DeepSpeed that are read here are internal: its version is pinned to a
minor, and tests/integration/test_averages.py and test_elastic.py compare every stage.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer import eight_bit
from trainer.checkpoint import Checkpoint, Fragment

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")
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
        self.eight_bit = eight_bit.is_eight_bit(self.optimizer)
        if stage == 0:
            groups = _whole_groups(optimizer)
            self.flats = [master for group in groups for master in group]
            self._groups = [n for n, group in enumerate(groups) for _ in group]
            self.fragments = list(_whole(weights, self.flats, optimizer))
            self.mine = _share(self.flats, rank, ranks)
        elif stage == 3:
            self.flats = list(optimizer.fp32_partitioned_groups_flat)
            self._groups = [optimizer.sub_group_to_group_id[n] for n in range(len(self.flats))]
            self.fragments = list(_split_each(weights, optimizer, rank))
            self.mine = list(range(len(self.flats)))
        else:
            self.flats = list(optimizer.single_partition_of_fp32_groups)
            self._groups = list(range(len(self.flats)))
            self.fragments = list(_split_all(weights))
            self.mine = list(range(len(self.flats)))
        assert all(flat.dtype == torch.float32 for flat in self.flats)

    def saved(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of what this rank answers for, named `<kind>/<number>`.

        Without ZeRO every rank holds all weights, and answers for its share of them. Moments are
        there after the first step.
        """
        tensors = {f"{MASTER}/{number}": flat for number, flat in self.masters().items()}
        for number in self.mine:
            state = self.optimizer.state.get(self.flats[number])
            for kind in MOMENTS if state else ():
                for ending, tensor in self._stored(state, kind).items():
                    tensors[f"{kind}{ending}/{number}"] = tensor.detach().view(-1)
        return tensors

    def masters(self) -> dict[int, Tensor]:
        """The flat fp32 masters that this rank answers for, by number."""
        return {number: self.flats[number].detach().view(-1) for number in self.mine}

    def fragments_of(self, numbers: list[int]) -> list[Fragment]:
        """What lies in these flat tensors."""
        wanted = set(numbers)
        return [fragment for fragment in self.fragments if fragment.flat in wanted]

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set the masters to whole weights, fp32; the networks must compute with these already."""
        for fragment in self.fragments:
            values = weights[fragment.weight].view(-1)
            part = values[fragment.offset : fragment.offset + fragment.numel]
            self.flats[fragment.flat].view(-1)[fragment.place] = part

    @torch.no_grad()
    def load_moments(self, checkpoint: Checkpoint) -> None:
        """Set the optimizer's state to what it was when the checkpoint was saved."""
        for number, flat in enumerate(self.flats):
            state = self._new_state(number, flat, checkpoint.step)
            fragments = self.fragments_of([number])
            for kind in MOMENTS:
                codes = checkpoint.codes(kind, fragments) if self.eight_bit else None
                if codes is not None:
                    eight_bit.set_codes(state, kind, codes)
                    continue
                values = torch.zeros(flat.numel())
                for fragment in fragments:
                    values[fragment.place] = checkpoint.read(kind, fragment)
                self._set_moment(state, kind, values)

    def _stored(self, state: Any, kind: str) -> dict[str, Tensor]:
        return eight_bit.stored(state, kind) if self.eight_bit else {"": state[kind]}

    def _new_state(self, number: int, flat: Tensor, step: int) -> dict[str, Any]:
        if self.eight_bit:
            return eight_bit.new_state(self.optimizer, self._groups[number], flat, step)
        fused = self.optimizer.defaults.get("fused")
        steps = torch.tensor(float(step), device=flat.device if fused else "cpu")
        state: dict[str, Any] = {kind: torch.zeros_like(flat) for kind in MOMENTS}
        state["step"] = steps
        self.optimizer.state[flat] = state
        return state

    def _set_moment(self, state: dict[str, Any], kind: str, values: Tensor) -> None:
        if self.eight_bit:
            eight_bit.set_moment(state, kind, values)
        else:
            state[kind].view(-1).copy_(values)


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
