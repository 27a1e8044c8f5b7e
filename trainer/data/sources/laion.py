"""LAION and Re-LAION: img2dataset's tars, filtered by LAION's metadata.

The values come from the tars' JSON, where img2dataset saved them, or from the metadata itself.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.rows import open_parquet
from trainer.data.config import LaionConfig
from trainer.data.sources import webdataset
from trainer.data.sources.laion_filters import (
    COLUMNS,
    TEXT_COLUMNS,
    URL_COLUMNS,
    column_of,
    judge,
    metadata_files,
    read_batches,
    reasons,
    rules,
)
from trainer.data.tars import Job, Part, TarSample, UnusableShard, list_samples, read_at

VERDICTS = "laion.npy"
log = logging.getLogger(__name__)


def inputs(config: LaionConfig) -> list[Path]:
    """The finished tars and the metadata."""
    listed = metadata_files(config.metadata) if config.metadata else []
    return [*webdataset.finished_tars(config.path)[0], *listed]


def plan(config: LaionConfig, scratch: Path) -> list[Job]:
    """A job for each tar to filter and index."""
    verdicts = None
    if config.metadata:
        verdicts = scratch / VERDICTS
        np.save(verdicts, _judge_metadata(config, metadata_files(config.metadata)))
    else:  # a filter without its column: said once, and now
        first = webdataset.finished_tars(config.path)[0][0]
        _judge_infos(_infos(first, list_samples(first)), first, config)
    return webdataset.plan_tars(config.path, partial(_index, config, verdicts))


def _index(config: LaionConfig, verdicts: Path | None, tar: Path, _: Path) -> Part:
    samples, left_out = webdataset.read_shard(tar)
    infos = _infos(tar, samples)
    judged = _look_up(infos, verdicts, config) if verdicts else _judge_infos(infos, tar, config)
    names = reasons(config)
    left_out.update(names[verdict] for verdict in judged if verdict)
    passed = [sample for sample, verdict in zip(samples, judged, strict=True) if not verdict]
    return webdataset.part_of(tar, passed, left_out, config.min_side_px)


def _infos(tar: Path, samples: Sequence[TarSample]) -> list[dict[str, Any]]:
    """The JSON of every sample, its keys in lower case; empty where there is none."""
    infos = []
    with tar.open("rb") as file:
        for sample in samples:
            text = read_at(file.fileno(), sample.members.get("json", (0, 0)))
            try:
                info = json.loads(text or b"{}")
            except (ValueError, RecursionError):
                info = {}  # its values are unknown
            infos.append({key.lower(): info[key] for key in info} if isinstance(info, dict) else {})
    return infos


def _judge_infos(
    infos: Sequence[dict[str, Any]], tar: Path, config: LaionConfig
) -> NDArray[np.uint8]:
    def column(names: Sequence[str]) -> Sequence[Any]:
        for name in names:
            if any(name in info for info in infos):
                return [info.get(name) for info in infos]
        if not infos:
            return []
        raise UnusableShard(
            f"the JSON in {tar} has no {names[0]}: set laion.metadata to LAION's parquet files, or "
            "leave out this filter"
        )

    return judge(column, len(infos), config)


def _judge_metadata(config: LaionConfig, files: Sequence[Path]) -> NDArray[np.void]:
    """(digest of URL and text, verdict) of every row, sorted by digest: 9 bytes a row."""
    log.info("reading the metadata in %s", config.metadata)
    found = []
    for path, batch in _needed_batches(config, files):
        column = column_of(batch, path)
        rows = np.zeros(batch.num_rows, [("digest", "<u8"), ("verdict", "u1")])
        rows["verdict"] = judge(column, batch.num_rows, config)
        pairs = zip(column(URL_COLUMNS), column(TEXT_COLUMNS), strict=True)
        rows["digest"] = [_digest(url, text) for url, text in pairs]
        found.append(rows)
    if not found:
        raise ValueError(f"laion.metadata {config.metadata} holds no rows")
    everything = np.concatenate(found)
    return everything[np.argsort(everything["digest"], kind="stable")]


def _needed_batches(config: LaionConfig, files: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
    """Only the columns that are asked for: a part of LAION has many, and gigabytes of them."""
    known = {
        *URL_COLUMNS,
        *TEXT_COLUMNS,
        *(name for r in rules(config) for name in COLUMNS[r.name]),
    }
    for path in files:
        names = open_parquet(path).schema_arrow.names
        for batch in read_batches(path, [name for name in names if name.lower() in known]):
            yield path, batch


def _look_up(
    infos: Sequence[dict[str, Any]], verdicts: Path, config: LaionConfig
) -> NDArray[np.uint8]:
    table = np.load(verdicts, mmap_mode="r")
    digests = np.array([_digest(info.get("url"), info.get("caption")) for info in infos], np.uint64)
    places = np.minimum(np.searchsorted(table["digest"], digests), len(table) - 1)
    listed = table["digest"][places] == digests
    return np.where(listed, table["verdict"][places], len(reasons(config)) - 1).astype(np.uint8)


def _digest(url: str | None, text: str | None) -> int:
    """As LAION joins its own tables: a hash over URL and text, null as nothing."""
    joined = f"{url or ''}\0{text or ''}".encode(errors="replace")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")
