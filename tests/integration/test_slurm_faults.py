"""What may befall a job on SLURM: each fault is injected into a real cluster, and its run goes on.

The script is slurm/train_8xA100.sh; the ranks are stand-ins where it is not they who are tested.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import is_alive
from cluster.run_folder import RunFolder, published_steps, read_json, verify
from tests.conftest import CHECKOUT, wait_until
from tests.integration.ranks_that_publish import FAULT_AT
from tests.integration.test_slurm import (
    START_TIMEOUT_S,
    TESTBED,
    Cluster,
    pytestmark,
    start_cluster,
)

__all__ = ["pytestmark"]  # where it is skipped


@pytest.fixture(scope="module")
def cluster(checkout: Path) -> Iterator[Cluster]:
    """A cluster with two nodes for each job."""
    with start_cluster(checkout, nodes=12) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The numbers of jobs that suffer a fault each, all at once: they wait more than they work.

    Each has two nodes to itself, so that it can move from one to the other.
    """
    folder = tmp_path_factory.mktemp("scripts")
    scripts = {
        "ecc": script(folder, fault="ecc"),
        "hang": script(folder, fault="hang", agent="tests.integration.impatient_agent"),
        "scancel": script(folder, fault="hang"),
        "cable": script(folder),
        "crash": script(folder),
        "preempted": script(folder),
    }
    numbers = {}
    for place, (name, path) in enumerate(scripts.items()):
        own = cluster.nodes[2 * place : 2 * place + 2]
        others = ",".join(node for node in cluster.nodes if node not in own)
        gpus = f"--gpus-per-node=a100:{2 if name == 'hang' else 1}"
        flags = (f"--exclude={others}", gpus)
        numbers[name] = cluster.sbatch(*flags, str(path), "recipes/mini.yaml")
    return numbers


def script(folder: Path, fault: str = "none", agent: str = "cluster.agent") -> Path:
    """slurm/train_8xA100.sh with other ranks, and maybe another agent."""
    text = (CHECKOUT / "slurm" / "train_8xA100.sh").read_text()
    ours = (
        '"$PYTHON" -m tests.integration.ranks_that_publish "$RUN" --attempt "$ATTEMPT" '
        f"--fault {fault}"
    )
    changes = {
        '"$PYTHON" -m trainer --config "$RUN/recipe.yaml" --attempt "$ATTEMPT"': ours,
        '"$PYTHON" -m trainer.data build --config "$RUN/recipe.yaml"\n': "",
        "-m cluster.agent": f"-m {agent}",
        "set -euo pipefail\n": f"set -euo pipefail\nexport PYTHONPATH={CHECKOUT}\n",
    }
    for theirs, instead in changes.items():
        assert text.count(theirs) == 1, theirs
        text = text.replace(theirs, instead)
    path = folder / f"{fault}-{agent}.sh"
    path.write_text(text)
    return path


def test_after_an_ecc_error_the_run_goes_on_elsewhere_without_that_node(
    cluster: Cluster, jobs: dict[str, str]
) -> None:
    run = cluster.run_of(jobs["ecc"])
    wait_until(lambda: attempt_of_newest(run) == 1, START_TIMEOUT_S)
    first, second = read_json(run.state)["attempts"]
    assert first["verdict"]["cause"] == "hardware"
    assert "uncorrectable ECC error" in first["verdict"]["evidence"]
    assert set(first["hosts"]) < set(cluster.nodes_of(jobs["ecc"], "ExcNodeList"))
    assert second["hosts"] != first["hosts"]
    (record,) = run.attempt(0).node_records()
    assert second["started"] - record["ranks"][0]["ended"] < 20
    cluster.type("scancel", jobs["ecc"])


def test_a_rank_that_hangs_is_named_and_its_attempt_restarted_in_place(
    cluster: Cluster, jobs: dict[str, str]
) -> None:
    run = cluster.run_of(jobs["hang"])
    wait_until(lambda: attempt_of_newest(run) == 1, START_TIMEOUT_S)
    first, second = read_json(run.state)["attempts"]
    verdict = first["verdict"]
    assert (verdict["cause"], verdict["rank"]) == ("hang", 1)
    assert "in hang" in run.attempt(0).stacks(1).read_text()
    assert second["hosts"] == first["hosts"]
    assert cluster.job(jobs["hang"])["Restarts"] == "0"
    cluster.type("scancel", jobs["hang"])


def test_scancel_leaves_no_process_though_a_rank_does_not_listen(
    cluster: Cluster, jobs: dict[str, str]
) -> None:
    run = cluster.run_of(jobs["scancel"])
    wait_until(lambda: len(published_steps(run.checkpoints)) >= FAULT_AT - 1, START_TIMEOUT_S)
    assert len(processes_of(run)) >= 4  # the script, srun, the agent, the rank
    cluster.type("scancel", jobs["scancel"])
    wait_until(lambda: not processes_of(run), 30)
    assert cluster.wait(jobs["scancel"], 30)["JobState"] == "CANCELLED"


def test_ranks_on_a_node_that_is_cut_off_publish_nothing_beside_their_successors(
    cluster: Cluster, jobs: dict[str, str]
) -> None:
    number = jobs["cable"]
    run = cluster.run_of(number)
    wait_until(lambda: attempt_of_newest(run) == 0, START_TIMEOUT_S)
    host = cluster.job(number)["BatchHost"]
    cut_off(cluster, host)
    before = len(published_steps(run.checkpoints))
    wait_until(lambda: len(published_steps(run.checkpoints)) > before + 1)  # its rank goes on
    cluster.type("scontrol", "update", f"nodename={host}", "state=down", "reason=lost")

    wait_until(lambda: attempt_of_newest(run) == 1, START_TIMEOUT_S)
    lost = run.attempt(0).node_record(host)
    wait_until(lost.exists)  # its agent lived on, and found out by itself
    record = read_json(lost)
    assert (record["superseded"], record["exit_code"]) == (True, ExitCode.DO_NOT_RESTART)
    assert cluster.job(number)["BatchHost"] != host
    first, second = read_json(run.state)["attempts"]
    assert (first["verdict"]["cause"], first["verdict"]["node"]) == ("hardware", host)
    for _, folder in published_steps(run.checkpoints):
        manifest = verify(folder)
        assert manifest["attempt"] == int(manifest["time"] > second["started"])
    cluster.type("scancel", number)


def test_after_a_node_has_crashed_its_run_goes_on_on_another(
    cluster: Cluster, jobs: dict[str, str]
) -> None:
    number = jobs["crash"]
    run = cluster.run_of(number)
    wait_until(lambda: attempt_of_newest(run) == 0, START_TIMEOUT_S)
    host = cluster.job(number)["BatchHost"]
    cluster.type(str(TESTBED), "crash", host)
    assert not processes_of(run)
    cluster.type("scontrol", "update", f"nodename={host}", "state=down", "reason=lost")
    wait_until(lambda: attempt_of_newest(run) == 1, START_TIMEOUT_S)
    first, second = read_json(run.state)["attempts"]
    assert (first["verdict"]["cause"], first["verdict"]["node"]) == ("hardware", host)
    assert second["hosts"] != first["hosts"]
    cluster.type("scancel", number)


def test_a_job_that_makes_room_for_a_higher_partition_saves_and_goes_on_elsewhere(
    cluster: Cluster, jobs: dict[str, str]
) -> None:
    number = jobs["preempted"]
    run = cluster.run_of(number)
    wait_until(lambda: attempt_of_newest(run) == 0, START_TIMEOUT_S)
    (host,) = cluster.nodes_of(number)
    room = ("--partition=urgent", f"--nodelist={host}", "--gpus-per-node=8")
    urgent = cluster.sbatch(*room, "--output=/dev/null", "--wrap=sleep 1000")
    wait_until(lambda: cluster.job(urgent)["JobState"] == "RUNNING", 120)
    wait_until(lambda: attempt_of_newest(run) == 1, START_TIMEOUT_S)
    (record,) = run.attempt(0).node_records()
    assert record["exit_code"] == ExitCode.STOPPED
    first, second = read_json(run.state)["attempts"]
    assert first["verdict"]["cause"] == "preempted"
    assert second["hosts"] != first["hosts"]
    assert (
        verify(run.checkpoint(first["step"] + 1))["attempt"] == 1
    )  # it went on from what it saved
    cluster.type("scancel", number, urgent)


def attempt_of_newest(run: RunFolder) -> int | None:
    """The attempt that has published last; None before the first."""
    steps = published_steps(run.checkpoints)
    return int(verify(steps[-1][1])["attempt"]) if steps else None


def processes_of(run: RunFolder) -> list[int]:
    """What is alive of a run, on all nodes."""
    return [
        pid
        for pid, words, variables in processes()
        if any(str(run.root) in word for word in (*words, *variables)) and is_alive(pid)
    ]


def cut_off(cluster: Cluster, host: str) -> None:
    """Pull a node's cable or, where it has none, kill its daemon: the jobs on it do not notice."""
    if host.startswith("n"):
        cluster.type(str(TESTBED), "unplug", host)
        return
    conf = f"SLURM_CONF={cluster.environment['SLURM_CONF']}"
    (daemon,) = [
        pid
        for pid, words, variables in processes()
        if words[0].endswith("slurmd") and host in words and conf in variables
    ]
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: not is_alive(daemon))


def processes() -> Iterator[tuple[int, list[str], list[str]]]:
    """The number, command line and environment of every process."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            files = [(entry / name).read_text(errors="replace") for name in ("cmdline", "environ")]
            words, variables = (text.split("\0") for text in files)
            yield int(entry.name), words, variables
