"""What a run is doing, read from its folder: lines for what happened, a bar for what goes on."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from cluster.hangs.heartbeat import read_heartbeats
from cluster.run_folder import AttemptFolder, RunFolder, read_json
from cluster.table import bar, duration, headline

PLAIN_EVERY_S = 15.0  # where no terminal redraws the bar, print it so often


class Follower:
    """Prints what is new in a run folder since it last looked."""

    def __init__(self, run: RunFolder, attempt: int, out: TextIO | None = None) -> None:
        self.run = run
        self.attempt = run.attempt(attempt)
        self.out = out or sys.stderr
        self._events_read = 0
        self._evaluated: set[tuple[str, str]] = {
            (suite, row["checkpoint"]) for suite, row, _ in _evaluated_rows(run)
        }
        self._bar = ""
        self._bar_printed_s = time.monotonic()

    def update(self) -> None:
        """Print what happened, and redraw the bar."""
        for line in [*self._new_events(), *self._new_evaluations()]:
            self.say(line)
        self._draw(progress_line(self.run, self.attempt))

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._draw("")
        print(f"{time.strftime('%H:%M:%S')}  {line}", file=self.out, flush=True)

    def close(self) -> None:
        """Leave the last bar as a line of its own."""
        self.update()
        if self._bar and self.out.isatty():
            print(file=self.out, flush=True)

    def _draw(self, bar: str) -> None:
        if self.out.isatty():
            bar = bar[: shutil.get_terminal_size().columns - 1]  # a wrapped line stays behind
            if bar != self._bar:
                print(f"\r\x1b[2K{bar}", end="", file=self.out, flush=True)
                self._bar = bar
        elif bar and time.monotonic() - self._bar_printed_s >= PLAIN_EVERY_S:
            print(f"          {bar}", file=self.out, flush=True)
            self._bar_printed_s = time.monotonic()

    def _new_events(self) -> Iterator[str]:
        if not self.attempt.events.exists():
            return
        with self.attempt.events.open() as file:
            file.seek(self._events_read)
            for line in file:
                if not line.endswith("\n"):  # it is being written
                    break
                self._events_read += len(line.encode())
                text = _event_line(json.loads(line))
                if text:
                    yield text

    def _new_evaluations(self) -> Iterator[str]:
        for suite, row, columns in _evaluated_rows(self.run):
            if (suite, row["checkpoint"]) not in self._evaluated:
                self._evaluated.add((suite, row["checkpoint"]))
                numbers = headline(row, columns)
                yield f"evaluated {row['name']} by {suite}: {numbers}, n {row['n_scored']}"


def progress_line(run: RunFolder, attempt: AttemptFolder) -> str:
    """Step, loss, images/s and time left of the training, and what the farm has left to do."""
    parts = [part for part in (_training(attempt), _farm(run)) if part]
    return "   ".join(parts)


def _training(attempt: AttemptFolder) -> str:
    beats = read_heartbeats(attempt)
    if not beats:
        return ""
    beat = beats[0]
    step, steps = beat.get("step", 0), beat["steps"]
    text = f"{beat['phase']} {bar(step, steps)} {step}/{steps}"
    if "loss" in beat:
        text += f"  loss {beat['loss']:.4f}  {beat['images_per_s']:.1f} images/s"
    if "loss" in beat and step < steps:
        left_s = (steps - step) * beat["images_per_step"] / max(beat["images_per_s"], 1e-9)
        text += f"  {duration(left_s)} left"
    broken = sum(beat.get("broken_samples", 0) for beat in beats)
    if broken:
        text += f"  {broken} samples cannot be read: see the ranks' logs"
    left_out = sum(n for beat in beats for n in beat.get("left_out", {}).values())
    if left_out:
        text += f"  {left_out} times the objective could not judge: see the ranks' logs"
    return text


def _farm(run: RunFolder) -> str:
    left = [
        f"{checkpoint['name']} {checkpoint['scored']}/{checkpoint['expected']}"
        for path in sorted(run.evaluations.glob("*/progress.json"))
        for checkpoint in read_json(path)["checkpoints"]
        if checkpoint["scored"] < checkpoint["expected"]
    ]
    return f"farm: {', '.join(left)}" if left else ""


def _event_line(event: dict[str, Any]) -> str | None:
    kind = event["event"]
    if kind == "start":
        lines = [f"{event['ranks']} ranks started after step {event['step']} of {event['steps']}"]
        lines += [f"passed over a checkpoint: {reason}" for reason in event["passed_over"]]
        return "; ".join(lines)
    if kind in ("checkpoint", "export"):
        path = Path(event["path"])
        return f"published {path.parent.name}/{path.name}"
    if kind == "validation":
        return f"validation loss {event['loss']:.5f} after step {event['step']}"
    if kind == "warning":
        return f"warning: {event['message']}"
    if kind == "early_stop":
        return f"ends early: {event['metric']} was best after step {event['best_step']}"
    return None


def _evaluated_rows(run: RunFolder) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """(suite, row, columns) of every checkpoint that is scored in full."""
    found = []
    for path in sorted(run.evaluations.glob("*/results.json")):
        results = read_json(path)
        found += [
            (results["suite"], row, results["columns"])
            for row in results["rows"]
            if row["complete"]
        ]
    return found
