"""LAION's filters, on its metadata and on the tars, and what a null means."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.unit.trainer.sources import write_download
from trainer.data.build import build
from trainer.data.config import DataConfig, LaionConfig
from trainer.data.select import img2dataset_command, select_rows
from trainer.data.shards import ShardFolder

GOOD = {
    "original_width": 512,
    "original_height": 512,
    "similarity": 0.3,
    "pwatermark": 0.1,
    "punsafe": 0.01,
    "aesthetic": 5.5,
    "LANGUAGE": "en",
}
FILTERS: dict[str, Any] = {
    "min_width": 256,
    "min_height": 256,
    "min_similarity": 0.28,
    "max_pwatermark": 0.5,
    "max_punsafe": 0.1,
    "min_aesthetic": 5,
    "languages": ("en", "de"),
}
BAD: list[tuple[str, Any, str]] = [
    ("original_width", 255, "width < 256"),
    ("original_height", 255, "height < 256"),
    ("similarity", 0.27, "similarity < 0.28"),
    ("pwatermark", 0.51, "pwatermark > 0.5"),
    ("punsafe", 0.2, "punsafe > 0.1"),
    ("aesthetic", 4.9, "aesthetic < 5"),
    ("LANGUAGE", "fr", "language not en or de"),
]


def built(tmp_path: Path, **keys: Any) -> dict[str, Any]:
    config = DataConfig(path=tmp_path / "shards", laion=LaionConfig(path=tmp_path / "tars", **keys))
    build(config)
    (source,) = ShardFolder(config.path).manifest["sources"]
    assert isinstance(source, dict)
    return source


def test_each_filter_leaves_out_what_fails_it(tmp_path: Path) -> None:
    rows = [GOOD, *(GOOD | {column: value} for column, value, _ in BAD)]
    write_download(tmp_path / "tars", 0, rows)
    source = built(tmp_path, **FILTERS)
    assert source["samples"] == 1
    assert source["left_out"] == {reason: 1 for _, _, reason in BAD}


def test_a_value_at_the_limit_passes(tmp_path: Path) -> None:
    limits = {"original_width": 256, "similarity": 0.28, "pwatermark": 0.5, "aesthetic": 5}
    write_download(tmp_path / "tars", 0, [GOOD | limits])
    assert built(tmp_path, **FILTERS)["samples"] == 1


@pytest.mark.parametrize(("keep", "samples"), [((), 1), (("pwatermark",), 2)])
def test_an_unknown_value_fails_unless_it_is_to_be_kept(
    tmp_path: Path, keep: tuple[str, ...], samples: int
) -> None:
    rows = [GOOD, GOOD | {"pwatermark": None}, GOOD | {"LANGUAGE": None}]
    write_download(tmp_path / "tars", 0, rows)
    source = built(tmp_path, **FILTERS, keep_unknown=keep)
    assert source["samples"] == samples
    assert source["left_out"]["language unknown"] == 1
    assert source["left_out"].get("pwatermark unknown", 0) == 2 - samples


def test_a_filter_without_its_column_is_a_mistake(tmp_path: Path) -> None:
    write_download(tmp_path / "tars", 0, [{"similarity": 0.3}])
    with pytest.raises(ValueError, match=r"00000\.tar has no aesthetic: set laion\.metadata"):
        built(tmp_path, min_aesthetic=5)


def write_metadata(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def metadata_rows(**columns: list[Any]) -> list[dict[str, Any]]:
    """Rows about the samples 000000000 and on."""
    names = list(columns)
    return [
        {"URL": f"http://x/00000{n:04d}", "TEXT": "red"} | dict(zip(names, values, strict=True))
        for n, values in enumerate(zip(*columns.values(), strict=True))
    ]


def test_tars_are_joined_with_metadata_by_url_and_text(tmp_path: Path) -> None:
    write_download(tmp_path / "tars", 0, [{}, {}, {}, {"caption": "other"}])
    rows = metadata_rows(pwatermark=[0.1, 0.9, None, 0.1])
    write_metadata(tmp_path / "meta" / "a.parquet", rows[:2])
    write_metadata(tmp_path / "meta" / "b.parquet", rows[2:])
    source = built(tmp_path, metadata=tmp_path / "meta", max_pwatermark=0.8)
    assert source["samples"] == 1
    assert source["left_out"] == {
        "pwatermark > 0.8": 1,
        "pwatermark unknown": 1,
        "not in the metadata": 1,
    }


def test_rows_are_selected_before_the_download(tmp_path: Path) -> None:
    rows = metadata_rows(WIDTH=[512, 100, 512], AESTHETIC_SCORE=[6.0, 6.0, None])
    write_metadata(tmp_path / "meta.parquet", rows)
    config = LaionConfig(
        path=tmp_path / "tars", metadata=tmp_path / "meta.parquet", min_width=256, min_aesthetic=5
    )
    data = DataConfig(path=tmp_path / "index", laion=config, resolution=512)
    said = select_rows(data, tmp_path / "out" / "some.parquet", lambda files, _: files)
    selected = pyarrow.parquet.read_table(tmp_path / "out" / "some.parquet").to_pylist()
    assert selected == rows[:1]
    assert said.startswith("1 of 3 rows are in")
    assert "1 width < 256, 1 aesthetic unknown" in said
    assert "--url_col URL --caption_col TEXT" in said
    assert "--image_size 512 --resize_mode keep_ratio --resize_only_if_bigger True" in said
    assert said.endswith("--save_additional_columns '[\"AESTHETIC_SCORE\"]'")


def test_metadata_without_a_column_is_answered_with_those_there_are(tmp_path: Path) -> None:
    write_metadata(tmp_path / "meta.parquet", metadata_rows(similarity=[0.3]))
    config = LaionConfig(path=tmp_path, metadata=tmp_path / "meta.parquet", languages=("en",))
    data = DataConfig(path=tmp_path / "index", laion=config)
    with pytest.raises(ValueError, match="no column language, only URL, TEXT, similarity"):
        select_rows(data, tmp_path / "some.parquet", lambda files, _: files)


def test_pictures_of_any_size_are_fetched_as_they_are_where_training_resizes_none() -> None:
    config = LaionConfig(path=Path("tars"))
    said = img2dataset_command(config, Path("rows.parquet"), ["url", "caption"], side_px=None)
    assert "--resize_mode no --skip_reencode True" in said


def test_shares_are_checked() -> None:
    with pytest.raises(ValueError, match="max_punsafe must be 0 to 1, got 7"):
        LaionConfig(path=Path("x"), max_punsafe=7)
