"""The backend that runs on this machine: samples, then one agent and one farm, in view."""

import sys

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, read_json
from cluster.state import end_run
from launcher.job import Job
from launcher.programs import farm_of, sample_maker
from launcher.recipe import Recipe


def run_here(recipe: Recipe, run: RunFolder) -> int:
    """Run `run` on this machine to its end, in as many attempts as `decide` grants; its exit code.

    The farm lives through them all.
    """
    job, code = Job(run), int(ExitCode.RETRY_ELSEWHERE)
    job.begin()
    try:
        code = _attempts(job, recipe)
        end_run(run, job.attempt, code)  # tells the farm that no further export will come
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
        outcome = end_run(run, job.attempt, code)
        job.follower.close()
        job.follower.say(f"the run {'has failed' if outcome == 'failed' else f'is {outcome}'}")
    return code


def _attempts(job: Job, recipe: Recipe) -> int:
    """Attempt until one is not to be followed by another; its exit code."""
    while True:
        code = _make_samples(job)
        if code == ExitCode.DONE:
            code = _train(job, recipe)
        if not job.end(code).restart:
            return code
        job.begin()


def _make_samples(job: Job) -> int:
    """Make the samples, once for all attempts."""
    code: int = ExitCode.DONE
    if not job.samples_made:
        code = job.wait(job.start(sample_maker(job.run), log=None))
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
    """Start the farm, or start it anew if it has ended; one that runs goes on."""
    if job.farm is None or job.farm.poll() is not None:
        job.farm_failed = False
        job.farm = job.start(farm_of(job.run), log=job.run.farm_log)
