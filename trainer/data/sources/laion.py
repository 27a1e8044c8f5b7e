"""LAION and Re-LAION: which rows of the metadata pass the filters, before and after the download.

Before it, `select_rows` writes the rows that are worth fetching, for img2dataset. After it, the
tars are filtered by the metadata again, or by what img2dataset saved of it in the tars' JSON.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.config import LaionConfig
from trainer.data.shards import describe_left_out
from trainer.data.sources import webdataset
from trainer.data.sources.tables import open_parquet
from trainer.data.tars import Job, Part, TarSample, UnusableShard, list_samples, read_at

# Filter -> names of its column, in lower case, the first that is there. LAION writes WIDTH, its
# aesthetic subsets AESTHETIC_SCORE; what img2dataset calls width is the picture as it stored it.
COLUMNS = {
    "width": ("original_width", "width"),
    "height": ("original_height", "height"),
    "similarity": ("similarity",),
    "pwatermark": ("pwatermark",),
    "punsafe": ("punsafe",),
    "aesthetic": ("aesthetic", "aesthetic_score"),
    "language": ("language",),
}
URL_COLUMNS = ("url",)
TEXT_COLUMNS = ("caption", "text")
VERDICTS = "laion.npy"
NOT_LISTED = "not in the metadata"

Column = Callable[[Sequence[str]], Sequence[Any]]
"""The values of the first of the named columns that there is; ValueError if there is none."""


class Rule(NamedTuple):
    """One filter of a recipe; its limits pass."""

    name: str
    low: float = -np.inf
    high: float = np.inf
    choices: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why a row is left out, as it is counted."""
        if self.choices:
            return f"{self.name} not {' or '.join(self.choices)}"
        is_low = self.low > -np.inf
        return f"{self.name} < {self.low:g}" if is_low else f"{self.name} > {self.high:g}"

    def refuses(self, values: Sequence[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which values fail, and which are not known."""
        if self.choices:
            unknown = np.array([value is None for value in values], bool)
            passes = np.array([value in self.choices for value in values], bool)
        else:
            numbers = _numbers(values)
            unknown = np.isnan(numbers)
            passes = (numbers >= self.low) & (numbers <= self.high)
        return ~passes & ~unknown, unknown


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


def select_rows(
    config: LaionConfig, out: Path, progress: Callable[[Iterable[Path], int], Iterable[Path]]
) -> str:
    """Write the rows of the metadata that pass to a parquet file; says how to fetch them."""
    import pyarrow
    import pyarrow.parquet

    if config.metadata is None:
        raise ValueError("laion.metadata names no parquet files to select from")
    files = metadata_files(config.metadata)
    counts: Counter[str] = Counter()
    schema = open_parquet(files[0]).schema_arrow
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for path in progress(files, len(files)):
            for batch in _batches(path, schema.names):
                verdicts = judge(_column_of(batch, path), batch.num_rows, config)
                counts.update(reasons(config)[verdict] for verdict in verdicts)
                passed = pyarrow.Table.from_batches([batch.filter(pyarrow.array(verdicts == 0))])
                writer.write_table(passed.cast(schema))
    temporary.replace(out)
    return _describe_selection(config, out, counts, schema.names)


def _describe_selection(
    config: LaionConfig, out: Path, counts: Counter[str], columns: Sequence[str]
) -> str:
    passed, total = counts.pop("", 0), sum(counts.values())
    left_out = f"; left out: {describe_left_out(counts)}" if counts else ""
    by_name = {name.lower(): name for name in columns}
    asked = [name for rule in rules(config) for name in COLUMNS[rule.name]]
    # The size on the web is in the JSON anyway.
    saved = [by_name[n] for n in asked if n in by_name and n not in ("width", "height")]
    url, text = (
        next((by_name[name] for name in names if name in by_name), "?")
        for names in (URL_COLUMNS, TEXT_COLUMNS)
    )
    return (
        f"{passed} of {passed + total} rows are in {out}{left_out}\n"
        f"fetch them: img2dataset --input_format parquet --url_list {out} --url_col {url} "
        f"--caption_col {text} --output_format webdataset --output_folder {config.path} "
        f"--save_additional_columns '{json.dumps(saved)}'"
    )


def metadata_files(path: Path) -> list[Path]:
    """The parquet file, or all in a folder."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise ValueError(f"laion.metadata {path} holds no .parquet file")
    return files


def rules(config: LaionConfig) -> list[Rule]:
    """The filters that a recipe sets."""
    low = {
        "width": config.min_width or None,
        "height": config.min_height or None,
        "similarity": config.min_similarity,
        "aesthetic": config.min_aesthetic,
    }
    high = {"pwatermark": config.max_pwatermark, "punsafe": config.max_punsafe}
    found = [Rule(name, low=limit) for name, limit in low.items() if limit is not None]
    found += [Rule(name, high=limit) for name, limit in high.items() if limit is not None]
    return [*found, Rule("language", choices=config.languages)] if config.languages else found


def reasons(config: LaionConfig) -> list[str]:
    """What the numbers of `judge` mean; 0 passes."""
    failed = [reason for rule in rules(config) for reason in (rule.reason, f"{rule.name} unknown")]
    return ["", *failed, NOT_LISTED]


def judge(column: Column, rows: int, config: LaionConfig) -> NDArray[np.uint8]:
    """For each row the first filter that it fails, as a place among `reasons`; 0 passes all."""
    verdicts = np.zeros(rows, np.uint8)
    for place, rule in enumerate(rules(config)):
        failed, unknown = rule.refuses(column(COLUMNS[rule.name]))
        verdicts[(verdicts == 0) & failed] = 2 * place + 1
        if rule.name not in config.keep_unknown:
            verdicts[(verdicts == 0) & unknown] = 2 * place + 2
    return verdicts


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
    found = []
    for path, batch in _needed_batches(config, files):
        column = _column_of(batch, path)
        rows = np.zeros(batch.num_rows, [("digest", "<u8"), ("verdict", "u1")])
        rows["verdict"] = judge(column, batch.num_rows, config)
        pairs = zip(column(URL_COLUMNS), column(TEXT_COLUMNS), strict=True)
        rows["digest"] = [_digest(url, text) for url, text in pairs]
        found.append(rows)
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
        for batch in _batches(path, [name for name in names if name.lower() in known]):
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


def _batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    file = open_parquet(path)
    lacking = set(columns).difference(file.schema_arrow.names)
    if lacking:
        raise ValueError(f"{path} has no column {', '.join(sorted(lacking))}, unlike others there")
    yield from file.iter_batches(columns=list(columns))


def _column_of(batch: Any, path: Path) -> Column:
    by_name = {name.lower(): name for name in reversed(batch.schema.names)}

    def column(names: Sequence[str]) -> Sequence[Any]:
        for name in names:
            if name in by_name:
                values: Sequence[Any] = batch.column(by_name[name]).to_numpy(zero_copy_only=False)
                return values
        raise ValueError(
            f"{path} has no column {' or '.join(names)}, only {', '.join(batch.schema.names)}: "
            "leave out this filter"
        )

    return column


def _numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """The values as numbers; null and what is no number are nan."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":  # a parquet column
        return values.astype(float)
    return np.array([_number(value) for value in values], float)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
