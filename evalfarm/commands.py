"""The commands that read what a farm left: they need no Ray, no network and no model."""

import argparse
from pathlib import Path
from typing import Any

from cluster.run_folder import RunFolder, read_json
from cluster.table import results_table
from evalfarm.farm.progress import progress_lines, read_progress

COMPARE = """Say which differences between two checkpoints are real.

  python -m evalfarm compare runs/mini@160 runs/mini@480
  python -m evalfarm compare runs/a@base runs/b@480 --suite mini_base
  python -m evalfarm compare scores@step-00000160 scores@step-00000480

A checkpoint is FOLDER@STEP or FOLDER@NAME: a run folder or the --out of `score`, and what its
table calls it. Two runs compare where their suites ask the same. Pictures are paired, same prompt
and same noise; what only one side has is left out, and n says how many are left."""
PROMOTE = """Copy the best export of a run out of it, whole and checked.

  python -m evalfarm promote --run runs/mini --suite mini --metric ocr_f1
  python -m evalfarm promote --run runs/mini --suite mini --metric clip_score --to models/mini

A metric is a column's name in results.json, or the part before its slash where that is clear."""
VOTE = """Ask people which of two pictures is better, and count their votes.

  python -m evalfarm vote make runs/mini@160 runs/mini@480 --out vote
  python -m evalfarm vote read vote votes-ann.jsonl votes-bob.jsonl

`make` writes vote/page/, which voters open (index.html; no server), and vote/key.json, which says
whose picture is where and is not for them. Each voter saves a file of votes; `read` counts them."""
REPORT = """Print a run's results.

  python -m evalfarm report --run runs/mini --intervals"""
STATUS = """Say how far a farm is, wherever it runs: what is made, scored, and left.

  python -m evalfarm status --run runs/mini"""
RUN_OR_OUT = "the run folder, or the --out of `score`"


def add_commands(commands: Any) -> None:
    """Put them into a parser's subcommands."""
    status = _command(commands, "status", "how far a farm is", STATUS, _status)
    status.add_argument("--run", type=Path, required=True, help=RUN_OR_OUT)
    report = _command(commands, "report", "print a run's results", REPORT, _report)
    report.add_argument("--run", type=Path, required=True, help=RUN_OR_OUT)
    report.add_argument(
        "--intervals", action="store_true", help="half of each 95 %% interval beside its value"
    )
    compare = _command(commands, "compare", "which differences are real", COMPARE, _compare)
    compare.add_argument("first", help="FOLDER@STEP or FOLDER@NAME")
    compare.add_argument("second", help="what is better or worse than that")
    compare.add_argument("--suite", help="where a folder has several")
    promote = _command(commands, "promote", "copy the best export", PROMOTE, _promote)
    promote.add_argument("--run", type=Path, required=True, help="the run folder")
    promote.add_argument("--suite", help="where the run has several")
    promote.add_argument("--metric", required=True, help="whose best value decides")
    promote.add_argument("--to", type=Path, help="a new folder; else RUN/best-METRIC")
    vote = _command(commands, "vote", "ask people, and count their votes", VOTE, _vote_make)
    _add_vote(vote.add_subparsers(dest="what", required=True))


def _add_vote(commands: Any) -> None:
    make = _command(commands, "make", "write the page", VOTE, _vote_make)
    make.add_argument("checkpoints", nargs="+", help="two or more, as FOLDER@STEP or FOLDER@NAME")
    make.add_argument("--out", type=Path, required=True, help="a new folder")
    make.add_argument("--suite", help="where a folder has several")
    make.add_argument("--pairs", type=int, default=100, help="at most so many; 100")
    make.add_argument("--seed", type=int, default=0, help="of choice, order and sides; 0")
    read = _command(commands, "read", "count the votes", VOTE, _vote_read)
    read.add_argument("folder", type=Path, help="what `make` wrote")
    read.add_argument("votes", type=Path, nargs="+", help="what voters saved")


def _command(
    commands: Any, name: str, clause: str, description: str, act: Any
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=clause,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(act=act)
    return parser


def _status(arguments: argparse.Namespace) -> None:
    from evalfarm.results.record import suites_below

    progress = read_progress(suites_below(arguments.run))
    if not progress:
        raise ValueError(
            f"no farm has begun with {arguments.run}: `python -m evalfarm watch` starts one"
        )
    print("\n".join(progress_lines(progress)))


def _report(arguments: argparse.Namespace) -> None:
    from evalfarm.results.record import suites_below

    found = sorted(suites_below(arguments.run).glob("*/results.json"))
    if not found:
        raise ValueError(f"{arguments.run} holds no results yet")
    for path in found:
        table = results_table(read_json(path), intervals=arguments.intervals)
        print(f"{path.parent.name}\n{table}\n")


def _compare(arguments: argparse.Namespace) -> None:
    from evalfarm.results.compare import compare
    from evalfarm.results.comparison_table import comparison_table
    from evalfarm.results.record import find_checkpoint

    first = find_checkpoint(arguments.first, arguments.suite)
    second = find_checkpoint(arguments.second, arguments.suite)
    print(comparison_table(compare(first, second)))


def _promote(arguments: argparse.Namespace) -> None:
    from evalfarm.results.promote import promote

    run = RunFolder.existing(arguments.run)
    print(promote(run, arguments.suite, arguments.metric, arguments.to))


def _vote_make(arguments: argparse.Namespace) -> None:
    from evalfarm.results.record import find_checkpoint
    from evalfarm.vote.page import write_page
    from evalfarm.vote.pairs import draw_pairs

    if arguments.pairs < 1:
        raise ValueError(f"--pairs must be at least 1, got {arguments.pairs}")
    sides = [find_checkpoint(given, arguments.suite) for given in arguments.checkpoints]
    key = draw_pairs(sides, count=arguments.pairs, seed=arguments.seed)
    write_page(key, arguments.out)
    print(f"{len(key.pairs)} pairs; voters open {arguments.out / 'page' / 'index.html'}")


def _vote_read(arguments: argparse.Namespace) -> None:
    from evalfarm.vote.pairs import read_key
    from evalfarm.vote.votes import read_votes, votes_report

    key = read_key(arguments.folder)
    print(votes_report(key, read_votes(key, arguments.votes)))
