"""What is known of runs, from their folders alone."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from cluster.processes import is_alive
from cluster.run_folder import RunFolder, published_steps, read_json
from cluster.table import align, results_table
from launcher.follow import progress_line
from launcher.ray_jobs import has_begun, job_line

SILENT_S = 60.0


def runs_below(folder: Path) -> list[RunFolder]:
    """The run folders in a folder, by name."""
    return [RunFolder(path.parent) for path in sorted(folder.glob("*/recipe.yaml"))]


def overview(runs: list[RunFolder]) -> str:
    """A table with a line per run."""
    rows = [["run", "state", "step", "checkpoints", "evaluated"]]
    for run in runs:
        beat = _main_beat(run)
        rows.append(
            [
                str(run.root.name),
                run_state(run),
                f"{beat['step']}/{beat['steps']}" if beat else "–",
                str(len(published_steps(run.checkpoints))),
                str(sum(row["complete"] for results in _results(run) for row in results["rows"])),
            ]
        )
    return "\n".join(align(rows))


def details(run: RunFolder) -> str:
    """All that is known of one run."""
    state, number = read_json(run.state), run.last_attempt()
    lines = [f"{run.root.name}: {run_state(run)}", f"folder     {run.root}"]
    git = state.get("git")
    if git:
        changed = " and changes" if git["changed"] else ""
        lines.append(f"code       {git['commit'][:10]}{changed}")
    if is_on_ray(state) and not state["outcome"]:
        lines.append(f"job        {job_line(state)}")
    if number is not None:
        lines.append(f"attempt    {number}")
        lines.append(f"progress   {progress_line(run, run.attempt(number))}")
        lines += verdict_lines(state)
    for name, folder in (("checkpoint", run.checkpoints), ("export", run.exports)):
        steps = published_steps(folder)
        if steps:
            lines.append(f"{name:10} {steps[-1][1]} ({len(steps)} in all)")
    for results in _results(run):
        lines += ["", results["suite"], results_table(results)]
    return "\n".join(lines)


def verdict_lines(state: dict[str, Any]) -> list[str]:
    """Why the newest attempt that has ended did so, and what followed."""
    judged = [attempt for attempt in state["attempts"] if "verdict" in attempt]
    if not judged:
        return []
    verdict, decision = judged[-1]["verdict"], judged[-1]["decision"]
    of = "" if judged[-1] is state["attempts"][-1] else f" of attempt {judged[-1]['number']}"
    where = f" on {verdict['node']}" if verdict["node"] else ""
    return [
        f"verdict    {verdict['cause']}{of}{where}: {verdict['evidence']}",
        f"then       {decision['why']}",
    ]


def results_and_places(run: RunFolder) -> str:
    """The table of each suite, and where to look further."""
    lines: list[str] = []
    for results in _results(run):
        folder = run.evaluation(results["suite"])
        lines += ["", f"suite {results['suite']}", results_table(results), ""]
        lines += [f"report    {folder / 'report.html'}", f"pictures  {folder / 'images'}"]
    return "\n".join([*lines, f"curves    {own_command()} board {run.root}"])


def own_command() -> str:
    """How to call this program again: a hint can be typed as it stands, in `.venv` or out of it."""
    called_as = Path(sys.argv[0])
    if called_as.name == "letterpress" and not shutil.which("letterpress"):
        return str(called_as)
    return "letterpress"


def run_state(run: RunFolder) -> str:
    """new, queued, running, stopping, restarting, done, stopped, failed, or lost.

    Lost was killed without a word.
    """
    state = read_json(run.state)
    if state["outcome"]:
        return str(state["outcome"])
    if is_on_ray(state) and not has_begun(state):
        return "queued"
    if not state["attempts"]:
        return "new"
    if _is_running(run, state["attempts"][-1]):
        if "ended" in state["attempts"][-1]:
            return "restarting"
        return "stopping" if run.stop_request.exists() else "running"
    return "lost"


def is_on_ray(state: dict[str, Any]) -> bool:
    """Whether a run was last submitted to Ray."""
    return "ray_job" in state


def _is_running(run: RunFolder, attempt: dict[str, Any]) -> bool:
    if attempt.get("backend") == "local":
        return is_alive(attempt["pid"])
    if "ended" in attempt:
        return True
    beat = _main_beat(run)  # on another machine: by its heartbeat
    return beat is None or time.time() - beat["time"] < SILENT_S


def _main_beat(run: RunFolder) -> dict[str, Any] | None:
    number = run.last_attempt()
    if number is None:
        return None
    path = run.attempt(number).heartbeat(0)
    return dict(read_json(path)) if path.exists() else None


def _results(run: RunFolder) -> list[dict[str, Any]]:
    return [read_json(path) for path in sorted(run.evaluations.glob("*/results.json"))]
