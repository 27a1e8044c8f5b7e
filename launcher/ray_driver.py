"""What a job on Ray runs: samples, the farm, and attempts until none may follow.

python -m launcher.ray_driver RUN
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.config import build, read_yaml
from cluster.exit_codes import ExitCode
from cluster.program import run_program
from cluster.ranks.processes import kill_session
from cluster.ray.agents import Room, check_room, run_agents
from cluster.run_folder import RunFolder, read_json
from cluster.state import begin_attempt, end_attempt, end_run, summed_up
from cluster.verdict.verdict import SchedulerFacts
from launcher.programs import farm_of, sample_makers, start_program
from launcher.recipe import Recipe

GRACE_S = 20.0  # for the farm to end its actors


def main() -> int:
    """Drive the run that is named on the command line."""
    run = RunFolder.existing(sys.argv[1])
    return run_program(lambda: drive(run))


def drive(run: RunFolder) -> int:
    """Run a frozen run to its end; 0 if it is done or was stopped, as Ray knows no third."""
    import ray

    ray.init(logging_level="error")  # RAY_ADDRESS says where: Ray sets it for its jobs
    recipe = build(Recipe, read_yaml(run.recipe))
    number, code = run.last_attempt() or 0, int(ExitCode.BAD_INPUT)
    try:
        check_room(_room(recipe, run))
        code = _make_samples(recipe, run)
        with _farm(recipe, run) as farm:
            if code == ExitCode.DONE:
                number, code = _attempts(recipe, run)
            end_run(run, number, code)  # tells the farm that no further export will come
            farm_code = farm.wait() if farm else ExitCode.DONE
        code = code or farm_code
    finally:
        print(f"{run.root.name} is {end_run(run, number, code)}", flush=True)
    return ExitCode.DONE if code == ExitCode.STOPPED else code


def _attempts(recipe: Recipe, run: RunFolder) -> tuple[int, int]:
    """Attempt until one is not to be followed by another; its number and exit code."""
    command = [sys.executable, "-m", "trainer", "--config", str(run.recipe)]
    while True:
        room = _room(recipe, run)
        check_room(room)
        number = begin_attempt(run, backend="ray", job=read_json(run.state)["ray_job"]["id"])
        if recipe.eval:
            _link_farm_log(run, number)
        hosts, dead = run_agents(run, number, room, [*command, "--attempt", str(number)])
        code = summed_up(run, number)
        facts = SchedulerFacts(hosts=tuple(hosts), down_hosts=tuple(dead))
        decision = end_attempt(run, number, code, facts)
        print(decision.why, flush=True)
        if not decision.restart:
            return number, code


def _room(recipe: Recipe, run: RunFolder) -> Room:
    """What the recipe asks for, without the nodes that attempts of this job ended of."""
    state = read_json(run.state)
    decisions = [
        attempt["decision"]
        for attempt in state["attempts"]
        if attempt.get("job") == state["ray_job"]["id"] and "decision" in attempt
    ]
    return Room(
        nodes=recipe.ranks.nodes,
        ranks=recipe.ranks.per_node,
        on_gpus=recipe.train.device == "cuda",
        without=tuple({decision["without"] for decision in decisions if decision["without"]}),
    )


def _make_samples(recipe: Recipe, run: RunFolder) -> int:
    """Make the samples; the exit code of what makes them."""
    for command in sample_makers(recipe, run):
        if code := start_program(run, command, log=None).wait():
            return code
    return ExitCode.DONE


@contextlib.contextmanager
def _farm(recipe: Recipe, run: RunFolder) -> Iterator[subprocess.Popen[bytes] | None]:
    """The farm beside the training, on the same Ray; None if the recipe has none."""
    if not recipe.eval:
        yield None
        return
    farm = start_program(run, farm_of(run), log=_farm_log(run))
    try:
        yield farm
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            farm.wait(GRACE_S)
        kill_session(farm.pid)
        farm.wait()


def _farm_log(run: RunFolder) -> Path:
    """One for all attempts: the farm lives through them."""
    return run.evaluations / "farm.log"


def _link_farm_log(run: RunFolder, number: int) -> None:
    link = run.attempt(number).farm_log
    link.symlink_to(os.path.relpath(_farm_log(run), link.parent))


if __name__ == "__main__":
    sys.exit(main())
