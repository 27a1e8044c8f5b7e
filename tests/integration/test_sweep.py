"""A sweep as one job array, on a real SLURM."""

import pytest

from cluster.run_folder import RunFolder, read_json
from cluster.slurm.commands import find_job, requeue
from tests.conftest import wait_until
from tests.integration.test_slurm import QUICK, START_TIMEOUT_S, Cluster, cluster, pytestmark

__all__ = ["cluster", "pytestmark"]  # the fixture, and where it is skipped


def test_the_runs_of_a_sweep_are_tasks_of_one_array_and_each_is_a_run(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = cluster.letterpress(
        *("submit", "recipes/mini.yaml", "--on", "slurm", "--name", "swept", "--at-once", "1"),
        *("--sweep", "train.optim.lr=1e-3,2e-3", "--set", "ranks.per_node=1", "train.steps=2"),
        *("train.save_every=2", *QUICK),
    )
    folder = cluster.checkout / "runs" / "swept"
    first, second = RunFolder(folder / "lr-1e-3"), RunFolder(folder / "lr-2e-3")
    job = read_json(first.state)["slurm_job"]
    array = job["number"].removesuffix("_0")
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    assert find_job(job["token"]) == array
    assert f"queued as job {array}, a task for each of 2 runs" in printed
    assert "lr-2e-3: queued" in cluster.letterpress("status", str(second.root))
    cluster.letterpress("cancel", str(second.root))
    ended = cluster.wait(f"{array}_0", START_TIMEOUT_S)
    output = first.root / f"slurm-{array}_0.out"
    assert ended["JobState"] == "COMPLETED", output.read_text()
    (attempt,) = read_json(first.state)["attempts"]
    assert attempt["job"] == f"{array}_0"
    assert 0 <= attempt["started"] - attempt["queued"] < 60
    rows = cluster.letterpress("status", str(folder)).splitlines()
    assert [row.split()[:4] for row in rows] == [
        ["run", "train.optim.lr", "state", "step"],
        ["lr-1e-3", "0.001", "done", "2/2"],
        ["lr-2e-3", "0.002", "cancelled", "–"],
    ]
    assert not second.attempts.exists()


def test_one_task_is_queued_again_elsewhere_and_the_others_go_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = cluster.sbatch("--array=0-1", "--nodes=1", "--requeue", "--wrap", "sleep 600")
    tasks = [f"{array}_0", f"{array}_1"]
    wait_until(lambda: all(cluster.job(task)["JobState"] == "RUNNING" for task in tasks))
    assert cluster.job(tasks[1])["JobId"] == array  # the last task bears the array's number
    node = cluster.job(tasks[1])["NodeList"]
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    assert requeue(tasks[1], excluded=[node]) == []
    wait_until(lambda: cluster.job(tasks[1])["JobState"] == "PENDING")
    jobs = [cluster.job(task) for task in tasks]
    assert [job["Restarts"] for job in jobs] == ["0", "1"]
    assert [job["ExcNodeList"] for job in jobs] == ["(null)", node]
    assert jobs[0]["JobState"] == "RUNNING"
    cluster.type("scancel", array)
