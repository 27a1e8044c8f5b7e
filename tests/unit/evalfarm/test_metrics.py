"""The registry of metrics, and that each says what it is."""

import pytest

import evalfarm.metrics as metrics
from evalfarm.metrics.base import get
from evalfarm.results import column_key


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_metric_says_what_its_numbers_are(name: str) -> None:
    metric = get(name)
    page = " ".join(getattr(metrics, name).__doc__.lower().split())
    assert "higher is better" in page or "lower is better" in page
    assert all(column.title and column.unit for column in metric.columns)


def test_a_misspelt_metric_is_answered_with_the_right_one() -> None:
    with pytest.raises(ValueError, match=r"metric 'orc' is unknown: did you mean 'ocr'\?"):
        get("orc")
    with pytest.raises(ValueError, match="choose from clip_score, frechet, ocr"):
        get("zzz")


def test_a_column_bears_metric_and_variant_and_says_nothing_twice() -> None:
    assert column_key("ocr", "f1", "ppocr@1") == "ocr_f1/ppocr@1"
    assert column_key("clip_score", "score", "clip@1") == "clip_score/clip@1"
    assert column_key("frechet", "distance", "clip@1") == "frechet_distance/clip@1"
