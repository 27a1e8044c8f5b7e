"""What nvidia-smi says of the GPUs that this node may use."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.exit_codes import MachineFault
from cluster.nvidia_smi import ask_nvidia_smi, mib_of, rows_of

QUERY_TIMEOUT_S = 20.0  # without persistence mode the driver starts first, a second for each GPU
SETTLE_S = 10.0  # what a killed process held is free again some seconds later
LOOK_AGAIN_S = 1.0
IDLE_MIB = 1024  # what the driver keeps on a GPU that nobody uses is some hundred MiB


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, and who uses it."""

    index: int
    uuid: str
    name: str
    used_mib: int | None
    """None: the driver does not tell."""
    processes: tuple[str, ...] = ()
    """Number and name of each process that computes on it."""

    @property
    def is_free(self) -> bool:
        """Whether nobody computes on it or holds much of its memory."""
        return not self.processes and (self.used_mib or 0) <= IDLE_MIB


class NoGpus(Exception):
    """There is nothing to look at on this node, and no fault in that; says why."""


def settled_gpus(environment: Mapping[str, str], settle_s: float = SETTLE_S) -> list[Gpu]:
    """As `visible_gpus`, some seconds later if one is not free yet."""
    deadline = time.monotonic() + settle_s
    while True:
        gpus = visible_gpus(environment)
        if all(gpu.is_free for gpu in gpus) or time.monotonic() > deadline:
            return gpus
        time.sleep(LOOK_AGAIN_S)


def visible_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """The GPUs that this node may use, by CUDA_VISIBLE_DEVICES.

    NoGpus where there is no nvidia-smi; MachineFault if it does not answer.
    """
    if shutil.which("nvidia-smi") is None:
        raise NoGpus("there is no nvidia-smi here")
    cards = _table("gpu", "index,uuid,name,memory.used")
    processes = _table("compute-apps", "gpu_uuid,pid,process_name")
    try:
        gpus = parse(cards, processes)
    except ValueError as error:
        raise MachineFault(str(error)) from None
    return select(gpus, environment.get("CUDA_VISIBLE_DEVICES"))


def parse(cards: str, processes: str) -> list[Gpu]:
    """The GPUs in nvidia-smi's two tables."""
    users = rows_of(processes, columns=3)
    return [
        Gpu(
            index=int(index),
            uuid=uuid,
            name=name,
            used_mib=mib_of(used),
            processes=tuple(f"{pid} {program}" for user, pid, program in users if user == uuid),
        )
        for index, uuid, name, used in rows_of(cards, columns=4)
    ]


def select(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES names, by number or by the start of a UUID."""
    if visible is None:
        return list(gpus)
    if "MIG-" in visible:
        raise NoGpus("CUDA_VISIBLE_DEVICES names parts of GPUs (MIG), which are not looked at")
    names = [name.strip() for name in visible.split(",")]
    return [
        gpu
        for name in names
        for gpu in gpus
        if name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name))
    ]


def _table(table: str, columns: str) -> str:
    answer = ask_nvidia_smi(table, columns, timeout_s=QUERY_TIMEOUT_S)
    if answer.text is None:
        raise MachineFault(answer.silence)
    return answer.text
