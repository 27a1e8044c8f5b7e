"""How often the verdict on a failure is right, beside what other tools go by.

    python -m benchmarks.verdicts

Judges every labelled failure in benchmarks/failures as the launcher does, by a run folder. The
rules were written by the train part alone. Parts of it were held out once, too, from the rules of
their time: their files say in their first line what those rules reached, which is what formats that
nobody has seen can expect. What is held out now are formats that are common, in other words.

Peers, on the same failures: keywords in the last line of the log of the rank that failed first, and
that rank's exit code alone. Macro-F1 is the mean of the causes' F1.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.labelled_failures import PARTS, Failure, load
from benchmarks.machine import machine
from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder
from cluster.verdict.judge import judge
from cluster.verdict.verdict import Cause

RESULTS = Path(__file__).parent / "results"
# What a person greps a last line for.
KEYWORDS = {
    Cause.OUT_OF_MEMORY: r"out of memory|OutOfMemory|oom",
    Cause.HARDWARE: r"ECC|Xid|NVLink|Node failure|Input/output error|bus",
    Cause.HANG: r"timeout|timed out",
    Cause.NETWORK: r"NCCL|gloo|connection|socket",
    Cause.PREEMPTED: r"TIME LIMIT|PREEMPT",
    Cause.STOPPED: r"CANCELLED|stopped",
    Cause.USER_ERROR: r"Error|Exception|error: ",
}

Judged = tuple[Cause, str | None]
"""The cause, and the node."""
Judge = Callable[[Failure, RunFolder], Judged]


def main() -> None:
    """Judge, print tables, and write them beside this file."""
    measured_on = machine()
    judges: dict[str, Judge] = {
        "letterpress": by_records,
        "last line": by_last_line,
        "exit code": by_exit_code,
    }
    parts = {}
    for part in PARTS:
        failures = load(part)
        print(f"{part}: {len(failures)} failures")
        parts[part] = {name: measure(failures, judged) for name, judged in judges.items()}
        show(parts[part])
        for name in ("last line", "exit code"):
            del parts[part][name]["confused"]  # most of them
    report = {
        "command": "python -m benchmarks.verdicts",
        "unit": "macro-F1 over causes; F1 of each cause; share of guilty nodes that are named",
        "machine": measured_on,
        "failures": {part: len(load(part)) for part in PARTS},
        "parts": parts,
    }
    path = RESULTS / "verdicts.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")


def by_records(failure: Failure, run: RunFolder) -> Judged:
    """Ours."""
    verdict = judge(run, 0, failure.scheduler)
    return verdict.cause, verdict.node


def by_last_line(failure: Failure, run: RunFolder) -> Judged:
    """Keywords in the last line of the first rank that failed, or of the job; else its code."""
    for record in run.attempt(0).node_records():
        number = record["first_failed_rank"]
        if number is None:
            return by_exit_code(failure, run)
        if run.attempt(0).rank_log(number).exists():
            lines = run.attempt(0).rank_log(number).read_text().splitlines()
            return keyword(lines), record["host"]
    return keyword(failure.scheduler.output), None


def by_exit_code(failure: Failure, run: RunFolder) -> Judged:
    """The exit code of the first rank that failed: all that most submission tools look at."""
    for record in run.attempt(0).node_records():
        for rank in record["ranks"]:
            if rank["rank"] == record["first_failed_rank"]:
                return by_code(rank), record["host"]
        stopped = record["exit_code"] == ExitCode.STOPPED
        return (Cause.STOPPED if stopped else Cause.DONE), None
    return Cause.UNKNOWN, None


def by_code(rank: dict[str, Any]) -> Cause:
    """What shells and schedulers read in a code or a signal."""
    if rank["signal"] == "SIGKILL":
        return Cause.OUT_OF_MEMORY
    if rank["signal"]:
        return Cause.UNKNOWN
    return Cause.HARDWARE if rank["exit_code"] == ExitCode.RETRY_ELSEWHERE else Cause.USER_ERROR


def keyword(lines: Sequence[str]) -> Cause:
    """The first cause whose keywords are in the last line."""
    last = lines[-1] if lines else ""
    found = (cause for cause, words in KEYWORDS.items() if re.search(words, last, re.IGNORECASE))
    return next(found, Cause.UNKNOWN)


def measure(failures: Sequence[Failure], judged: Judge) -> dict[str, Any]:
    """How often a judge is right."""
    pairs: Counter[tuple[Cause, Cause]] = Counter()
    guilty, named, confused = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        for number, failure in enumerate(failures):
            run = failure.lay_out(Path(folder) / str(number))
            cause, node = judged(failure, run)
            pairs[failure.cause, cause] += 1
            if cause != failure.cause:
                confused.append(f"{failure.name}: {failure.cause}, taken for {cause}")
            if failure.node:
                guilty += 1
                named += node == failure.node
    scores = {cause: f1(cause, pairs) for cause in sorted({label for label, _ in pairs})}
    return {
        "macro_f1": round(sum(scores.values()) / len(scores), 3),
        "guilty_nodes_named": round(named / guilty, 3),
        "f1": {str(cause): round(score, 3) for cause, score in scores.items()},
        "confused": confused,
    }


def f1(cause: Cause, pairs: Counter[tuple[Cause, Cause]]) -> float:
    """The harmonic mean of precision and recall."""
    right = pairs[cause, cause]
    wrong = sum(n for pair, n in pairs.items() if (pair[0] == cause) != (pair[1] == cause))
    return 2 * right / (2 * right + wrong)


def show(judges: dict[str, dict[str, Any]]) -> None:
    """A table of causes by judges, and what ours confused."""
    causes = next(iter(judges.values()))["f1"]
    print(f"{'F1':16}" + "".join(f"{name:>14}" for name in judges))
    for row in (*causes, "macro_f1", "guilty_nodes_named"):
        values = (judge["f1"].get(row, judge.get(row)) for judge in judges.values())
        print(f"{row:18}"[:18] + "".join(f"{value:12.3f}  " for value in values))
    for line in judges["letterpress"]["confused"]:
        print(f"  confused: {line}")
    print()


if __name__ == "__main__":
    main()
