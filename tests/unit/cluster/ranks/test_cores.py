"""A rank runs beside its GPU, where that makes a difference. The machines here are made up."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.agent import run_node
from cluster.exit_codes import ExitCode
from cluster.ranks.cores import cores_of_ranks
from cluster.rendezvous import local_node
from cluster.run_folder import RunFolder

AWAIT_CORES = """
import os, time
deadline_s = time.monotonic() + 10
while len(os.sched_getaffinity(0)) > 1 and time.monotonic() < deadline_s:
    time.sleep(0.01)
print(*os.sched_getaffinity(0))
"""
Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes a machine with a GPU beside each of these lists of cores, and 8 cores for us."""

    def make(*cores_beside: str) -> None:
        addresses = [f"0000:{0x07 + number:02x}:00.0" for number in range(len(cores_beside))]
        for address, cores in zip(addresses, cores_beside, strict=True):
            (tmp_path / "devices" / address).mkdir(parents=True)
            (tmp_path / "devices" / address / "local_cpulist").write_text(cores + "\n")
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir()
        cards = "".join(f"echo 0000{address.upper()}\n" for address in addresses)
        # That is all it says: preflight, which asks for more, is told of no GPU.
        tool.write_text(f'#!/bin/sh\n[ "$1" = --query-gpu=pci.bus_id ] || exit 0\n{cards}')
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr("cluster.ranks.cores.PCI_DEVICES", tmp_path / "devices")

    return make


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.usefixtures("eight_cores")
def test_each_rank_gets_the_cores_beside_its_gpu_of_those_it_may_use(machine: Machine) -> None:
    machine("0-3,16-19", "4-7,20-23")
    assert cores_of_ranks(2, os.environ) == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert cores_of_ranks(1, os.environ) == [{0, 1, 2, 3}]
    turned = {**os.environ, "CUDA_VISIBLE_DEVICES": "1,0"}
    assert cores_of_ranks(2, turned) == [{4, 5, 6, 7}, {0, 1, 2, 3}]


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("cores_beside", "ranks", "visible"),
    [
        (("0-7", "0-7"), 2, None),  # one NUMA node
        (("0-3", "8-15"), 2, None),  # the job has no core beside the second GPU
        (("0-3", ""), 2, None),  # a virtual machine does not know
        (("0-3",), 2, None),  # ranks that share a GPU
        (("0-3", "4-7"), 2, "GPU-1a2b,GPU-3c4d"),
        (("0-3", "4-7"), 2, "0,7"),
    ],
)
def test_where_it_is_not_known_the_kernel_chooses(
    cores_beside: tuple[str, ...], ranks: int, visible: str | None, machine: Machine
) -> None:
    machine(*cores_beside)
    environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    assert cores_of_ranks(ranks, environment) is None


def test_a_rank_starts_on_its_cores(machine: Machine, tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("this machine lets us use one core only")
    machine(str(cores[0]), str(cores[1]))
    run = RunFolder(tmp_path / "run")
    command = [sys.executable, "-c", AWAIT_CORES]
    assert run_node(run, run.begin_attempt(), local_node(2), command) == ExitCode.DONE
    told = [run.attempt(0).rank_log(rank).read_text().strip() for rank in (0, 1)]
    assert told == [str(cores[0]), str(cores[1])]
