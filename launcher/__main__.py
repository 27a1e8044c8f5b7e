"""The command line: letterpress submit, plan, doctor, status, logs, stop, resume and the rest."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cluster.config import add_set_option, build, describe, read_yaml
from cluster.exit_codes import ExitCode
from cluster.program import run_program
from cluster.run_folder import RunFolder, read_json
from cluster.slurm.run_job import is_on_slurm
from launcher.dry_run import show, show_sweep
from launcher.freeze import freeze
from launcher.missing import missing_files
from launcher.recipe import Recipe, check_ranks, load_recipe, load_slurm_recipe
from launcher.run_state import is_on_ray, run_state
from launcher.runs import run_at, runs_at, runs_below, short_names
from launcher.start import STARTS, go_on_here
from launcher.stop import cancel as cancel_run
from launcher.stop import stop as stop_run
from launcher.sweep import sweep_of
from launcher.view.logs import is_over, next_attempt, print_log
from launcher.view.merged_log import print_merged

RUNS = Path("runs")
DEFAULT_RECIPE = Path("recipes/mini.yaml")
PLAN_NUMBERS = (
    "nodes", "gpus_per_node", "gpu_memory_gb", "images_per_s", "node_gbit_per_s",
    "price_per_gpu_hour",
)  # fmt: skip
Load = Callable[[Path, Sequence[str]], Recipe]
"""Reads a recipe, with `key=value` overrides."""
RESUME_HINTS = {
    "starting": "`letterpress status` says how far it is",
    "running": "stop it first",
    "stopping": "wait until it has stopped",
    "restarting": "that is what it does by itself",
    "unknown": "SLURM cannot be asked whether it runs; `letterpress status` says why",
}

DESCRIPTION = """\
Fine-tune text-to-image models and score every checkpoint while training goes on.

  letterpress submit recipes/mini.yaml            train and score on this machine; Ctrl-C saves
  letterpress submit recipes/mini.yaml --on ray   the same as a job of the Ray at RAY_ADDRESS
  letterpress submit recipes/mini.yaml --dry-run  show what would run, every default spelled out
  letterpress plan recipes/mini.yaml              memory, hours and checkpoints, before it starts
  letterpress doctor recipes/mini.yaml            what this machine lacks for it, and what mends it
  letterpress submit recipes/mini.yaml --sweep train.optim.lr=1e-3,2e-3 train.lora.rank=4,16
                                                  a run for each combination, side by side
  letterpress status                              all runs; `status runs/mini` for one
  letterpress status runs/mini-sweep              a sweep's runs, and whose checkpoint is best
  letterpress logs runs/mini -f                   what the first rank prints
  letterpress stop runs/mini                      save at the next step and end
  letterpress cancel runs/mini                    end its job on SLURM or Ray at once
  letterpress resume runs/mini                    go on from the newest whole checkpoint
  letterpress board runs/mini                     curves and pictures in TensorBoard
  letterpress keys train.lora                     what a recipe may say
  letterpress submit recipes/mini.yaml --on slurm the same recipe on SLURM
  sbatch slurm/train_8xA100.sh recipes/mini.yaml  or so, without the launcher
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
        "--on", default="local", help="where: local (this machine, the default), slurm or ray"
    )
    submit_parser.add_argument("--dry-run", action="store_true", help="show, start nothing")
    submit_parser.add_argument(
        "--sweep",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="a run for each value, and for each combination of several keys, such as "
        "train.optim.lr=1e-4,5e-5 train.lora.rank=4,16",
    )
    submit_parser.add_argument(
        "--at-once", type=int, metavar="N", help="of a sweep on SLURM, at most so many run at once"
    )
    plan_parser = add("plan", plan_command)
    _recipe_arguments(plan_parser)
    plan_parser.add_argument("--nodes", type=int, help="default: the recipe's ranks.nodes")
    plan_parser.add_argument("--gpus-per-node", type=int, help="default: ranks.per_node")
    plan_parser.add_argument("--gpu-memory-gb", type=float, help="of one GPU, as nvidia-smi shows")
    plan_parser.add_argument("--images-per-s", type=float, help="of one GPU, if it was measured")
    plan_parser.add_argument(
        "--node-gbit-per-s", type=float, help="that a node sends others; default: 200"
    )
    plan_parser.add_argument("--price-per-gpu-hour", type=float, help="in any currency")
    doctor_parser = add("doctor", doctor_command)
    _recipe_arguments(doctor_parser, default=DEFAULT_RECIPE)
    freeze_parser = add("freeze", freeze_command)
    _recipe_arguments(freeze_parser)
    run_parser = add("resume", resume)
    _run_argument(run_parser)
    status_parser = add("status", status)
    _runs_argument(status_parser)
    status_parser.add_argument(
        "--by", metavar="METRIC", help="of several runs, whose best value decides, such as ocr_f1"
    )
    logs_parser = add("logs", logs)
    _run_argument(logs_parser)
    logs_parser.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs_parser.add_argument("--rank", type=int, default=0, help="whose log; default 0")
    logs_parser.add_argument("--all", action="store_true", help="all ranks', node:rank before each")
    logs_parser.add_argument("--farm", action="store_true", help="the farm's log instead")
    _run_argument(add("stop", stop), "a run folder, or a sweep's")
    _run_argument(add("cancel", cancel), "a run folder, or a sweep's")
    _run_argument(add("begin", begin))
    end_parser = add("end", end)
    _run_argument(end_parser)
    end_parser.add_argument("attempt", type=int, help="what `begin` printed")
    _run_argument(add("requeue", requeue))
    board_parser = add("board", board)
    _runs_argument(board_parser)
    board_parser.add_argument(
        "--host", default="localhost", help="address to listen at; default: this machine's own only"
    )
    add("keys", keys).add_argument("prefix", nargs="?", default="", help="such as train.optim")
    return parser


def submit(arguments: argparse.Namespace) -> int:
    """Train a recipe and score its checkpoints: here and now, on SLURM or on Ray."""
    if arguments.on not in STARTS:
        raise ValueError(f"--on {arguments.on} is not there: choose from {', '.join(STARTS)}")
    load = load_slurm_recipe if arguments.on == "slurm" else load_recipe
    if arguments.sweep:
        return _submit_sweep(arguments, load)
    if arguments.at_once is not None:
        raise ValueError("--at-once is about the runs of a --sweep, and there is none")
    recipe = _recipe(arguments, load)
    _check_place(recipe, arguments.on)
    if arguments.dry_run:
        show(recipe, RUNS / recipe.name, arguments.on)
    if not _all_there(recipe):
        return ExitCode.BAD_INPUT
    if arguments.dry_run:
        return ExitCode.DONE
    return STARTS[arguments.on](recipe, RUNS / recipe.name)


def plan_command(arguments: argparse.Namespace) -> int:
    """Tell what a recipe takes: memory at each ZeRO stage, hours, saves, cost. Starts nothing."""
    from launcher.plan.hours import Asked
    from launcher.plan.plan import plan
    from launcher.plan.speed import NODE_GBIT_PER_S, Machines

    recipe = _recipe(arguments)
    for name in PLAN_NUMBERS:
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value:g}")
    machines = Machines(
        nodes=arguments.nodes or recipe.ranks.nodes,
        gpus_per_node=arguments.gpus_per_node or recipe.ranks.per_node,
        gpu_memory_gb=arguments.gpu_memory_gb,
        gbit_per_s=arguments.node_gbit_per_s or NODE_GBIT_PER_S,
    )
    asked = Asked(images_per_s=arguments.images_per_s, price=arguments.price_per_gpu_hour)
    print(plan(recipe, machines, asked))
    return ExitCode.DONE


def doctor_command(arguments: argparse.Namespace) -> int:
    """Tell what a recipe needs that this machine and its cluster lack, and what mends it."""
    from launcher.doctor import page

    text, code = page.doctor(_recipe(arguments), RUNS)
    page.show(text)
    return code


def resume(arguments: argparse.Namespace) -> int:
    """Go on with a run from its newest whole checkpoint, with the code that it was frozen with."""
    run = run_at(arguments.run)
    state = run_state(run)
    # On Ray one may wait for nodes, or have been killed there: `submit_job` looks.
    waits = state == "restarting" and is_on_ray(read_json(run.state))
    if state in RESUME_HINTS and not waits:
        raise ValueError(f"{arguments.run} is {state}: {RESUME_HINTS[state]}")
    if is_on_slurm(read_json(run.state)):
        from launcher.slurm.submit import resume_job

        print(resume_job(run, is_queued=state == "queued"))
    elif is_on_ray(read_json(run.state)):
        from launcher.ray.jobs import connect
        from launcher.ray.jobs import submit as submit_job

        print(f"{run.root.name} goes on as Ray job {submit_job(run, connect())}")
    else:
        return go_on_here(build(Recipe, read_yaml(run.recipe)), run)
    return ExitCode.DONE


def freeze_command(arguments: argparse.Namespace) -> int:
    """Make a run folder of a recipe without starting it, and print its path (for batch scripts)."""
    recipe = _recipe(arguments)
    if not _all_there(recipe):
        return ExitCode.BAD_INPUT
    from launcher.slurm.job import note_own_job

    run = freeze(recipe, RUNS / recipe.name)
    note_own_job(run)
    print(run.root)
    return ExitCode.DONE


def begin(arguments: argparse.Namespace) -> int:
    """Open the next attempt of a run and print its number (for batch scripts)."""
    from launcher.slurm import job as slurm_job

    print(slurm_job.begin(run_at(arguments.run)))
    return ExitCode.DONE


def end(arguments: argparse.Namespace) -> int:
    """Judge an attempt, print what follows and exit as it did (for batch scripts).

    That is `again`, on the same nodes; `requeue`, elsewhere or later; or `over`.
    """
    from launcher.slurm import job as slurm_job

    follows, code = slurm_job.end(run_at(arguments.run), arguments.attempt)
    print(follows)
    return code


def requeue(arguments: argparse.Namespace) -> int:
    """Queue the job again that this is the last act of (for batch scripts)."""
    from launcher.slurm import job as slurm_job

    return slurm_job.requeue_own_job(run_at(arguments.run))


def status(arguments: argparse.Namespace) -> int:
    """Show all runs below runs/, one in full, or some beside each other, such as a sweep's."""
    from launcher.view.comparison import comparison
    from launcher.view.status import details, overview

    runs = runs_at(arguments.runs) or runs_below(RUNS)
    if not runs:
        print(f"there are no runs in {RUNS.absolute()}")
    elif arguments.by or (arguments.runs and len(runs) > 1):
        print(comparison(runs, arguments.by))
    else:
        print(details(runs[0]) if arguments.runs else overview(runs))
    return ExitCode.DONE


def logs(arguments: argparse.Namespace) -> int:
    """Print what a rank has printed in the newest attempt, or the farm in all of them."""
    run = run_at(arguments.run)
    if arguments.farm:
        print_log(run.farm_log, partial(is_over, run) if arguments.follow else None)
        return ExitCode.DONE
    number = run.last_attempt()
    if number is None and arguments.follow and not is_over(run):
        print(f"waiting for {run.root.name}, which is {run_state(run)}", file=sys.stderr)
        number = next_attempt(run, None)
    if number is None:
        raise ValueError(f"{arguments.run} has not started yet: it is {run_state(run)}")
    while number is not None:
        attempt = run.attempt(number)
        if arguments.all:
            print_merged(attempt, follow=arguments.follow)
        else:
            until = attempt.has_ended if arguments.follow else None
            print_log(attempt.rank_log(arguments.rank), until)
        number = next_attempt(run, number) if arguments.follow else None
    return ExitCode.DONE


def stop(arguments: argparse.Namespace) -> int:
    """Ask a run, or each of a sweep's, to save at its next step and end; `resume` goes on."""
    return _to_each(arguments.run, stop_run)


def cancel(arguments: argparse.Namespace) -> int:
    """End a run's job on SLURM or Ray at once, or a sweep's; `resume` goes on."""
    return _to_each(arguments.run, cancel_run)


def _to_each(path: Path, act: Callable[[RunFolder], str]) -> int:
    """Do something to a run, or to the runs of a sweep: to some it may be done already."""
    runs = runs_at([path])
    for run in runs:
        try:
            print(act(run), flush=True)
        except ValueError as error:
            if len(runs) == 1:
                raise
            print(error, flush=True)
    return ExitCode.DONE


def board(arguments: argparse.Namespace) -> int:
    """Open TensorBoard on runs: training, evaluation and pictures on one step axis."""
    runs = runs_at(arguments.runs) or runs_below(RUNS)
    if not runs:
        raise ValueError(f"there are no runs in {RUNS.absolute()}")
    # A folder of links: TensorBoard would look through every checkpoint for curves.
    logdir = Path(tempfile.mkdtemp(prefix="letterpress-board-"))
    for name, run in zip(short_names(runs), runs, strict=True):
        (logdir / name).parent.mkdir(exist_ok=True, parents=True)
        (logdir / name).symlink_to(run.tensorboard)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    command += ["--host", arguments.host, "--samples_per_plugin", "images=100,pr_curves=100"]
    os.execv(sys.executable, [*command, "--reload_multifile", "true"])


def keys(arguments: argparse.Namespace) -> int:
    """Explain the keys of a recipe: meaning, type, default."""
    page = describe(Recipe, prefix=arguments.prefix)
    if not page:
        raise ValueError(f"no key of a recipe starts with {arguments.prefix!r}")
    print(page)
    return ExitCode.DONE


def _recipe_arguments(parser: argparse.ArgumentParser, default: Path | None = None) -> None:
    """A recipe and what changes it; with a `default` it may be left out."""
    about = "a YAML file; see recipes/" + (f"; default {default}" if default else "")
    parser.add_argument(
        "recipe", type=Path, help=about, default=default, nargs="?" if default else None
    )
    add_set_option(parser, "change the recipe, such as train.steps=200 train.zero.stage=3")
    parser.add_argument("--name", help="of the run; default: the recipe's name")


def _run_argument(
    parser: argparse.ArgumentParser, about: str = "a run folder, such as runs/mini"
) -> None:
    parser.add_argument("run", type=Path, help=about)


def _runs_argument(parser: argparse.ArgumentParser) -> None:
    about = "run folders, or a folder of runs such as a sweep's; default: all below runs/"
    parser.add_argument("runs", type=Path, nargs="*", metavar="run", help=about)


def _recipe(arguments: argparse.Namespace, load: Load = load_recipe) -> Recipe:
    recipe = load(arguments.recipe, arguments.set)
    return recipe if arguments.name is None else replace(recipe, name=arguments.name)


def _submit_sweep(arguments: argparse.Namespace, load: Load) -> int:
    """Start a run for each combination of the values that are given, or show them."""
    from launcher.sweep_start import STARTS as START_ALL

    at_once = arguments.at_once
    if at_once is not None and (at_once < 1 or arguments.on != "slurm"):
        raise ValueError(f"--at-once takes a number from 1, with --on slurm, got {at_once}")
    recipe = partial(load, arguments.recipe)
    sweep = sweep_of(recipe, arguments.set, arguments.sweep, arguments.name)
    root = RUNS / sweep.name
    for run in sweep.recipes:
        _check_place(run, arguments.on)
    if arguments.dry_run:
        show_sweep(sweep, root, arguments.on, arguments.at_once)
    if not _all_there(*sweep.recipes):
        return ExitCode.BAD_INPUT
    return ExitCode.DONE if arguments.dry_run else START_ALL[arguments.on](sweep, root, at_once)


def _check_place(recipe: Recipe, on: str) -> None:
    """ValueError if a recipe does not fit its ranks, or this machine if that is to run it."""
    check_ranks(recipe)
    if recipe.ranks.nodes != 1 and on == "local":
        raise ValueError(f"this machine is one node, ranks.nodes is {recipe.ranks.nodes}")


def _all_there(*recipes: Recipe) -> bool:
    """Whether the files are there that recipes name; a line for each that is not."""
    missing = dict.fromkeys(line for recipe in recipes for line in missing_files(recipe))
    for line in missing:
        print(f"error: {line}", file=sys.stderr)
    return not missing


if __name__ == "__main__":
    sys.exit(main())
