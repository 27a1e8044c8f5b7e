"""slurm/*.sh as typed, on a real SLURM whose nodes and GPUs are made up."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import is_alive
from cluster.run_folder import RunFolder, published_steps, read_json
from tests.conftest import CHECKOUT, PATIENCE_S, read_events, wait_until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="SLURM is not installed: apt-get install --no-install-recommends "
        "slurmctld slurmd slurm-client munge",
    ),
]

TESTBED = CHECKOUT / "slurm" / "testbed"
# What the recipe says, but quick.
QUICK = ("train.data.words.samples=64", "train.preview=null")
ENDLESS = ("train.steps=100000", "train.save_every=100000", "train.log_every=1", *QUICK)
START_TIMEOUT_S = 300  # seconds on a quiet machine
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Cluster:
    """Commands of a user on the login node, in a checkout."""

    def __init__(self, slurm_conf: str, checkout: Path) -> None:
        self.checkout = checkout
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        # The environment that is active at submission is the one that the tests run in.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {f"XDG_{name}_HOME": str(checkout / name.lower()) for name in ("CACHE", "CONFIG")}
        self.environment = {**outside, **own, "SLURM_CONF": slurm_conf, "PATH": path}
        self.nodes = self.type("sinfo", "-h", "--Node", "--partition=main", "--format=%N").split()

    def type(self, *command: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def letterpress(self, *arguments: str) -> str:
        """What the launcher prints."""
        return self.type(sys.executable, "-m", "launcher", *arguments)

    def sbatch(self, *arguments: str) -> str:
        """Submit a job; its number."""
        return self.type("sbatch", "--parsable", *arguments).strip()

    def job(self, number: str) -> dict[str, str]:
        """What SLURM says of a job."""
        shown = self.type("scontrol", "show", "job", "-o", number)
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def nodes_of(self, number: str, key: str = "NodeList") -> list[str]:
        """The nodes that a job has, or avoids."""
        return self.type("scontrol", "show", "hostnames", self.job(number)[key]).split()

    def wait(self, number: str, timeout_s: float = PATIENCE_S) -> dict[str, str]:
        """Wait until a job has ended."""
        wait_until(lambda: self.job(number)["JobState"] in ENDED, timeout_s)
        return self.job(number)

    def run_of(self, number: str) -> RunFolder:
        """The run folder of a job of the mini recipe."""
        return RunFolder(self.checkout / "runs" / f"mini-{number}")

    def controller_log(self) -> str:
        """What SLURM did and saw last."""
        log = Path(self.environment["SLURM_CONF"]).parent / "log" / "slurmctld.log"
        return "\n".join(log.read_text().splitlines()[-200:])

    def output(self, number: str) -> str:
        """What a job printed, and its first rank."""
        attempt = self.run_of(number).attempt(0)
        log = attempt.rank_log(0).read_text() if attempt.rank_log(0).exists() else ""
        return (self.checkout / f"slurm-{number}.out").read_text() + log


def is_training(run: RunFolder, attempt: int) -> bool:
    """Whether an attempt has taken steps."""
    return len(read_events(run.attempt(attempt), "step")) >= 3


def pid_of(run: RunFolder, attempt: int, rank: int) -> int:
    """The process of a rank, by the number that it has here: its node may count from 1."""
    inside = read_json(run.attempt(attempt).heartbeat(rank))["pid"]
    marks = {f"LETTERPRESS_RUN={run.root}", f"RANK={rank}"}
    ranks = (pid for pid, _, variables in processes() if marks <= {*variables})
    (pid,) = (pid for pid in ranks if number_on_node(pid) == inside)
    return pid


def number_on_node(pid: int) -> int:
    """The number of a process on its own node; 0 if it is gone."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"^NSpid:.*\t(\d+)$", status, re.MULTILINE)[0])
    return 0


def processes() -> Iterator[tuple[int, list[str], list[str]]]:
    """The number, command line and environment of every process."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            files = [(entry / name).read_text(errors="replace") for name in ("cmdline", "environ")]
            words, variables = (text.split("\0") for text in files)
            yield int(entry.name), words, variables


def processes_about(folder: Path) -> list[int]:
    """What is alive, on all nodes, and has to do with a folder, by its arguments or variables."""
    return [
        pid
        for pid, words, variables in processes()
        if any(str(folder) in word for word in (*words, *variables)) and is_alive(pid)
    ]


def parent_of(pid: int) -> int:
    """The process that started one: of a rank, its agent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def start_cluster(checkout: Path, nodes: int, *options: str) -> Iterator[Cluster]:
    """Nodes with eight A100s each that are files."""
    with subprocess.Popen(
        [sys.executable, str(TESTBED), "--nodes", str(nodes), "--gpus", "8", *options],
        stdout=subprocess.PIPE,
        text=True,
    ) as testbed:
        assert testbed.stdout is not None
        name, _, slurm_conf = testbed.stdout.readline().strip().partition("=")
        assert name == "SLURM_CONF", "the testbed did not start"
        yield Cluster(slurm_conf, checkout)
        testbed.terminate()


@pytest.fixture(scope="module")
def cluster(checkout: Path) -> Iterator[Cluster]:
    """A cluster of three nodes."""
    with start_cluster(checkout, nodes=3) as cluster:
        yield cluster


def test_the_script_runs_as_typed_with_a_rank_for_each_gpu(cluster: Cluster) -> None:
    number = cluster.sbatch(
        *("slurm/train_8xA100.sh", "recipes/mini.yaml"),
        *("--set", "train.steps=2", "train.save_every=2", *QUICK),
    )
    job = cluster.wait(number)
    assert job["JobState"] == "COMPLETED", cluster.output(number)
    run = cluster.run_of(number)
    (record,) = run.attempt(0).node_records()
    assert [rank["rank"] for rank in record["ranks"]] == list(range(8))
    assert record["host"] in cluster.nodes
    assert "8 ranks go on after step 0 of 2" in run.attempt(0).rank_log(0).read_text()
    assert [step for step, _ in published_steps(run.exports)] == [0, 2]
    state = read_json(run.state)
    assert state["outcome"] == "done"
    assert 0 <= state["attempts"][0]["started"] - state["attempts"][0]["queued"] < 60
    assert 0 < state["gpu_hours"]["goodput"] < 1


def test_ranks_of_two_nodes_meet_and_after_the_warning_of_the_time_limit_go_on_to_the_digit(
    cluster: Cluster,
) -> None:
    asked = ("--nodes=2", "--gpus-per-node=a100:1", "slurm/train_8xA100.sh", "recipes/mini.yaml")
    number, calm_number = (cluster.sbatch(*asked, "--set", *ENDLESS) for _ in range(2))
    run, calm = cluster.run_of(number), cluster.run_of(calm_number)
    wait_until(lambda: is_training(run, 0), START_TIMEOUT_S)
    cluster.type("scancel", "--batch", "--signal=USR1", number)  # as --signal=B:USR1@300 does
    wait_until(lambda: is_training(run, 1), START_TIMEOUT_S)  # it was queued again by itself
    records = {record["node"]: record for record in run.attempt(0).node_records()}
    assert [records[node]["ranks"][0]["rank"] for node in (0, 1)] == [0, 1]
    assert {record["exit_code"] for record in records.values()} == {ExitCode.STOPPED}
    ((step, _),) = published_steps(run.checkpoints)
    assert f"ranks go on after step {step} of" in run.attempt(1).rank_log(0).read_text()
    wait_until(lambda: step + 3 in losses(calm), START_TIMEOUT_S)
    for one in (run, calm):
        cluster.letterpress("stop", str(one.root))
    job = cluster.wait(number)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", f"{int(ExitCode.STOPPED)}:0")
    assert job["Restarts"] == "1"
    assert read_json(run.state)["outcome"] == "stopped"
    cluster.wait(calm_number)
    both = losses(run).keys() & losses(calm).keys()
    assert both >= set(range(1, step + 4))
    assert all(losses(run)[at] == losses(calm)[at] for at in both)


def losses(run: RunFolder) -> dict[int, float]:
    """Of each step that the run has taken."""
    attempts = [run.attempt(number) for number in range((run.last_attempt() or 0) + 1)]
    steps = [event for attempt in attempts for event in read_events(attempt, "step")]
    return {event["step"]: event["loss"] for event in steps}


def test_a_submitted_run_goes_on_in_place_and_then_without_the_node_that_failed(
    cluster: Cluster,
) -> None:
    cluster.letterpress(
        *("submit", "recipes/mini.yaml", "--on", "slurm", "--name", "submitted", "--set"),
        *("ranks.nodes=2", "ranks.per_node=1", "slurm.inside=[env, INSIDE=image]", *ENDLESS),
    )
    first, second, third = cluster.nodes
    run = RunFolder(cluster.checkout / "runs" / "submitted")
    number = read_json(run.state)["slurm_job"]["number"]
    wait_until(lambda: is_training(run, 0), START_TIMEOUT_S)
    environment = Path(f"/proc/{pid_of(run, 0, rank=1)}/environ").read_text().split("\0")
    assert "INSIDE=image" in environment
    os.kill(pid_of(run, 0, rank=1), signal.SIGKILL)
    wait_until(lambda: is_training(run, 1), START_TIMEOUT_S)
    assert cluster.job(number)["Restarts"] == "0"
    assert cluster.nodes_of(number) == [first, second]  # in place
    os.kill(parent_of(pid_of(run, 1, rank=1)), signal.SIGKILL)  # an agent, as if its node were gone
    wait_until(lambda: is_training(run, 2), START_TIMEOUT_S)
    assert cluster.job(number)["Restarts"] == "1"
    assert cluster.nodes_of(number, "ExcNodeList") == [second]
    assert cluster.nodes_of(number) == [first, third]
    assert f"left out   {second} until" in cluster.letterpress("status", str(run.root))
    ranks = [pid_of(run, 2, rank) for rank in (0, 1)]
    left = [*ranks, *map(parent_of, ranks)]
    cluster.letterpress("cancel", str(run.root))
    wait_until(lambda: not any(map(is_alive, left)))
    assert read_json(run.state)["outcome"] == "cancelled"


def test_a_user_error_is_not_retried(cluster: Cluster) -> None:
    cluster.letterpress(
        *("submit", "recipes/mini.yaml", "--on", "slurm", "--name", "mistaken", "--set"),
        *("ranks.per_node=1", "train.device=cuda", *QUICK),
    )
    run = RunFolder(cluster.checkout / "runs" / "mistaken")
    job = cluster.wait(read_json(run.state)["slurm_job"]["number"], START_TIMEOUT_S)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", f"{int(ExitCode.BAD_INPUT)}:0")
    (attempt,) = read_json(run.state)["attempts"]
    assert attempt["verdict"]["cause"] == "user_error"
    assert "mistaken: failed" in cluster.letterpress("status", str(run.root))


def test_a_mistake_ends_the_job_with_its_line(cluster: Cluster) -> None:
    number = cluster.sbatch(
        *("--gpus-per-node=a100:1", "slurm/train_8xA100.sh", "recipes/mini.yaml"),
        *("--set", "train.stpes=2"),
    )
    job = cluster.wait(number)
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
        timeout=PATIENCE_S,
    )
    assert done.returncode != 0
    assert "error: preflight: versions: torch differs: " in done.stderr
    assert f"1.0 on {cluster.nodes[1]}: use one environment" in done.stderr
    records = run.attempt(0).node_records()
    assert [record["exit_code"] for record in records] == [ExitCode.BAD_INPUT] * 2
    assert not started.exists()
