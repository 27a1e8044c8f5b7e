"""Which cores a rank runs on: those beside its GPU, where a machine has several NUMA nodes.

Elsewhere the kernel's scheduler is left alone. A rank on the far side of the machine copies to its
GPU through the link between the sockets, and so do the processes that read its samples.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.exit_codes import MachineFault
from cluster.nvidia_smi import ask_nvidia_smi, rows_of

PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA_SMI_TIMEOUT_S = 60.0


def cores_of_ranks(ranks: int, environment: Mapping[str, str]) -> list[set[int]] | None:
    """The cores of each of this node's ranks; None if there is nothing to choose.

    That is where a rank has no GPU of its own, and where all cores are beside all of them.
    """
    mine = os.sched_getaffinity(0)
    gpus = _visible(_gpus(), environment.get("CUDA_VISIBLE_DEVICES"))
    if len(gpus) < ranks:
        return None
    beside = [_cores_beside(gpu) & mine for gpu in gpus[:ranks]]
    return beside if all(beside) and any(cores != mine for cores in beside) else None


def _gpus() -> list[str]:
    """The PCI addresses of the GPUs, in the order in which CUDA counts equal ones."""
    answer = ask_nvidia_smi("gpu", "pci.bus_id", timeout_s=NVIDIA_SMI_TIMEOUT_S)
    if answer.timed_out:
        raise MachineFault(f"{answer.silence}: the driver hangs")
    # It writes 00000000:07:00.0 where the kernel writes 0000:07:00.0.
    return [address.lower()[-12:] for (address,) in rows_of(answer.text or "", columns=1)]


def _visible(gpus: Sequence[str], visible: str | None) -> list[str]:
    """Those that CUDA_VISIBLE_DEVICES leaves; none if it names them in another way."""
    if visible is None:
        return list(gpus)
    numbers = [name.strip() for name in visible.split(",")]
    if not all(number.isdigit() and int(number) < len(gpus) for number in numbers):
        return []
    return [gpus[int(number)] for number in numbers]


def _cores_beside(gpu: str) -> set[int]:
    """The cores of a GPU's NUMA node, by the kernel; none if it does not know."""
    path = PCI_DEVICES / gpu / "local_cpulist"
    cores: set[int] = set()
    for part in path.read_text().strip().split(",") if path.is_file() else []:
        first, _, last = part.partition("-")
        if first:
            cores |= set(range(int(first), int(last or first) + 1))
    return cores
