"""LAION's rows that are worth fetching: its metadata, filtered before the download."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cluster.rows import open_parquet
from trainer.data.config import DataConfig, LaionConfig
from trainer.data.shards import describe_left_out
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


def select_rows(
    data: DataConfig, out: Path, progress: Callable[[Iterable[Path], int], Iterable[Path]]
) -> str:
    """Write the rows of LAION's metadata that pass to a parquet file; says how to fetch them."""
    import pyarrow
    import pyarrow.parquet

    config = data.laion
    if config is None:
        raise ValueError("train.data.laion is not set: there is nothing to select from")
    if config.metadata is None:
        raise ValueError(
            "laion.metadata names no parquet files to select from: "
            "--set train.data.laion.metadata=FOLDER"
        )
    files = metadata_files(config.metadata)
    counts: Counter[str] = Counter()
    schema = open_parquet(files[0]).schema_arrow
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for path in progress(files, len(files)):
            for batch in read_batches(path, schema.names):
                verdicts = judge(column_of(batch, path), batch.num_rows, config)
                counts.update(reasons(config)[verdict] for verdict in verdicts)
                passed = pyarrow.Table.from_batches([batch.filter(pyarrow.array(verdicts == 0))])
                writer.write_table(passed.cast(schema))
    temporary.replace(out)
    passed, total = counts.pop("", 0), sum(counts.values())
    left_out = f"; left out: {describe_left_out(counts)}" if counts else ""
    command = img2dataset_command(config, out, schema.names, data.resolution)
    return f"{passed} of {passed + total} rows are in {out}{left_out}\nfetch them: {command}"


def img2dataset_command(
    config: LaionConfig, rows: Path, columns: Sequence[str], side_px: int | None
) -> str:
    """How to fetch the pictures of these rows, no larger than training sees them."""
    by_name = {name.lower(): name for name in columns}
    asked = [name for rule in rules(config) for name in COLUMNS[rule.name]]
    # The size on the web is in the JSON anyway.
    saved = [by_name[n] for n in asked if n in by_name and n not in ("width", "height")]
    url, text = (
        next((by_name[name] for name in names if name in by_name), "?")
        for names in (URL_COLUMNS, TEXT_COLUMNS)
    )
    # By default img2dataset would make squares of 256 pixels with white borders.
    size = f"--image_size {side_px} --resize_mode keep_ratio --resize_only_if_bigger True"
    return (
        f"img2dataset --input_format parquet --url_list {rows} --url_col {url} "
        f"--caption_col {text} --output_format webdataset --output_folder {config.path} "
        f"{size if side_px else '--resize_mode no'} --skip_reencode True "
        f"--save_additional_columns '{json.dumps(saved)}'"
    )
