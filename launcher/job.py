"""The processes of a run on this machine: started, watched with the user, ended."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.exit_codes import ExitCode
from cluster.program import last_words
from cluster.ranks.processes import kill_session
from cluster.run_folder import RunFolder, read_json
from cluster.state import begin_attempt, end_attempt
from cluster.verdict.restart import Decision
from launcher.programs import start_program
from launcher.view.follow import Follower

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
        """Start a program of the run's, which ends with us."""
        process = start_program(self.run, command, log)
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
            log = self.run.farm_log
            self.follower.say(f"the farm failed: {last_words(log)}; see {log}")

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


def why_it_failed(run: RunFolder, attempt_number: int) -> str:
    """The verdict on an attempt, in one line."""
    (verdict,) = (
        attempt["verdict"]
        for attempt in read_json(run.state)["attempts"]
        if attempt["number"] == attempt_number
    )
    if verdict["rank"] is None:
        return f"attempt {attempt_number} ended: {verdict['evidence']}"
    return f"rank {verdict['rank']} on {verdict['node']} failed: {verdict['evidence']}"
