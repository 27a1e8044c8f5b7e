"""The backend that runs on this machine: samples, then one agent and one farm, in view."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.exit_codes import ExitCode
from cluster.processes import kill_session, start_session
from cluster.run_folder import AttemptFolder, RunFolder
from cluster.state import begin_attempt, end_attempt, end_run
from launcher.follow import Follower
from launcher.recipe import Recipe

LOOK_EVERY_S = 0.2
GRACE_S = 20.0  # for Ray to end its processes


@dataclass
class Job:
    """The processes of an attempt on this machine."""

    run: RunFolder
    attempt: int
    follower: Follower
    stops_asked: int = 0
    farm: subprocess.Popen[bytes] | None = None
    farm_failed: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: Sequence[str], log: Path | None) -> subprocess.Popen[bytes]:
        """Start a program of ours from the run's own copy of the code."""
        environment = {**os.environ, "PYTHONPATH": str(self.run.code), "PYTHONUNBUFFERED": "1"}
        process = start_session(
            [sys.executable, "-m", *command], log=log, env=environment, cwd=self.run.code
        )
        self.processes.append(process)
        return process

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Show what goes on until a process has ended; its exit code.

        The first Ctrl-C asks the run to save and stop, the second ends it at once.
        """
        while process.poll() is None:
            try:
                self.follower.update()
                self._look_at_farm()
                time.sleep(LOOK_EVERY_S)
            except KeyboardInterrupt:
                self.stops_asked += 1
                if self.stops_asked > 1:
                    raise
                self.run.request_stop("Ctrl-C in the launcher")
                self.follower.say(
                    "saving at the next step, then stopping; Ctrl-C again ends it now"
                )
        self.follower.update()
        self._look_at_farm()
        return process.returncode

    def _look_at_farm(self) -> None:
        """Say once that the farm has failed: the training goes on without it."""
        if self.farm and self.farm.poll() and not self.farm_failed:
            self.farm_failed = True
            log = self.run.attempt(self.attempt).farm_log
            self.follower.say(f"the farm failed: {last_words(log.read_text())}; see {log}")

    def kill(self) -> None:
        """End whatever still runs, and all that it started."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # agent and farm end what they started
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            kill_session(process.pid)
            process.wait()


def run_here(recipe: Recipe, run: RunFolder) -> int:
    """Run one attempt of `run` on this machine to its end; its exit code."""
    attempt = begin_attempt(run, backend="local", pid=os.getpid())
    job = Job(run, attempt, Follower(run, attempt))
    code: int = ExitCode.RETRY_ELSEWHERE
    try:
        code = _make_samples(job, recipe)
        if code == ExitCode.DONE:
            code = _train_and_score(job, recipe)
    except KeyboardInterrupt:
        job.follower.say("ended at once; what was published last can be resumed from")
        code = ExitCode.RETRY_ELSEWHERE
    finally:
        job.kill()
        end_attempt(run, attempt, code)
        outcome = end_run(run, code)
        job.follower.close()
        job.follower.say(f"the run {'has failed' if outcome == 'failed' else f'is {outcome}'}")
    return code


def _make_samples(job: Job, recipe: Recipe) -> int:
    """Build the samples, and encode them if the recipe has a cache; again at no cost."""
    code: int = ExitCode.DONE
    for command in ("build", "encode") if recipe.train.data.cache else ("build",):
        if code == ExitCode.DONE:
            maker = job.start(["trainer.data", command, "--config", str(job.run.recipe)], log=None)
            code = job.wait(maker)
    return ExitCode.STOPPED if job.stops_asked else code


def _train_and_score(job: Job, recipe: Recipe) -> int:
    """Train, and score beside it; what is published is scored to the end, also after a stop."""
    if recipe.eval:
        command = ["evalfarm", "watch", "--run", str(job.run.root)]
        job.farm = job.start(command, log=job.run.attempt(job.attempt).farm_log)
    job.follower.say(f"starting {recipe.ranks.per_node} ranks in {job.run.root}")
    rank = ["-m", "trainer", "--config", str(job.run.recipe), "--attempt", str(job.attempt)]
    agent = job.start(
        [
            *("cluster.agent", "--run", str(job.run.root), "--attempt", str(job.attempt)),
            *("--ranks", str(recipe.ranks.per_node), "--", sys.executable, *rank),
        ],
        log=None,
    )
    code = job.wait(agent)
    end_run(job.run, code)  # tells the farm that no further export will come
    if code not in (ExitCode.DONE, ExitCode.STOPPED):
        job.follower.say(why_it_failed(job.run.attempt(job.attempt)))
    farm_code = job.wait(job.farm) if job.farm else ExitCode.DONE
    return code or farm_code


def why_it_failed(attempt: AttemptFolder) -> str:
    """The rank that failed first, and its last words."""
    for record in attempt.node_records():
        if "failed_check" in record:
            return f"preflight let no rank start; see {attempt.preflight}"
        rank = record["first_failed_rank"]
        if rank is not None:
            words = last_words("\n".join(record["log_tail"]))
            return f"rank {rank} on {record['host']} failed: {words}; see {attempt.rank_log(rank)}"
    return f"no rank started; see {attempt.root}"


def last_words(log: str) -> str:
    """The line of a log that says what went wrong: our own error line, or else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]
