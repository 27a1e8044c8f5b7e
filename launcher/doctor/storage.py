"""What the storage of runs has and can do, and whether its clock is ours."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cluster.ask import Answer, ask
from launcher.doctor.finding import Finding, lacks, ok, unanswered

GB = 1e9
LEAST_GB = 1.0  # logs, samples and pictures, whatever is trained
LEAST_INODES = 100_000  # the farm keeps a file for each picture
# A checkpoint is published by renames: a metadata server that takes longer stops every save.
SLOW_RENAME_S = 0.5
# `status` takes a rank for lost whose heartbeat is a minute old.
CLOCK_LEAD_S = 5.0


def ask_storage(folder: Path, timeout_s: float) -> Answer:
    """What cluster/storage.py measures of a folder, or the nearest above it."""
    command = [sys.executable, "-m", "cluster.storage", str(folder)]
    code = Path(__file__).parents[2]
    return ask(command, timeout_s=timeout_s, environment={"PYTHONPATH": str(code)})


def storage_findings(folder: Path, answer: Answer, run_bytes: float | None) -> Iterator[Finding]:
    """Rows on the folder of runs; `run_bytes` is what the recipe's run leaves there."""
    if answer.text is None:
        mend = f"give yourself a folder that can be written: `ln -s OTHER_DISK {folder}`"
        said = replace(answer, silence=answer.silence.partition(": ")[2] or answer.silence)
        yield unanswered("disk", said, mend)
        return
    measured = json.loads(answer.text)
    yield _room(folder, measured, run_bytes)
    yield _speed(folder, measured)
    yield _clock(folder, measured["clock_lead_s"])


def _room(folder: Path, measured: dict[str, float], run_bytes: float | None) -> Finding:
    free, inodes = measured["free_bytes"], measured["free_inodes"]
    needed = LEAST_GB * GB + (run_bytes or 0.0)
    found = f"{free / GB:,.1f} GB free for {folder}/"
    found += f", {inodes / 1e6:,.1f} M inodes" if inodes is not None else ""
    if run_bytes:
        found += f"; the run's checkpoints and exports take {run_bytes / GB:,.2f} GB"
    if free < needed:
        mend = f"`ln -s OTHER_DISK {folder}`, or --set train.keep.newest=2"
        return lacks("disk", found, mend)
    if inodes is not None and inodes < LEAST_INODES:
        return lacks("disk", found, "remove old runs: each picture of the farm is a file")
    return ok("disk", found)


def _speed(folder: Path, measured: dict[str, float]) -> Finding:
    rename_s, written = measured["rename_s"], measured["write_bytes_per_s"]
    found = f"writes {written / 1e6:,.0f} MB/s, renames in {rename_s * 1000:.1f} ms"
    if rename_s > SLOW_RENAME_S:
        mend = f"keep runs on other storage: `ln -s OTHER_DISK {folder}`"
        return lacks("disk speed", f"{found}: each save waits for renames", mend)
    return ok("disk speed", found)


def _clock(folder: Path, lead_s: float) -> Finding:
    if abs(lead_s) <= CLOCK_LEAD_S:
        return ok("clock", f"that of {folder}/ within {max(0.1, abs(lead_s)):.1f} s")
    way = "ahead of" if lead_s > 0 else "behind"
    found = f"the storage of {folder}/ is {abs(lead_s):.0f} s {way} this machine"
    return lacks("clock", found, "`timedatectl set-ntp true` as root, on whichever is wrong")
