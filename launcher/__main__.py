"""The command line: letterpress submit, plan, status, logs, stop, resume, board and the rest."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cluster.config import add_set_option, build, describe, read_yaml, to_yaml
from cluster.exit_codes import ExitCode
from cluster.program import run_program
from cluster.run_folder import AttemptFolder, RunFolder, read_json
from cluster.state import begin_attempt, end_attempt, end_run, summed_up
from launcher.freeze import freeze
from launcher.missing import missing_files
from launcher.recipe import Recipe, check_ranks, load_recipe

RUNS = Path("runs")
BACKENDS = ("local", "ray")
FOLLOW_EVERY_S = 0.5

DESCRIPTION = """\
Fine-tune text-to-image models and score every checkpoint while training goes on.

  letterpress submit recipes/mini.yaml            train and score on this machine; Ctrl-C saves
  letterpress submit recipes/mini.yaml --on ray   the same as a job of the Ray at RAY_ADDRESS
  letterpress submit recipes/mini.yaml --dry-run  show what would run, every default spelled out
  letterpress plan recipes/mini.yaml              memory, hours and checkpoints, before it starts
  letterpress status                              all runs; `status runs/mini` for one
  letterpress logs runs/mini -f                   what the first rank prints
  letterpress stop runs/mini                      save at the next step and end
  letterpress resume runs/mini                    go on from the newest whole checkpoint
  letterpress board runs/mini                     curves and pictures in TensorBoard
  letterpress keys train.lora                     what a recipe may say
  sbatch slurm/train_8xA100.sh recipes/mini.yaml  the same recipe on SLURM
"""


def main() -> int:
    """The console script."""
    return run_program(_main)


def _main() -> int:
    arguments = _parser().parse_args()
    command: Callable[[argparse.Namespace], int] = arguments.run_command
    return command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="letterpress",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        about = (command.__doc__ or "").strip()
        added = commands.add_parser(name, help=about.partition("\n")[0], description=about)
        added.set_defaults(run_command=command)
        return added

    submit_parser = add("submit", submit)
    _recipe_arguments(submit_parser)
    submit_parser.add_argument(
        "--on", default="local", help="local (this machine) or ray. On SLURM: sbatch slurm/*.sh"
    )
    submit_parser.add_argument("--dry-run", action="store_true", help="show, start nothing")
    plan_parser = add("plan", plan_command)
    _recipe_arguments(plan_parser)
    plan_parser.add_argument("--nodes", type=int, help="default: the recipe's ranks.nodes")
    plan_parser.add_argument("--gpus-per-node", type=int, help="default: ranks.per_node")
    plan_parser.add_argument("--gpu-memory-gb", type=float, help="of one GPU, as nvidia-smi shows")
    plan_parser.add_argument("--images-per-s", type=float, help="of one GPU, if it was measured")
    freeze_parser = add("freeze", freeze_command)
    _recipe_arguments(freeze_parser)
    run_parser = add("resume", resume)
    _run_argument(run_parser)
    add("status", status).add_argument("run", type=Path, nargs="?", help="a run folder")
    logs_parser = add("logs", logs)
    _run_argument(logs_parser)
    logs_parser.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs_parser.add_argument("--rank", type=int, default=0, help="whose log; default 0")
    logs_parser.add_argument("--farm", action="store_true", help="the farm's log instead")
    _run_argument(add("stop", stop))
    _run_argument(add("begin", begin))
    end_parser = add("end", end)
    _run_argument(end_parser)
    end_parser.add_argument("attempt", type=int, help="what `begin` printed")
    add("board", board).add_argument("run", type=Path, nargs="*", help="run folders; default all")
    add("keys", keys).add_argument("prefix", nargs="?", default="", help="such as train.optim")
    return parser


def submit(arguments: argparse.Namespace) -> int:
    """Train a recipe and score its checkpoints: here and now, or on Ray."""
    if arguments.on not in BACKENDS:
        raise ValueError(
            f"--on {arguments.on} is not there: {' and '.join(BACKENDS)} are. On SLURM type "
            f"`sbatch slurm/train_8xA100.sh {arguments.recipe}`"
        )
    recipe, on_ray = _recipe(arguments), arguments.on == "ray"
    check_ranks(recipe)
    if recipe.ranks.nodes != 1 and not on_ray:
        raise ValueError(f"this machine is one node, ranks.nodes is {recipe.ranks.nodes}")
    root = RUNS / recipe.name
    if arguments.dry_run:
        where = f"{recipe.ranks.nodes} nodes of Ray" if on_ray else "this machine"
        print(f"# would run in {root}, {recipe.ranks.per_node} ranks on {where}")
        print(to_yaml(recipe), end="", flush=True)
    if not _all_there(recipe):
        return ExitCode.BAD_INPUT
    if arguments.dry_run:
        return ExitCode.DONE
    return _submit_to_ray(recipe, root) if on_ray else _run_here(recipe, freeze(recipe, root))


def plan_command(arguments: argparse.Namespace) -> int:
    """Tell what a recipe takes: memory at each ZeRO stage, hours, checkpoints. Starts nothing."""
    from launcher.plan import Machines, plan

    recipe = _recipe(arguments)
    for name in ("nodes", "gpus_per_node", "gpu_memory_gb", "images_per_s"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value:g}")
    machines = Machines(
        nodes=arguments.nodes or recipe.ranks.nodes,
        gpus_per_node=arguments.gpus_per_node or recipe.ranks.per_node,
        gpu_memory_gb=arguments.gpu_memory_gb,
    )
    print(plan(recipe, machines, arguments.images_per_s))
    return ExitCode.DONE


def resume(arguments: argparse.Namespace) -> int:
    """Go on with a run from its newest whole checkpoint, with the code that it was frozen with."""
    run = RunFolder.existing(arguments.run)
    from launcher.status import is_on_ray, run_state

    if run_state(run) in ("running", "stopping"):
        raise ValueError(f"{arguments.run} is {run_state(run)}: stop it first")
    if is_on_ray(read_json(run.state)):
        from launcher.ray_jobs import connect, submit

        print(f"{run.root.name} goes on as Ray job {submit(run, connect())}")
        return ExitCode.DONE
    return _run_here(build(Recipe, read_yaml(run.recipe)), run)


def freeze_command(arguments: argparse.Namespace) -> int:
    """Make a run folder of a recipe without starting it, and print its path (for batch scripts)."""
    recipe = _recipe(arguments)
    if not _all_there(recipe):
        return ExitCode.BAD_INPUT
    print(freeze(recipe, RUNS / recipe.name).root)
    return ExitCode.DONE


def begin(arguments: argparse.Namespace) -> int:
    """Open the next attempt of a run and print its number (for batch scripts)."""
    run = RunFolder.existing(arguments.run)
    job = os.environ.get("SLURM_JOB_ID")
    backend = {"backend": "slurm", "job": job} if job else {"backend": "other"}
    print(begin_attempt(run, **backend))
    return ExitCode.DONE


def end(arguments: argparse.Namespace) -> int:
    """Record how an attempt ended, by its nodes' records, and exit so too (for batch scripts)."""
    run = RunFolder.existing(arguments.run)
    code = summed_up(run, arguments.attempt)
    end_attempt(run, arguments.attempt, code)
    print(f"{run.root.name} is {end_run(run, code)}")
    return code


def status(arguments: argparse.Namespace) -> int:
    """Show all runs below runs/, or one in full."""
    from launcher.status import details, overview, runs_below

    if arguments.run:
        print(details(RunFolder.existing(arguments.run)))
    else:
        runs = runs_below(RUNS)
        print(overview(runs) if runs else f"there are no runs in {RUNS.absolute()}")
    return ExitCode.DONE


def logs(arguments: argparse.Namespace) -> int:
    """Print what a rank, or the farm, has printed in the newest attempt."""
    run = RunFolder.existing(arguments.run)
    number = run.last_attempt()
    if number is None:
        raise ValueError(f"{arguments.run} has not started yet")
    attempt = run.attempt(number)
    path = attempt.farm_log if arguments.farm else attempt.rank_log(arguments.rank)
    if not path.exists() and not arguments.follow:
        raise ValueError(f"there is no {path}")
    _print_log(path, attempt, follow=arguments.follow)
    return ExitCode.DONE


def stop(arguments: argparse.Namespace) -> int:
    """Ask a run to save at its next step and end; `resume` goes on."""
    run = RunFolder.existing(arguments.run)
    from launcher.status import own_command, run_state

    if run_state(run) == "queued":
        from launcher.ray_jobs import stop_waiting_job

        print(stop_waiting_job(run))
        return ExitCode.DONE
    if run_state(run) not in ("running", "stopping"):
        raise ValueError(f"{arguments.run} is not running: it is {run_state(run)}")
    run.request_stop("letterpress stop")
    shows = f"`{own_command()} logs -f {run.root}` shows it do so"
    print(f"asked {run.root.name} to save and stop; {shows}")
    return ExitCode.DONE


def board(arguments: argparse.Namespace) -> int:
    """Open TensorBoard on runs: training, evaluation and pictures on one step axis."""
    from launcher.status import runs_below

    runs = [RunFolder.existing(run) for run in arguments.run] or runs_below(RUNS)
    if not runs:
        raise ValueError(f"there are no runs in {RUNS.absolute()}")
    # A folder of links: TensorBoard would look through every checkpoint for curves.
    logdir = Path(tempfile.mkdtemp(prefix="letterpress-board-"))
    for run in runs:
        (logdir / run.root.name).symlink_to(run.tensorboard)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    command += ["--host", "localhost", "--samples_per_plugin", "images=100,pr_curves=100"]
    os.execv(sys.executable, [*command, "--reload_multifile", "true"])


def keys(arguments: argparse.Namespace) -> int:
    """Explain the keys of a recipe: meaning, type, default."""
    page = describe(Recipe, prefix=arguments.prefix)
    if not page:
        raise ValueError(f"no key of a recipe starts with {arguments.prefix!r}")
    print(page)
    return ExitCode.DONE


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="a YAML file; see recipes/")
    add_set_option(parser, "change the recipe, such as train.steps=200 train.zero.stage=3")
    parser.add_argument("--name", help="of the run; default: the recipe's name")


def _run_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run folder, such as runs/mini")


def _recipe(arguments: argparse.Namespace) -> Recipe:
    recipe = load_recipe(arguments.recipe, arguments.set)
    return replace(recipe, name=arguments.name) if arguments.name else recipe


def _all_there(recipe: Recipe) -> bool:
    """Whether the files are there that a recipe names; a line for each that is not."""
    missing = missing_files(recipe)
    for line in missing:
        print(f"error: {line}", file=sys.stderr)
    return not missing


def _submit_to_ray(recipe: Recipe, root: Path) -> int:
    from launcher.ray_jobs import submit_run
    from launcher.status import own_command

    job = submit_run(recipe, root.absolute())
    print(f"submitted as Ray job {job}; `{own_command()} status {root}` says how it goes")
    return ExitCode.DONE


def _run_here(recipe: Recipe, run: RunFolder) -> int:
    from launcher.local import run_here
    from launcher.status import results_and_places

    code = run_here(recipe, run)
    if code in (ExitCode.DONE, ExitCode.STOPPED):
        print(results_and_places(run))
    return code


def _print_log(path: Path, attempt: AttemptFolder, *, follow: bool) -> None:
    position = 0
    while True:
        ended = bool(attempt.node_records())  # asked first: what comes later is read below
        if path.exists():
            with path.open(errors="replace") as file:
                file.seek(position)
                print(file.read(), end="", flush=True)
                position = file.tell()
        if ended or not follow:
            return
        time.sleep(FOLLOW_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
