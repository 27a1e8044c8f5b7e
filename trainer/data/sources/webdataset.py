"""WebDataset tars as they are, above all those that img2dataset wrote beside its records."""

import json
from collections import Counter
from functools import partial
from pathlib import Path

from cluster.rows import open_parquet
from trainer.data.config import WebDatasetConfig
from trainer.data.tars import Job, Part, TarSample, UnusableShard, examine, list_samples

FAILURES = ("failed_to_download", "failed_to_resize")
# Members that only this project writes.
TRUTH_MEMBERS = ("mask.png", "charseg.png")


def inputs(config: WebDatasetConfig) -> list[Path]:
    """The tars that are finished."""
    return finished_tars(config.path)[0]


def plan(config: WebDatasetConfig, _: Path) -> list[Job]:
    """A job for each tar to index."""
    return plan_tars(config.path, partial(_index, config.min_side_px))


def plan_tars(folder: Path, index: "partial[Part]") -> list[Job]:
    """A job for each tar in a folder, and one that counts those which are not finished."""
    finished, unfinished = finished_tars(folder)
    jobs: list[Job] = [partial(index, tar) for tar in finished]
    return [*jobs, *(partial(_pass_over, tar) for tar in unfinished)]


def finished_tars(folder: Path) -> tuple[list[Path], list[Path]]:
    """The tars in a folder, and those that img2dataset has still to finish.

    It writes `NNNNN_stats.json` when `NNNNN.tar` is whole. Tars of other makers have none at all.
    """
    tars = sorted(Path(folder).absolute().glob("*.tar"))
    if not tars:
        raise ValueError(f"{folder} holds no .tar files")
    done = [tar for tar in tars if _stats_file(tar).exists()]
    if not done:
        return tars, []
    return done, [tar for tar in tars if tar not in set(done)]


def read_shard(tar: Path) -> tuple[list[TarSample], Counter[str]]:
    """The samples of a finished tar, and how many img2dataset could not fetch, by status."""
    samples, stats = list_samples(tar), _read_stats(tar)
    wanted = int(stats.get("successes", 0))
    if len(samples) < wanted:
        raise UnusableShard(
            f"{tar} is broken at byte {tar.stat().st_size}: it holds {len(samples)} of {wanted} "
            "samples: fetch it again or take it away"
        )
    failed = {name: int(stats[name]) for name in FAILURES if stats.get(name)}
    return samples, Counter(failed or _failures_listed(tar))


def part_of(tar: Path, samples: list[TarSample], left_out: Counter[str], min_side_px: int) -> Part:
    """The Part of a tar that stays where it is."""
    rows = examine(tar, samples, left_out, min_side_px=min_side_px)
    knows_text = any(member in (rows.dtype.names or ()) for member in TRUTH_MEMBERS)
    return Part(str(tar), rows, left_out, knows_text)


def _index(min_side_px: int, tar: Path, _: Path) -> Part:
    samples, left_out = read_shard(tar)
    return part_of(tar, samples, left_out, min_side_px)


def _pass_over(tar: Path, _: Path) -> Part:
    return part_of(tar, [], Counter({"shard that is not finished": 1}), 0)


def _stats_file(tar: Path) -> Path:
    return tar.with_name(f"{tar.stem}_stats.json")


def _read_stats(tar: Path) -> dict[str, float]:
    path = _stats_file(tar)
    if not path.exists():
        return {}
    try:
        stats = json.loads(path.read_text())
        return {key: stats[key] for key in ("successes", *FAILURES) if key in stats}
    except (ValueError, TypeError):
        raise UnusableShard(f"{path} is not img2dataset's record of a shard") from None


def _failures_listed(tar: Path) -> Counter[str]:
    """Failures by the parquet file that img2dataset writes beside a tar, a row for each URL."""
    path = tar.with_suffix(".parquet")
    if not path.exists():
        return Counter()
    try:
        file = open_parquet(path)
    except ValueError as error:
        raise UnusableShard(str(error)) from None
    if "status" not in file.schema_arrow.names:
        return Counter()
    statuses = Counter(file.read(columns=["status"])["status"].to_pylist())
    return Counter({name: statuses[name] for name in FAILURES if statuses[name]})
