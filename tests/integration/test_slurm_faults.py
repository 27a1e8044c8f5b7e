"""What may befall a job on SLURM: each fault is injected into a real cluster, and its run goes on.

The script is slurm/train_8xA100.sh; the ranks are stand-ins where it is not they who are tested.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import is_alive
from cluster.run_folder import RunFolder, published_steps, read_json, read_manifest, verify
from tests.conftest import CHECKOUT, link_checkout, wait_until
from tests.integration.ranks_that_publish import FAULT_AT
from tests.integration.test_slurm import (
    START_TIMEOUT_S,
    TESTBED,
    Cluster,
    processes,
    processes_about,
    pytestmark,
    start_cluster,
)

__all__ = ["pytestmark"]  # where it is skipped

BECOME_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
NO_CAPABILITY = ("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")
WITHOUT_RIGHTS = () if os.geteuid() else (*BECOME_NOBODY, *NO_CAPABILITY)
REQUEUE = """#!/bin/bash
#SBATCH --gpus=1 --requeue --chdir={checkout} --output={output} --open-mode=append
[ -z "${{SLURM_RESTART_COUNT:-}}" ] || exit 0
exec {python} -c '
import os, signal
from cluster.slurm.commands import requeue
signal.signal(signal.SIGTERM, signal.SIG_IGN)
node = os.environ["SLURMD_NODENAME"]
print("refused:", requeue(os.environ["SLURM_JOB_ID"], excluded=[node]), flush=True)'
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two nodes for each job, and a checkout for it: jobs of another one have the
    same numbers, and with them the same run folders.
    """
    checkout = link_checkout(tmp_path_factory.mktemp("checkout"))
    with start_cluster(checkout, nodes=14) as cluster:
        yield cluster


@dataclass(frozen=True)
class Struck:
    """A job to which something has happened."""

    run: RunFolder
    number: str
    host: str
    """Where it ran then."""
    time: float


@pytest.fixture(scope="module")
def struck(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Struck]:
    """Jobs with a fault each, all at once: they wait more than they work."""
    folder = tmp_path_factory.mktemp("scripts")
    scripts = {
        "hang": script(folder, fault="hang", agent="tests.integration.impatient_agent"),
        "cancelled": script(folder, fault="hang"),
        "cut off": script(folder),
        "crashed": script(folder),
        "without its daemon": script(folder),
        "preempted": script(folder),
    }
    numbers = {
        name: submit(cluster, path, place, gpus=2 if name == "hang" else 1)
        for place, (name, path) in enumerate(scripts.items(), start=1)
    }
    return {name: strike(cluster, name, number) for name, number in numbers.items()}


def submit(cluster: Cluster, path: Path, place: int, gpus: int = 1) -> str:
    """Queue a script on two nodes of its own, so that it can move from one to the other."""
    own = cluster.nodes[2 * place : 2 * place + 2]
    others = ",".join(node for node in cluster.nodes if node not in own)
    asked = (f"--exclude={others}", f"--gpus-per-node=a100:{gpus}")
    return cluster.sbatch(*asked, str(path), "recipes/mini.yaml")


def strike(cluster: Cluster, name: str, number: str) -> Struck:
    """Let happen to a job what is to happen, once its ranks have come to where theirs does."""
    run = cluster.run_of(number)
    wait_until(lambda: len(published_steps(run.checkpoints)) >= FAULT_AT - 1, START_TIMEOUT_S)
    host = read_json(run.state)["attempts"][0]["hosts"][0]
    struck = Struck(run, number, host, time.time())
    if name in STRIKES:
        STRIKES[name](cluster, struck)
    return struck


def cancel(cluster: Cluster, job: Struck) -> None:
    """End it by its owner's word, while its rank does not listen."""
    assert len(processes_of(job.run)) >= 4  # the script, srun, the agent, the rank
    cluster.type("scancel", job.number)


def cut_off(cluster: Cluster, job: Struck) -> None:
    """Pull its node's cable or, where it has none, kill the daemon: its rank does not notice."""
    if job.host.startswith("n"):
        cluster.type(str(TESTBED), "unplug", job.host)
    else:
        kill_slurmd(cluster, job)


def crash(cluster: Cluster, job: Struck) -> None:
    """End all that runs on its node."""
    cluster.type(str(TESTBED), "crash", job.host)
    assert not processes_of(job.run)


def kill_slurmd(cluster: Cluster, job: Struck) -> None:
    """SIGKILL its node's daemon; the job does not notice."""
    conf = f"SLURM_CONF={cluster.environment['SLURM_CONF']}"
    (daemon,) = [
        pid
        for pid, words, variables in processes()
        if words[0].endswith("slurmd") and job.host in words and conf in variables
    ]
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: not is_alive(daemon))


def take_nodes(cluster: Cluster, job: Struck) -> None:
    """Ask for all of its node, in a higher partition."""
    room = ("--partition=urgent", f"--nodelist={job.host}", "--gpus-per-node=8")
    cluster.sbatch(*room, "--output=/dev/null", "--wrap=sleep 1000")


STRIKES = {
    "cancelled": cancel,
    "cut off": cut_off,
    "crashed": crash,
    "without its daemon": kill_slurmd,
    "preempted": take_nodes,
}


def script(folder: Path, fault: str = "none", agent: str = "cluster.agent") -> Path:
    """slurm/train_8xA100.sh with other ranks, and maybe another agent."""
    text = (CHECKOUT / "slurm" / "train_8xA100.sh").read_text()
    ours = (
        '"$PYTHON" -m tests.integration.ranks_that_publish "$RUN" --attempt "$ATTEMPT" '
        f"--fault {fault}"
    )
    changes = {
        '"$PYTHON" -m trainer --config "$RUN/recipe.yaml" --attempt "$ATTEMPT"': ours,
        '"$PYTHON" -m trainer.data prepare --config "$RUN/recipe.yaml"': "true",
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
    cluster: Cluster, tmp_path: Path
) -> None:
    number = submit(cluster, script(tmp_path, fault="ecc"), place=0)  # alone, for it is timed
    job = strike(cluster, "ecc", number)
    first, second = two_attempts(cluster, job)
    assert (first["verdict"]["cause"], first["verdict"]["node"]) == ("hardware", job.host)
    assert "uncorrectable ECC error" in first["verdict"]["evidence"]
    assert job.host in cluster.nodes_of(job.number, "ExcNodeList")
    assert second["hosts"] != first["hosts"]
    (record,) = job.run.attempt(0).node_records()
    assert second["started"] - record["ranks"][0]["ended"] < 20


def test_a_rank_that_hangs_is_named_and_its_attempt_restarted_in_place(
    cluster: Cluster, struck: dict[str, Struck]
) -> None:
    job = struck["hang"]
    first, second = two_attempts(cluster, job)
    assert (first["verdict"]["cause"], first["verdict"]["rank"]) == ("hang", 1)
    assert "in hang" in job.run.attempt(0).stacks(1).read_text()
    assert second["hosts"] == first["hosts"]
    assert cluster.job(job.number)["Restarts"] == "0"


def test_scancel_leaves_no_process_though_a_rank_does_not_listen(
    cluster: Cluster, struck: dict[str, Struck]
) -> None:
    job = struck["cancelled"]
    assert cluster.wait(job.number)["JobState"] == "CANCELLED"
    wait_until(lambda: not processes_of(job.run))


def test_ranks_on_a_node_that_is_cut_off_publish_nothing_beside_their_successors(
    cluster: Cluster, struck: dict[str, Struck]
) -> None:
    job = struck["cut off"]
    first, second = two_attempts(cluster, job)
    assert (first["verdict"]["cause"], first["verdict"]["node"]) == ("hardware", job.host)
    assert second["hosts"] != first["hosts"]
    lost = job.run.attempt(0).node_record(job.host)
    wait_until(lost.exists)  # its agent lived on, and found out by itself
    record = read_json(lost)
    assert (record["superseded"], record["exit_code"]) == (True, ExitCode.DO_NOT_RESTART)
    manifests = [verify(folder) for _, folder in published_steps(job.run.checkpoints)]
    assert all(m["attempt"] == int(m["time"] > second["started"]) for m in manifests)
    assert any(job.time + 3 < m["time"] < second["started"] for m in manifests)  # it went on


def test_a_job_whose_daemon_is_killed_goes_on_on_another_node_within_a_minute(
    cluster: Cluster, struck: dict[str, Struck]
) -> None:
    job = struck["without its daemon"]
    first, second = two_attempts(cluster, job)
    assert (first["verdict"]["cause"], first["verdict"]["node"]) == ("hardware", job.host)
    assert second["hosts"] != first["hosts"]
    assert second["started"] - job.time < 60


def test_after_a_node_has_crashed_its_run_goes_on_on_another(
    cluster: Cluster, struck: dict[str, Struck]
) -> None:
    job = struck["crashed"]
    first, second = two_attempts(cluster, job)
    assert (first["verdict"]["cause"], first["verdict"]["node"]) == ("hardware", job.host)
    assert second["hosts"] != first["hosts"]


def test_a_job_that_makes_room_for_a_higher_partition_saves_and_goes_on_elsewhere(
    cluster: Cluster, struck: dict[str, Struck]
) -> None:
    job = struck["preempted"]
    first, second = two_attempts(cluster, job)
    (record,) = job.run.attempt(0).node_records()
    assert record["exit_code"] == ExitCode.STOPPED
    assert first["verdict"]["cause"] == "preempted"
    assert second["hosts"] != first["hosts"]
    assert verify(job.run.checkpoint(first["step"] + 1))["attempt"] == 1  # from what it had saved


def test_somebody_without_rights_queues_a_job_again_without_its_node(cluster: Cluster) -> None:
    folder = Path(tempfile.mkdtemp(prefix="letterpress-", dir="/tmp"))  # pytest's are closed
    try:
        folder.chmod(0o777)
        script, output = folder / "job.sh", folder / "output"
        script.write_text(REQUEUE.format(checkout=CHECKOUT, python=open_python(), output=output))
        number = cluster.type(*WITHOUT_RIGHTS, "sbatch", "--parsable", str(script)).strip()
        job = cluster.wait(number)
        assert "refused: []" in output.read_text()
        assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
        assert job["ExcNodeList"] not in ("(null)", job["BatchHost"])
        assert not job["UserId"].startswith("root")
    finally:
        shutil.rmtree(folder)


def open_python() -> str:
    """An interpreter that everybody may run: the tests' own may lie in a closed folder."""
    for path in (sys.executable, "/usr/bin/python3"):
        # By way of env, for setpriv itself may still enter folders that are closed to nobody.
        command = [*WITHOUT_RIGHTS, "env", path, "-c", "import enum; enum.StrEnum; import cluster"]
        if Path(path).exists() and not subprocess.run(command, cwd=CHECKOUT).returncode:
            return path
    pytest.skip("nobody but root can read the checkout or a Python 3.11")


def two_attempts(cluster: Cluster, job: Struck) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is recorded of both, once the second has published a step; then its job is ended."""
    wait_until(lambda: attempt_of_newest(job.run) == 1, START_TIMEOUT_S)
    first, second = read_json(job.run.state)["attempts"]
    cluster.type("scancel", job.number)
    return first, second


def attempt_of_newest(run: RunFolder) -> int:
    """The attempt that has published last."""
    return int(read_manifest(published_steps(run.checkpoints)[-1][1])["attempt"])


def processes_of(run: RunFolder) -> list[int]:
    """What is alive of a run, on all nodes."""
    return processes_about(run.root)
