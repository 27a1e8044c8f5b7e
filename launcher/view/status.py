"""What is known of runs, from their folders alone."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from cluster.hangs.heartbeat import main_beat
from cluster.program import last_words
from cluster.run_folder import RunFolder, published_steps, read_json
from cluster.slurm.run_job import ask_slurm, is_on_slurm, slurm_job
from cluster.table import align, results_table
from launcher.ray.jobs import has_begun, job_line
from launcher.run_state import is_on_ray, run_state
from launcher.runs import is_whole, short_names
from launcher.slurm.farm import farm_job
from launcher.view.accounts import accounts_table
from launcher.view.follow import progress_line


def overview(runs: list[RunFolder]) -> str:
    """A table with a line per run."""
    rows = [["run", "state", "step", "checkpoints", "evaluated"]]
    for name, run in zip(short_names(runs), runs, strict=True):
        if not is_whole(run):
            rows.append([name, "broken", *["–"] * 3])
            continue
        beat = main_beat(run)
        rows.append(
            [
                name,
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
    lines += _slurm_lines(run, state)
    if is_on_ray(state) and (not state["outcome"] or _failed_at_once(state)):
        lines.append(f"job        {job_line(state)}")
    if number is not None:
        lines.append(f"attempt    {number}")
        lines.append(f"progress   {progress_line(run, run.attempt(number))}")
        lines += verdict_lines(state)
        slow = (main_beat(run) or {}).get("stragglers", {})
        lines += [
            f"straggler  rank {rank} takes {score:.2f} times the median for its own part of a step"
            for rank, score in slow.items()
        ]
    for name, folder in (("checkpoint", run.checkpoints), ("export", run.exports)):
        steps = published_steps(folder)
        if steps:
            lines.append(f"{name:10} {steps[-1][1]} ({len(steps)} in all)")
    hours = accounts_table(run, state)
    lines += ["", *hours] if hours else []
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


def _failed_at_once(state: dict[str, Any]) -> bool:
    """Whether a run's job on Ray has failed before an attempt: no verdict tells why."""
    return state["outcome"] == "failed" and not has_begun(state)


def _slurm_lines(run: RunFolder, state: dict[str, Any]) -> list[str]:
    """What SLURM last said of the job, and the nodes that the run keeps away from."""
    lines, is_lost = [], False
    if is_on_slurm(state) and slurm_job(state) is None:
        resume = f"`{own_command()} resume {run.root}` looks whether it is queued"
        lines.append(f"job        SLURM did not answer when a job was asked for: {resume}")
    if slurm_job(state) and not state["outcome"]:
        job, queue = ask_slurm(state)
        said = f", as SLURM said {time.time() - queue.asked:.0f} s ago" if job else ""
        lines.append(f"job        {slurm_job(state)}: {job or 'SLURM was asked before'}{said}")
        lines += [f"           {queue.failure}"] if queue.failure else []
        is_lost = job is not None and job.has_ended
    output = run.root / f"slurm-{slurm_job(state)}.out"
    if output.exists():
        lines.append(f"output     {output}")
        if is_lost:  # no verdict tells why
            lines.append(f"           {last_words(output)}")
    if farm := farm_job(state):
        lines.append(f"farm       job {farm}; it prints to {run.evaluations}/slurm-{farm}*.out")
    for entry in state.get("excluded", []):
        if entry["until"] > time.time():
            until = time.strftime("%d %b %H:%M", time.localtime(entry["until"]))
            lines.append(f"left out   {entry['node']} until {until}: {entry['why']}")
    return lines


def _results(run: RunFolder) -> list[dict[str, Any]]:
    return [read_json(path) for path in sorted(run.evaluations.glob("*/results.json"))]
