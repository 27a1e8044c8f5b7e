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
from cluster.restart import Decision
from cluster.run_folder import RunFolder, read_json
from cluster.state import begin_attempt, end_attempt, end_run
from launcher.follow import Follower
from launcher.recipe import Recipe

LOOK_EVERY_S = 0.2
GRACE_S = 20.0  # for Ray to end its processes


@dataclass
class Job:
    """The processes of a run on this machine, over its attempts."""

    run: RunFolder
    attempt: int = -1
    stops_asked: int = 0
    farm: subprocess.Popen[bytes] | None = None
    farm_failed: bool = False
    samples_made: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    follower: Follower = field(init=False)

    def begin(self) -> None:
        """Open the next attempt, and follow that."""
        self.attempt = begin_attempt(self.run, backend="local", pid=os.getpid())
        self.follower = Follower(self.run, self.attempt)

    def end(self, code: int) -> Decision:
        """Record how the attempt ended, and tell why and what follows."""
        decision = end_attempt(self.run, self.attempt, code)
        if code not in (ExitCode.DONE, ExitCode.STOPPED):
            self.follower.say(why_it_failed(self.run, self.attempt))
            self.follower.say(decision.why)
        self.follower.close()
        return decision

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
    """Run `run` on this machine to its end, in as many attempts as `decide` grants; its exit code.

    The farm lives through them all.
    """
    job, code = Job(run), int(ExitCode.RETRY_ELSEWHERE)
    job.begin()
    try:
        code = _attempts(job, recipe)
        end_run(run, code)  # tells the farm that no further export will come
        farm_code = job.wait(job.farm) if job.farm else ExitCode.DONE
        code = code or farm_code
    except KeyboardInterrupt:
        run.request_stop("Ctrl-C in the launcher")
        job.follower.say("ended at once; what was published last can be resumed from")
        code = ExitCode.RETRY_ELSEWHERE
    finally:
        job.kill()
        if "ended" not in read_json(run.state)["attempts"][-1]:
            job.end(code)
        outcome = end_run(run, code)
        job.follower.close()
        job.follower.say(f"the run {'has failed' if outcome == 'failed' else f'is {outcome}'}")
    return code


def _attempts(job: Job, recipe: Recipe) -> int:
    """Attempt until one is not to be followed by another; its exit code."""
    while True:
        code = _make_samples(job, recipe)
        if code == ExitCode.DONE:
            code = _train(job, recipe)
        if not job.end(code).restart:
            return code
        job.begin()


def _make_samples(job: Job, recipe: Recipe) -> int:
    """Build the samples, and encode them if the recipe has a cache; once for all attempts."""
    code: int = ExitCode.DONE
    for command in ("build", "encode") if recipe.train.data.cache else ("build",):
        if code == ExitCode.DONE and not job.samples_made:
            maker = job.start(["trainer.data", command, "--config", str(job.run.recipe)], log=None)
            code = job.wait(maker)
    job.samples_made = code == ExitCode.DONE
    return ExitCode.STOPPED if job.stops_asked else code


def _train(job: Job, recipe: Recipe) -> int:
    """Train, with the farm beside it; the agent's exit code."""
    if recipe.eval:
        see_to_the_farm(job)
    job.follower.say(f"starting {recipe.ranks.per_node} ranks in {job.run.root}")
    rank = ["-m", "trainer", "--config", str(job.run.recipe), "--attempt", str(job.attempt)]
    agent = job.start(
        [
            *("cluster.agent", "--run", str(job.run.root), "--attempt", str(job.attempt)),
            *("--ranks", str(recipe.ranks.per_node), "--", sys.executable, *rank),
        ],
        log=None,
    )
    return job.wait(agent)


def see_to_the_farm(job: Job) -> None:
    """Start the farm, or start it anew if it has ended; one that runs goes on, and so its log."""
    log = job.run.attempt(job.attempt).farm_log
    if job.farm and job.farm.poll() is None:
        earlier = job.run.attempt(job.attempt - 1).farm_log
        log.symlink_to(Path("..") / earlier.relative_to(job.run.attempts))
        return
    job.farm_failed = False
    job.farm = job.start(["evalfarm", "watch", "--run", str(job.run.root)], log=log)


def why_it_failed(run: RunFolder, attempt_number: int) -> str:
    """The verdict on an attempt, in one line."""
    (verdict,) = (
        attempt["verdict"]
        for attempt in read_json(run.state)["attempts"]
        if attempt["number"] == attempt_number
    )
    if verdict["rank"] is None:
        return f"attempt {attempt_number} failed: {verdict['evidence']}"
    return f"rank {verdict['rank']} on {verdict['node']} failed: {verdict['evidence']}"


def last_words(log: str) -> str:
    """The line of a log that says what went wrong: our own error line, or else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]
