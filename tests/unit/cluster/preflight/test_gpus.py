"""GPUs, from what nvidia-smi writes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.exit_codes import MachineFault
from cluster.preflight import gpus
from cluster.preflight.gpus import NoGpus, parse, select, settled_gpus, visible_gpus

CARDS = """\
0, GPU-1111aaaa, NVIDIA A100-SXM4-80GB, 4
1, GPU-2222bbbb, NVIDIA A100-SXM4-80GB, 30417
"""
PROCESSES = "GPU-2222bbbb, 4242, /usr/bin/python3\n"

FakeSmi = Callable[[str], None]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSmi:
    """Puts a shell script on the PATH as nvidia-smi."""

    def put(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


def test_a_gpu_that_somebody_computes_on_is_not_free() -> None:
    free, used = parse(CARDS, PROCESSES)
    assert free.is_free
    assert not used.is_free
    assert used.processes == ("4242 /usr/bin/python3",)


def test_memory_that_nobody_known_holds_is_not_free_either() -> None:
    assert not parse(CARDS, "")[1].is_free


def test_memory_that_the_driver_does_not_tell_is_no_fault() -> None:
    (gpu,) = parse("0, GPU-1, NVIDIA GB10, [N/A]", "")
    assert gpu.used_mib is None
    assert gpu.is_free


@pytest.mark.parametrize(
    ("visible", "indices"),
    [(None, [0, 1]), ("1", [1]), ("1,0", [1, 0]), ("GPU-2222", [1]), ("", []), ("7", [])],
)
def test_only_visible_gpus_count(visible: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in select(parse(CARDS, ""), visible)] == indices


def test_parts_of_gpus_are_not_looked_at() -> None:
    with pytest.raises(NoGpus, match="MIG"):
        select(parse(CARDS, ""), "MIG-1234")


def test_nvidia_smi_is_asked_for_both_tables(nvidia_smi: FakeSmi) -> None:
    gpu = "echo '0, GPU-1, NVIDIA H200, 0'"
    nvidia_smi(f"case $1 in --query-gpu=*) {gpu};; --query-compute-apps=*) ;; esac")
    assert [gpu.name for gpu in visible_gpus({})] == ["NVIDIA H200"]


def test_a_driver_that_is_gone_is_the_machine_s_fault(nvidia_smi: FakeSmi) -> None:
    nvidia_smi('echo "NVIDIA-SMI has failed to communicate with the driver."; exit 9')
    with pytest.raises(MachineFault, match="NVIDIA-SMI has failed to communicate"):
        visible_gpus({})


def test_without_nvidia_smi_there_is_nothing_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoGpus, match="no nvidia-smi"):
        visible_gpus({})


def test_what_a_killed_process_held_is_waited_for(
    nvidia_smi: FakeSmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "LOOK_AGAIN_S", 0.01)
    asked = tmp_path / "asked"
    used = f"if [ -e {asked} ]; then echo 0; else touch {asked}; echo 30000; fi"
    card = f'echo "0, GPU-1, NVIDIA H200, $({used})"'
    nvidia_smi(f"case $1 in --query-gpu=*) {card};; esac")
    (gpu,) = settled_gpus({})
    assert gpu.is_free
