"""What became of jobs that SLURM's controller has forgotten, as a real slurmdbd tells it."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.run_folder import RunFolder, read_json, write_json
from cluster.slurm.queue import ASK_EVERY_S, look_up
from tests.conftest import link_checkout, wait_until
from tests.integration.test_slurm import Cluster, start_cluster

DAEMONS = ("slurmctld", "slurmdbd", "mariadbd")
needs_accounting = pytest.mark.skipif(
    not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in DAEMONS),
    reason="SLURM's accounting is not installed: apt-get install --no-install-recommends "
    "slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core",
)
pytestmark = [pytest.mark.slurm, needs_accounting]

FOR_EVER = "--wrap=exec sleep 100000"
SWEEP = (
    *("submit", "recipes/mini.yaml", "--on", "slurm", "--name", "swept", "--at-once", "1"),
    *("--sweep", "train.optim.lr=1e-3,2e-3"),
)
DONE_THE_SECOND_TIME = '--wrap=[ "$SLURM_RESTART_COUNT" ] || exec sleep 100000'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with accounting."""
    checkout = link_checkout(tmp_path_factory.mktemp("checkout"))
    with start_cluster(checkout, 2, "--accounting") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def began() -> float:
    """When the first job was submitted, at the latest."""
    return time.time()


@pytest.fixture(scope="module")
def numbers(cluster: Cluster, began: float) -> dict[str, str]:
    """Jobs that came to each end and that the controller has forgotten; one that waits."""
    first, second = (("--output=/dev/null", f"--nodelist={node}") for node in cluster.nodes)
    drain = ("scontrol", "update", "NodeName=ALL", "Reason=test")
    cluster.type(*drain, "State=DRAIN")
    cluster.letterpress(*SWEEP)
    sweep = read_json(run_of_sweep(cluster).state)["slurm_job"]["number"].partition("_")[0]
    numbers = {"in the queue": cluster.sbatch(*first, "--wrap=true"), "sweep": sweep}
    cluster.type("scancel", *numbers.values())
    cluster.type(*drain, "State=RESUME")
    cluster.type("scontrol", "update", "PartitionName=main", "GraceTime=0")
    numbers |= {
        "done": cluster.sbatch(*first, "--wrap=true"),
        "failed": cluster.sbatch(*first, "--wrap=exit 3"),
        "array": cluster.sbatch(*first, "--array=0-1", "--wrap=exit $SLURM_ARRAY_TASK_ID"),
        "cancelled": cluster.sbatch(*first, FOR_EVER),
        "requeued": cluster.sbatch(*first, "--requeue", FOR_EVER),
        "preempted": cluster.sbatch(*second, "--requeue", DONE_THE_SECOND_TIME),
        "waiting": cluster.sbatch("--hold", "--wrap=true"),
    }
    for name in ("cancelled", "requeued", "preempted"):
        wait_until(lambda name=name: cluster.job(numbers[name])["JobState"] == "RUNNING")
    cluster.sbatch(*second, "--partition=urgent", "--exclusive", "--wrap=true")
    cluster.type("scontrol", "requeuehold", numbers["requeued"])
    wait_until(lambda: cluster.job(numbers["requeued"])["JobState"] == "PENDING")
    cluster.type("scancel", numbers["cancelled"], numbers["requeued"])
    known = ("squeue", "--noheader", "--states=all", "--format=%i")
    wait_until(lambda: cluster.type(*known).split() == [numbers["waiting"]])
    return numbers


@pytest.fixture(autouse=True)
def here(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This program, and those that it starts, have not asked SLURM yet."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(cluster.environment, "XDG_CACHE_HOME", str(tmp_path))


def let_half_a_minute_pass(cache: Path) -> None:
    """As far as the answer tells that lies there."""
    (answer,) = cache.glob("letterpress/slurm-*.json")
    known = read_json(answer)
    write_json(answer, {**known, "tried": known["tried"] - ASK_EVERY_S})


def test_of_jobs_that_the_controller_forgot_the_accounting_tells_the_last_end(
    cluster: Cluster, numbers: dict[str, str], began: float, tmp_path: Path
) -> None:
    first, second = cluster.nodes
    expected = {
        numbers["done"]: f"COMPLETED on {first}",
        numbers["failed"]: f"FAILED on {first}",
        numbers["cancelled"]: f"CANCELLED on {first}",
        numbers["in the queue"]: "CANCELLED",
        numbers["requeued"]: "CANCELLED",  # when it waited for nodes again
        numbers["preempted"]: f"COMPLETED on {second}",
        f"{numbers['array']}_0": f"COMPLETED on {first}",
        f"{numbers['array']}_1": f"FAILED on {first}",
        f"{numbers['sweep']}_0": "CANCELLED",
        f"{numbers['sweep']}_1": "CANCELLED",
    }
    waiting = {numbers["waiting"]: "PENDING (JobHeldUser)"}
    wanted = dict.fromkeys({**expected, **waiting}, began)
    assert told(wanted) == dict.fromkeys(expected, "GONE") | waiting
    let_half_a_minute_pass(tmp_path)
    assert told(wanted) == expected | waiting
    let_half_a_minute_pass(tmp_path)
    assert told(wanted) == expected | waiting  # it is squeue's turn, and it knows of one alone


def told(wanted: dict[str, float]) -> dict[str, str]:
    """What look_up says of each job."""
    queue = look_up(wanted)
    assert queue.failure is None
    return {number: str(queue.job(number, since)) for number, since in wanted.items()}


def test_slurm_is_asked_one_thing_in_half_a_minute(
    cluster: Cluster, numbers: dict[str, str], began: float, tmp_path: Path
) -> None:
    before = asked(cluster)
    for turn in ((1, 0), (1, 1), (2, 1), (3, 1)):
        for name in ("done", "failed", "waiting"):
            look_up({numbers[name]: began})
        assert tuple(now - then for now, then in zip(asked(cluster), before, strict=True)) == turn
        let_half_a_minute_pass(tmp_path)


def asked(cluster: Cluster) -> tuple[int, int]:
    """How often slurmctld was asked for a user's jobs, and slurmdbd for any, by their own count."""
    counts = cluster.type("sdiag") + cluster.type("sacctmgr", "show", "stats")
    kinds = ("REQUEST_JOB(?:_USER)?_INFO", "DBD_GET_JOBS_COND")
    found = [re.search(rf"{kind} .* count:(\d+)", counts) for kind in kinds]
    controller, accounting = (int(count[1]) if count else 0 for count in found)
    return controller, accounting


def test_a_run_whose_job_was_cancelled_by_scancel_is_lost_and_status_tells_how(
    cluster: Cluster, numbers: dict[str, str], tmp_path: Path
) -> None:
    run = run_of_sweep(cluster)
    assert "lr-2e-3: lost\n" in cluster.letterpress("status", str(run.root))
    let_half_a_minute_pass(tmp_path)
    status = cluster.letterpress("status", str(run.root))
    assert "lr-2e-3: lost\n" in status
    assert f"\njob        {numbers['sweep']}_1: CANCELLED, as SLURM said " in status


def run_of_sweep(cluster: Cluster) -> RunFolder:
    """The second one."""
    return RunFolder(cluster.checkout / "runs" / "swept" / "lr-2e-3")
