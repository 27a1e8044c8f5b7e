"""slurm/*.sh as typed, on a real SLURM whose nodes and GPUs are made up."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, published_steps, read_json
from tests.conftest import CHECKOUT, wait_until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="SLURM is not installed: apt-get install --no-install-recommends "
        "slurmctld slurmd slurm-client munge",
    ),
]

# What the recipe says, but quick.
QUICK = ("train.data.words.samples=64", "train.preview=null")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Cluster:
    """Commands of a user on the login node, in a checkout."""

    def __init__(self, slurm_conf: str, checkout: Path) -> None:
        self.checkout = checkout
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        # The environment that is active at submission is the one that the tests run in.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**outside, "SLURM_CONF": slurm_conf, "PATH": path}

    def type(self, *command: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sbatch(self, *arguments: str) -> str:
        """Submit a job; its number."""
        return self.type("sbatch", "--parsable", *arguments).strip()

    def job(self, number: str) -> dict[str, str]:
        """What SLURM says of a job."""
        shown = self.type("scontrol", "show", "job", "-o", number)
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def wait(self, number: str, timeout_s: float) -> dict[str, str]:
        """Wait until a job has ended."""
        wait_until(lambda: self.job(number)["JobState"] in ENDED, timeout_s)
        return self.job(number)

    def run_of(self, number: str) -> RunFolder:
        """The run folder of a job of the mini recipe."""
        return RunFolder(self.checkout / "runs" / f"mini-{number}")

    def output(self, number: str) -> str:
        """What a job printed, and its first rank."""
        attempt = self.run_of(number).attempt(0)
        log = attempt.rank_log(0).read_text() if attempt.rank_log(0).exists() else ""
        return (self.checkout / f"slurm-{number}.out").read_text() + log


@pytest.fixture(scope="module")
def cluster(checkout: Path) -> Iterator[Cluster]:
    """Two nodes with eight A100s each that are files."""
    with subprocess.Popen(
        [sys.executable, str(CHECKOUT / "slurm" / "testbed"), "--nodes", "2", "--gpus", "8"],
        stdout=subprocess.PIPE,
        text=True,
    ) as testbed:
        assert testbed.stdout is not None
        name, _, slurm_conf = testbed.stdout.readline().strip().partition("=")
        assert name == "SLURM_CONF", "the testbed did not start"
        yield Cluster(slurm_conf, checkout)
        testbed.terminate()


def test_the_script_runs_as_typed_with_a_rank_for_each_gpu(cluster: Cluster) -> None:
    number = cluster.sbatch(
        *("slurm/train_8xA100.sh", "recipes/mini.yaml"),
        *("--set", "train.steps=2", "train.save_every=2", *QUICK),
    )
    job = cluster.wait(number, 240)
    assert job["JobState"] == "COMPLETED", cluster.output(number)
    run = cluster.run_of(number)
    (record,) = run.attempt(0).node_records()
    assert [rank["rank"] for rank in record["ranks"]] == list(range(8))
    assert record["host"].startswith("127.0.0.1")
    assert "8 ranks go on after step 0 of 2" in run.attempt(0).rank_log(0).read_text()
    assert [step for step, _ in published_steps(run.exports)] == [0, 2]
    assert read_json(run.state)["outcome"] == "done"


def test_ranks_of_two_nodes_meet_and_the_warning_of_the_time_limit_saves(cluster: Cluster) -> None:
    number = cluster.sbatch(
        *("--nodes=2", "--gpus-per-node=a100:1", "slurm/train_8xA100.sh", "recipes/mini.yaml"),
        *("--set", "train.steps=100000", "train.save_every=100000", "train.log_every=1", *QUICK),
    )
    run = cluster.run_of(number)
    events = run.attempt(0).events
    wait_until(lambda: events.exists() and '"step": 3,' in events.read_text(), 120)
    cluster.type("scancel", "--batch", "--signal=USR1", number)  # as --signal=B:USR1@300 does
    job = cluster.wait(number, 60)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", f"{int(ExitCode.STOPPED)}:0")
    records = {record["node"]: record for record in run.attempt(0).node_records()}
    assert [records[node]["ranks"][0]["rank"] for node in (0, 1)] == [0, 1]
    assert "is nearly up" in run.stop_request.read_text()
    assert len(published_steps(run.checkpoints)) == 1
    assert read_json(run.state)["outcome"] == "stopped"


def test_a_mistake_ends_the_job_with_its_line(cluster: Cluster) -> None:
    number = cluster.sbatch(
        *("--gpus-per-node=a100:1", "slurm/train_8xA100.sh", "recipes/mini.yaml"),
        *("--set", "train.stpes=2"),
    )
    job = cluster.wait(number, 60)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", f"{int(ExitCode.BAD_INPUT)}:0")
    printed = (cluster.checkout / f"slurm-{number}.out").read_text()
    assert printed == "error: train.stpes is not a key: did you mean train.steps?\n"


def test_a_node_with_another_environment_ends_the_job_before_a_rank_starts(
    cluster: Cluster, tmp_path: Path
) -> None:
    # On the second node another torch comes first, as far as its metadata tell.
    other = tmp_path / "other" / "torch-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    python = tmp_path / "python"
    change = f'[ "$SLURM_NODEID" = 0 ] || export PYTHONPATH={other.parent}'
    python.write_text(f'#!/bin/sh\n{change}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run = RunFolder(tmp_path / "run")
    agent = ["-m", "cluster.agent", "--run", str(run.root), "--attempt", str(run.begin_attempt())]
    started = run.root / "started"
    done = subprocess.run(
        [
            *("srun", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=a100:1", str(python)),
            *(*agent, "--slurm", "--", "touch", str(started)),
        ],
        cwd=cluster.checkout,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode != 0
    assert "error: preflight: versions: torch differs: " in done.stderr
    assert "1.0 on 127.0.0.12: use one environment" in done.stderr
    records = run.attempt(0).node_records()
    assert [record["exit_code"] for record in records] == [ExitCode.BAD_INPUT] * 2
    assert not started.exists()
