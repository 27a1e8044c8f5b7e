"""Making the shards that a recipe trains on, unless they are there."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.run_folder import BrokenFolder, read_manifest
from trainer.data.alone import alone_at
from trainer.data.config import COPIED, DataConfig, first_of
from trainer.data.jobs import Outcome, Runner, in_turn
from trainer.data.shards import describe_left_out, publish_shards, staging_for
from trainer.data.sources import READERS
from trainer.data.tars import Job, Part

Progress = Callable[[Iterable[Outcome], int], Iterable[Outcome]]
"""Wraps the shards while they are made, to show how far it is of so many."""
# Of these a digest would read the whole of the data; their size has to do.
LARGE = (".tar", ".parquet")


def build(
    config: DataConfig, progress: Progress = lambda parts, _: parts, run: Runner = in_turn
) -> str:
    """Have `config.path` hold the samples that `config` describes; says what was done.

    Runs again at no cost; refuses a folder that holds other samples.
    """
    if not config.sources:
        return f"{_samples_there(config)} samples are in {config.path}"
    if done := _already(config):
        return done
    with alone_at(config.path):
        if done := _already(config):
            return done
        facts = _make(config, progress, run)
    return _describe(facts, config.path)


def _already(config: DataConfig) -> str | None:
    """What to say of a folder that holds these samples; None if it holds none."""
    try:
        there = read_manifest(config.path)
    except BrokenFolder:
        return None
    _refuse_other_samples(config, there)
    return f"{there['samples']} samples are already in {config.path}"


def _make(config: DataConfig, progress: Progress, run: Runner) -> dict[str, Any]:
    _check_there(config)
    groups = config.sources
    inputs = {name: _inputs(name, group) for name, group in groups.items()}
    with staging_for(config.path) as staging:
        scratch = staging / "scratch"
        scratch.mkdir()
        jobs = list(_plan(groups, scratch))
        outcomes = progress(run([job for _, job in jobs], staging), len(jobs))
        parts = _whole(zip((number for number, _ in jobs), outcomes, strict=True))
        shutil.rmtree(scratch)
        return publish_shards(staging, config.path, parts, config.described, inputs)


def _check_there(config: DataConfig) -> None:
    """ValueError names each file and folder that a source is made of and that is not there."""
    needs = config.needs(built=False)
    missing = [f"train.data.{key} {path}" for key, path in needs.items() if not path.exists()]
    if missing:
        raise ValueError(f"not there: {', '.join(missing)}")


def _whole(outcomes: Iterable[tuple[int, Outcome]]) -> list[tuple[int, Part]]:
    """The parts, once all are made; ValueError names the shards that cannot be used."""
    parts: list[tuple[int, Part]] = []
    unusable: list[str] = []
    for number, outcome in outcomes:
        if isinstance(outcome, str):
            unusable.append(outcome)
        else:
            parts.append((number, outcome))
    if unusable:
        raise ValueError(first_of(unusable))
    return parts


def _plan(groups: Mapping[str, Any], scratch: Path) -> Iterator[tuple[int, Job]]:
    for number, (name, group) in enumerate(groups.items()):
        for job in READERS[name].plan(group, scratch):
            yield number, job


def _inputs(name: str, group: Any) -> dict[str, Any]:
    """The files that decide what a source holds: size, or SHA-256 where they are small."""
    return {str(path): _facts(path) for path in map(Path.absolute, READERS[name].inputs(group))}


def _facts(path: Path) -> dict[str, Any]:
    try:
        if path.suffix in LARGE:
            return {"bytes": path.stat().st_size}
        with path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None


def _describe(facts: Mapping[str, Any], path: Path) -> str:
    names = [source["name"] for source in facts["sources"]]
    lines = [f"{'drew' if names == ['words'] else 'built'} {facts['samples']} samples into {path}"]
    for source in facts["sources"]:
        if names != ["words"]:
            lines.append(f"{source['name']}: {source['samples']}")
        if source["left_out"]:
            lines[-1] += f"; left out: {describe_left_out(source['left_out'])}"
    return "\n".join(lines)


def _samples_there(config: DataConfig) -> int:
    try:
        return int(read_manifest(config.path)["samples"])
    except BrokenFolder:
        raise ValueError(
            f"train.data.path {config.path} holds no indexed shards, and train.data names nothing "
            "to build them from"
        ) from None


def _refuse_other_samples(config: DataConfig, there: Mapping[str, Any]) -> None:
    differ = config.differences(there.get("source", {}))
    if not differ:
        groups = config.sources.items()
        known = {name: group for name, group in groups if name not in COPIED or group.path.exists()}
        for name, group in known.items():
            differ += _changes(there.get("inputs", {}).get(name, {}), _inputs(name, group))
    if differ:
        raise ValueError(config.refusal(differ))


def _changes(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The files that were added, lost or changed since the folder was built."""
    names = sorted({*there, *now})
    return [
        f"{name} {'is new' if name not in there else 'is gone' if name not in now else 'changed'}"
        for name in names
        if there.get(name) != now.get(name)
    ]
