"""The evaluation farm: makes pictures from every checkpoint and scores them, on Ray.

    python -m evalfarm watch --run runs/mini
    python -m evalfarm score --suite mini --model assets/mini exports/step-00000160 --out scores
    python -m evalfarm status --run runs/mini
    python -m evalfarm report --run runs/mini
    python -m evalfarm compare runs/mini@160 runs/mini@480
    python -m evalfarm promote --run runs/mini --metric ocr_f1
    python -m evalfarm suites

With RAY_ADDRESS set that Ray is used; `ray job submit -- python -m evalfarm watch …` sets it.
Without, one is started on this machine and ended with the farm.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from cluster.config import (
    absolute_paths,
    add_set_option,
    build,
    describe,
    read_yaml,
    set_keys,
)
from cluster.imports import importing
from cluster.program import run_program
from cluster.ray.session import prepare_environment
from cluster.run_folder import RunFolder
from cluster.table import results_table
from evalfarm.commands import add_commands
from evalfarm.config import EvalConfig


def main() -> int:
    """Parse the command line and do what it says."""
    arguments = _parser().parse_args()
    arguments.act(arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evalfarm",
        description=__doc__,
        epilog=f"The keys of a recipe's eval section:\n\n{describe(EvalConfig, 'eval')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    watch = commands.add_parser("watch", help="score a run's exports while it trains")
    watch.set_defaults(act=_watch)
    watch.add_argument("--run", type=Path, required=True, help="the run folder")
    score = commands.add_parser("score", help="score any models")
    score.set_defaults(act=_score)
    score.add_argument("--suite", nargs="+", required=True, help="names or YAML files of suites")
    score.add_argument(
        "--model",
        nargs="+",
        required=True,
        help="exports, diffusers folders, single files, hub names in the cache, or adapters and "
        "their base: ADAPTERS@BASE; or text encoders mixed, 'MODEL*0.7+OTHER*0.3'",
    )
    score.add_argument("--out", type=Path, required=True, help="folder for ledgers and reports")
    suites = commands.add_parser("suites", help="show what suites there are, and what they lack")
    suites.set_defaults(act=_suites)
    suites.add_argument("suite", nargs="*", help="names or YAML files; default: all there are")
    for command in (score, suites):
        command.add_argument(
            "--config", type=Path, help="a recipe whose eval section says how; else its defaults"
        )
        add_set_option(command, "such as device=cpu batch=4")
    for command in (watch, score):
        command.add_argument(
            "--retry-failed", action="store_true", help="do again what has failed before"
        )
    add_commands(commands)
    return parser


def _watch(arguments: argparse.Namespace) -> None:
    run = RunFolder.existing(arguments.run)
    section = read_yaml(run.recipe).get("eval")
    if not section:
        raise ValueError(f"{run.recipe} has no eval section: there is nothing to score by")
    config = build(EvalConfig, section, "eval")
    prepare_environment()
    with importing():
        from evalfarm.farm.watch import watch

    _check_suites(config)
    watch(config, run, retry_failed=arguments.retry_failed)


def _score(arguments: argparse.Namespace) -> None:
    config = _config(arguments, suites=arguments.suite)
    prepare_environment()
    with importing():
        from evalfarm.farm.watch import score
        from trainer.models.named import find_named

    _check_suites(config)
    models = [find_named(model) for model in arguments.model]
    out = arguments.out.absolute()
    for results in score(config, models, out, retry_failed=arguments.retry_failed):
        print(results_table(results))


def _suites(arguments: argparse.Namespace) -> None:
    from evalfarm.suite_files import suite_names
    from evalfarm.suite_table import suite_table

    print(suite_table(arguments.suite or suite_names(), _config(arguments)))


def _config(arguments: argparse.Namespace, **keys: Any) -> EvalConfig:
    section = read_yaml(arguments.config).get("eval") or {} if arguments.config else {}
    section |= keys
    set_keys(section, arguments.set)
    return absolute_paths(build(EvalConfig, section, "eval"))


def _check_suites(config: EvalConfig) -> None:
    """ValueError if prompts are missing, said before Ray is started."""
    from evalfarm.suite_files import load_suite

    for name in config.suites:
        load_suite(name, config.suite_data)


if __name__ == "__main__":
    sys.exit(run_program(main))
