"""What is made of the facts that nodes found out about themselves."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from cluster.exit_codes import ExitCode
from cluster.preflight.check import Check
from cluster.preflight.checks import (
    GIB,
    check_clocks,
    check_cores,
    check_gpus,
    check_shared_memory,
    check_storage,
    check_versions,
    judge,
)
from cluster.preflight.facts import Facts, from_plain, job_cores
from cluster.preflight.gpus import Gpu
from cluster.preflight.storage import Storage

DISK = Storage(free_bytes=500 * GIB, free_files=10**6, write_s=0.02, rename_s=0.001)
A100 = Gpu(index=0, uuid="GPU-1", name="NVIDIA A100", used_mib=4)


def facts(host: str = "n1", **changes: Any) -> Facts:
    """A node of a SLURM job with one GPU, as it should be."""
    usual: dict[str, Any] = {
        "host": host,
        "ranks": 1,
        "cores": 8,
        "machine_cores": 64,
        "job_cores": 8,
        "srun_cpus_per_task": "8",
        "shared_memory_bytes": 100 * GIB,
        "storage": DISK,
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "gpus": (A100,),
        "no_gpus": None,
        "driver_error": None,
        "promised_gpus": 1,
    }
    return Facts(**usual | changes)


def nodes(*several: Facts) -> dict[str, Facts]:
    """Facts by host."""
    return {each.host: each for each in several}


def test_nodes_as_they_should_be_pass_every_check() -> None:
    assert {check.verdict for check in judge([facts("n1"), facts("n2")])} == {"ok"}


def test_facts_survive_the_way_to_another_node() -> None:
    assert from_plain(asdict(facts())) == facts()


def test_a_wrong_environment_on_a_node_is_the_user_s_to_mend() -> None:
    other = {"python": "3.11.2", "torch": "2.9.1"}
    check = check_versions(nodes(facts("n1"), facts("n2"), facts("n3", versions=other)))
    assert (check.verdict, check.code) == ("fails", ExitCode.BAD_INPUT)
    assert check.line.startswith("torch differs: 2.13.0 on n1, n2; 2.9.1 on n3: use one")


def test_a_package_that_one_node_lacks_is_named() -> None:
    check = check_versions(nodes(facts("n1"), facts("n2", versions={"python": "3.11.2"})))
    assert "not installed on n2" in check.line


def test_a_node_that_lost_a_gpu_is_to_blame() -> None:
    check = check_gpus(nodes(facts("n1", promised_gpus=2, ranks=2), facts("n2")))
    assert (check.verdict, check.hosts, check.code) == ("fails", ("n1",), 75)
    assert check.line == "n1: 1 of 2 GPUs are there"


def test_a_driver_that_does_not_answer_is_a_node_to_blame_where_gpus_were_promised() -> None:
    silent = facts("n1", gpus=(), driver_error="nvidia-smi failed: no driver")
    assert check_gpus(nodes(silent)).hosts == ("n1",)
    assert check_gpus(nodes(replace(silent, promised_gpus=None))).verdict == "absent"


def test_a_gpu_in_foreign_hands_fails_where_slurm_gave_it_and_warns_elsewhere() -> None:
    used = replace(A100, used_mib=30_000, processes=("4242 python",))
    check = check_gpus(nodes(facts("n1"), facts("n2", gpus=(used,))))
    assert (check.verdict, check.hosts) == ("fails", ("n2",))
    assert check.line == "n2: GPU 0 is used by 4242 python (30000 MiB)"
    mine = facts("laptop", gpus=(used,), promised_gpus=None)
    assert check_gpus(nodes(mine)).verdict == "warns"


def test_nodes_without_gpus_are_said_to_have_none() -> None:
    bare = {"gpus": (), "no_gpus": "there is no nvidia-smi here"}
    check = check_gpus(nodes(facts("n1", **bare), facts("n2", **bare)))
    assert (check.verdict, check.line) == ("absent", "n1, n2: there is no nvidia-smi here")
    assert check_gpus(nodes(facts("n1"), facts("n2", **bare))).hosts == ("n2",)


def test_srun_that_kept_the_cores_is_told_of_with_the_remedy() -> None:
    check = check_cores(nodes(facts(cores=1, srun_cpus_per_task=None)))
    assert check.verdict == "warns"
    assert "has 1 of the job's 8 cores" in check.line
    assert "export SRUN_CPUS_PER_TASK" in check.line


def test_more_ranks_than_cores_warn() -> None:
    check = check_cores(nodes(facts(ranks=8, cores=2, machine_cores=2)))
    assert check.line == "n1: 8 ranks share 2 cores"


def test_cores_that_slurm_declares_and_the_machine_has_not_are_not_missed() -> None:
    check = check_cores(nodes(facts(cores=2, machine_cores=2, srun_cpus_per_task=None)))
    assert (check.verdict, check.line) == ("ok", "2 for each rank")


def test_a_container_s_shared_memory_warns_with_the_remedy() -> None:
    check = check_shared_memory(nodes(facts(shared_memory_bytes=64 << 20)))
    assert check.verdict == "warns"
    assert "--shm-size=1g" in check.line


def test_one_node_that_cannot_write_is_to_blame_and_all_are_the_user_s() -> None:
    locked = Storage(error="Read-only file system")
    one = check_storage(nodes(facts("n1"), facts("n2", storage=locked)))
    assert (one.hosts, one.code) == (("n2",), ExitCode.RETRY_ELSEWHERE)
    every = check_storage(nodes(facts("n1", storage=locked), facts("n2", storage=locked)))
    assert (every.hosts, every.code) == ((), ExitCode.BAD_INPUT)
    assert every.line == "n1, n2: the run folder cannot be written to: Read-only file system"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"free_bytes": GIB}, "1.00 GiB are free"),
        ({"free_files": 12}, "12 files can still be made"),
        ({"write_s": 9.0}, "took 9.0 s for 4 MiB"),
        ({"rename_s": 2.0}, "took 2.0 s for a rename"),
    ],
)
def test_storage_that_is_full_or_slow_warns(change: dict[str, Any], words: str) -> None:
    check = check_storage(nodes(facts(storage=replace(DISK, **change))))
    assert check.verdict == "warns"
    assert words in check.line


def test_storage_that_does_not_count_its_files_has_enough() -> None:
    assert check_storage(nodes(facts(storage=replace(DISK, free_files=None)))).verdict == "ok"


def test_a_node_whose_storage_is_slower_than_the_others_warns() -> None:
    slow = facts("n3", storage=replace(DISK, write_s=1.5))
    check = check_storage(nodes(facts("n1"), facts("n2"), slow))
    assert check.line == "n3: a write in the run folder took 1.50 s, 0.02 s on other nodes"


@pytest.mark.parametrize(
    ("skew_s", "verdict", "hosts"),
    [
        ({"n1": 0.0, "n2": 0.2, "n3": -0.1}, "ok", ()),
        ({"n1": 0.0, "n2": 5.0, "n3": 0.1}, "warns", ("n2",)),
        ({"n1": 0.0, "n2": -90.0, "n3": -90.2}, "fails", ("n1",)),
        ({"n1": 0.0, "n2": 400.0}, "fails", ("n1", "n2")),
    ],
)
def test_clocks_are_held_against_the_usual_one(
    skew_s: dict[str, float], verdict: str, hosts: tuple[str, ...]
) -> None:
    check = check_clocks(skew_s)
    assert (check.verdict, check.hosts) == (verdict, hosts)


def test_slurm_s_cores_are_read_for_each_node() -> None:
    assert [job_cores("32(x2),16", number) for number in range(4)] == [32, 32, 16, None]
    assert job_cores(None, 0) is None


def test_a_failure_without_a_node_to_blame_is_the_user_s() -> None:
    assert Check(name="x", verdict="fails", line="").code == ExitCode.BAD_INPUT
