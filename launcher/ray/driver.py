"""What a job on Ray runs: samples, the farm, and attempts until none may follow.

python -m launcher.ray.driver RUN
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cluster.config import build, read_yaml
from cluster.exit_codes import ExitCode
from cluster.program import run_program
from cluster.ranks.processes import kill_session
from cluster.ray.agents import Seats, run_agents, seated
from cluster.ray.room import Room, check_room
from cluster.run_folder import RunFolder, read_json
from cluster.state import begin_attempt, cancel_run, end_attempt, end_run, summed_up
from cluster.verdict.restart import Decision
from cluster.verdict.verdict import SchedulerFacts
from launcher.programs import farm_of, sample_maker, start_program
from launcher.recipe import Recipe


def main() -> int:
    """Drive the run that is named on the command line."""
    run = RunFolder.existing(sys.argv[1])
    return run_program(lambda: drive(run))


def drive(run: RunFolder) -> int:
    """Run a frozen run to its end; 0 if it is done or was stopped, as Ray knows no third."""
    import ray

    ray.init(logging_level="error")  # RAY_ADDRESS says where: Ray sets it for its jobs
    # From `letterpress cancel`, `ray job stop`. Of what handlers raise Ray passes on that alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = _train_and_score(build(Recipe, read_yaml(run.recipe)), run)
    except KeyboardInterrupt:
        cancel_run(run)
        code = ExitCode.DONE
    except Exception:
        end_run(run, _newest(run), ExitCode.BAD_INPUT)
        raise
    print(f"{run.root.name} is {read_json(run.state)['outcome']}", flush=True)
    return ExitCode.DONE if code == ExitCode.STOPPED else code


def _train_and_score(recipe: Recipe, run: RunFolder) -> int:
    """Samples, attempts until none may follow, and the farm beside them; the exit code of all."""
    _heed_cancel(run)
    if not recipe.ray.grows:
        check_room(room_of(recipe, run))
    code = start_program(run, sample_maker(run), log=None).wait()
    with _farm(recipe, run) as farm:
        if code == ExitCode.DONE:
            command = [sys.executable, "-m", "trainer", "--config", str(run.recipe)]
            code = attempt_until_it_ends(recipe, run, command)
        end_run(run, _newest(run), code)  # tells the farm that no further export will come
        farm_code = farm.wait() if farm else ExitCode.DONE
    return code or farm_code


def attempt_until_it_ends(recipe: Recipe, run: RunFolder, command: Sequence[str]) -> int:
    """Attempt until one is not to be followed by another; its exit code."""
    while True:
        asked = time.time()
        run.clear_stop_request()  # one that is made from here on is for this wait
        with seated(room_of(recipe, run), run.stop_request.exists) as seats:
            if seats is None:
                return ExitCode.STOPPED
            _heed_cancel(run)
            number = begin_attempt(
                run,
                backend="ray",
                job=_job(run),
                hosts=seats.names,
                node_ids=[node.id for node in seats.nodes],
                queued=asked,
            )
            decision = _run(run, number, seats, [*command, "--attempt", str(number)])
        print(decision.why, flush=True)
        if not decision.restart:
            return summed_up(run, number)


def _heed_cancel(run: RunFolder) -> None:
    """End as by SIGTERM if somebody has ended the run.

    Ray's SIGTERM may find the shell alone that starts us: it ends, we do not, and Ray takes the job
    for stopped (ray 2.60).
    """
    if read_json(run.state)["outcome"]:
        raise KeyboardInterrupt


def _run(run: RunFolder, number: int, seats: Seats, command: Sequence[str]) -> Decision:
    """Run an attempt to its end; what follows it."""
    hosts = tuple(seats.names)
    try:
        loss = run_agents(run, number, seats, command)
    except KeyboardInterrupt:
        facts = SchedulerFacts(state="CANCELLED", hosts=hosts)
        end_attempt(run, number, ExitCode.RETRY_ELSEWHERE, facts)
        raise
    facts = SchedulerFacts(hosts=hosts, down_hosts=loss.hosts, output=loss.words)
    return end_attempt(run, number, summed_up(run, number), facts)


def room_of(recipe: Recipe, run: RunFolder) -> Room:
    """What the recipe asks for, without the nodes that attempts of this job ended of."""
    without = {
        attempt["node_ids"][attempt["hosts"].index(attempt["decision"]["without"])]
        for attempt in _attempts(run)
        if "decision" in attempt and attempt["decision"]["without"] in attempt["hosts"]
    }
    return Room(
        nodes=recipe.ranks.nodes,
        ranks=recipe.ranks.per_node,
        on_gpus=recipe.train.device == "cuda",
        without=frozenset(without),
    )


def _attempts(run: RunFolder) -> list[dict[str, Any]]:
    """Those of this job."""
    attempts = read_json(run.state)["attempts"]
    return [attempt for attempt in attempts if attempt.get("job") == _job(run)]


def _newest(run: RunFolder) -> int:
    """The number of this job's newest attempt, or of the one before it."""
    own = [attempt["number"] for attempt in _attempts(run)]
    return int(max(own, default=run.last_attempt() or 0))


def _job(run: RunFolder) -> str:
    return str(read_json(run.state)["ray_job"]["id"])


@contextlib.contextmanager
def _farm(recipe: Recipe, run: RunFolder) -> Iterator[subprocess.Popen[bytes] | None]:
    """The farm beside the training, on the same Ray; None if the recipe has none."""
    if not recipe.eval:
        yield None
        return
    farm = start_program(run, farm_of(run), log=run.farm_log)
    try:
        yield farm
    finally:
        kill_session(farm.pid)  # Ray ends its actors
        farm.wait()


if __name__ == "__main__":
    sys.exit(main())
