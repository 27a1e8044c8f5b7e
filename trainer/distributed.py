"""The ranks of a run: who I am, and how we agree."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


# What srun calls them; a batch script, which is no task, has no SLURM_STEP_NUM_TASKS.
SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")


class Place(NamedTuple):
    """A process among those that share some work."""

    rank: int
    local_rank: int
    """Among those of its machine."""
    ranks: int


def find_place() -> Place | None:
    """Where an agent, torchrun or srun has put this process; None: it was started alone."""
    for names in (RANK_VARIABLES[:3], SLURM_VARIABLES):
        if all(name in os.environ for name in names):
            place = Place(*(int(os.environ[name]) for name in names))
            return place if place.ranks > 1 else None
    return None


def find_device(
    device: Literal["cuda", "cpu"], local_rank: int, key: str = "train.device"
) -> torch.device:
    """Where the process with this number on its machine computes; ValueError without a GPU.

    `key` is that of the setting, for the message.
    """
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"{key} is cuda, but torch sees no GPU here: --set {key}=cpu")
    # A task of srun may see its own GPU alone.
    return torch.device("cuda", local_rank % torch.cuda.device_count())


@dataclass(frozen=True, kw_only=True)
class World:
    """This rank among the ranks."""

    rank: int
    ranks: int
    device: torch.device
    control: dist.ProcessGroup
    """gloo over all ranks: agreeing on it does not make the host wait for the GPU."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what only one may write."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes. Every rank must ask, and all get the same answer."""
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.control)
        return bool(votes.item())

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, element by element; on the device."""
        total = values.clone()
        dist.all_reduce(total)
        return total / self.ranks

    def share(self, value: Any) -> Any:
        """What rank 0 holds, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """What every rank holds, on every rank."""
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value, group=self.control)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier(group=self.control)


def start(device: Literal["cuda", "cpu"]) -> World:
    """Join the other ranks; the agent has set the five variables that say where they are."""
    missing = [name for name in RANK_VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} not set: a rank is started by `letterpress submit` or, on "
            "SLURM, by slurm/train_8xA100.sh"
        )
    mine = find_device(device, int(os.environ["LOCAL_RANK"]))
    deepspeed = import_deepspeed(device)
    # DeepSpeed calls what torch has given a new name.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if device == "cuda":
        torch.cuda.set_device(mine)
    deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo", verbose=False)
    return World(
        rank=dist.get_rank(),
        ranks=dist.get_world_size(),
        device=mine,
        control=dist.new_group(backend="gloo"),
    )


def import_deepspeed(device: Literal["cuda", "cpu"]) -> Any:
    """DeepSpeed without what we have no use for; its accelerator is chosen as it is imported."""
    os.environ["DS_ACCELERATOR"] = device
    import deepspeed

    # Its all-reduce through shared memory serves inference alone, and would cost half a minute of
    # compiling, with a compiler, on every new machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # At stages 1 to 3 it looks whether the optimizer is its Muon, at whose import torch would load
    # its compiler: two seconds of each rank.
    compiles = torch.compile
    torch.compile = _not_compiled  # type: ignore[assignment]
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer
    finally:
        torch.compile = compiles
    return deepspeed


def _not_compiled(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    """What torch.compile is while nothing is to be compiled."""
    return function or (lambda decorated: decorated)


def finish() -> None:
    """Leave the other ranks in order."""
    dist.destroy_process_group()
