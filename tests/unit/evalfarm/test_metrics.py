"""The registry of metrics, and that each says what it is."""

from pathlib import Path

import pytest

import evalfarm.metrics as metrics
from evalfarm.metrics import base, lpips
from evalfarm.metrics.base import column_key, get
from trainer.models.config import NetworksConfig


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_metric_says_what_its_numbers_are(name: str) -> None:
    metric = get(name, NetworksConfig())
    page = " ".join(getattr(metrics, name).__doc__.lower().split())
    assert "higher is better" in page or "lower is better" in page
    assert all(column.title and column.unit for column in metric.columns)


def test_a_misspelt_metric_is_answered_with_the_right_one() -> None:
    for spec, message in {
        "orc": r"metric 'orc' is unknown: did you mean 'ocr'\?",
        "zzz": "choose from aesthetic, clip_score, ",
        "clip_score/clop": r"metric 'clip_score/clop' is unknown: did you mean 'clip'\?",
    }.items():
        with pytest.raises(ValueError, match=message):
            get(spec, NetworksConfig())


def test_a_column_bears_metric_and_variant_and_says_nothing_twice(tiny_model: Path) -> None:
    networks = NetworksConfig(clip=str(tiny_model / "clip"))
    keys = [
        column_key(metric, column)
        for metric in (get("clip_score", networks), get("frechet", networks), get("ocr", networks))
        for column in metric.columns
    ]
    assert keys[0].startswith("clip_score/clip@")
    assert keys[1].startswith("frechet_distance/clip@")
    assert keys[2].startswith("ocr_precision/ppocrv6-small@")


def test_the_weights_of_a_metric_are_digested_once_however_often_its_columns_are_named(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = tmp_path / "alexnet.pth"
    trunk.write_bytes(b"weights")
    networks = NetworksConfig(alexnet=str(trunk), clip=str(tiny_model / "clip"))
    digested: list[str] = []
    for module, name in ((lpips, "files_digest"), (base, "short_digest")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real: digested.append("") or real(*a))
    for spec in ("lpips/alex", "clip_score"):
        metric = get(spec, networks)
        keys = {column_key(metric, column) for column in metric.columns for _ in range(3)}
        assert len(keys) == 1
    assert len(digested) == 2
