"""When a metric counts as no longer getting better, and which steps were its best."""

import json
from pathlib import Path

import pytest

from cluster.run_folder import RunFolder
from tests.conftest import train_config
from trainer.config import EarlyStopConfig, KeepConfig, ValidationConfig
from trainer.early_stop import Series, read_series, stalled

TWO = EarlyStopConfig(patience=2)


@pytest.mark.parametrize(
    ("losses", "ended"),
    [
        ([0.30, 0.25, 0.19, 0.21], False),
        ([0.30, 0.25, 0.19, 0.21, 0.20], True),  # as in wikiart-lora: two epochs without progress
        ([0.30, 0.25, 0.19, 0.21, 0.18], False),
        ([0.30, 0.30, 0.30], True),  # as good is no better
        ([], False),
    ],
)
def test_a_loss_stalls_after_patience_values_without_a_better_one(
    losses: list[float], ended: bool
) -> None:
    assert stalled(Series(dict(enumerate(losses))), TWO) is ended


def test_progress_below_min_delta_does_not_count() -> None:
    creeping = Series({0: 1.0, 1: 0.99, 2: 0.98})
    assert not stalled(creeping, TWO)
    assert stalled(creeping, EarlyStopConfig(patience=2, min_delta=0.05))
    # It is the best there was that has to be beaten, not the value before.
    assert not stalled(
        Series({0: 1.0, 1: 0.97, 2: 0.94}), EarlyStopConfig(patience=2, min_delta=0.05)
    )


def test_more_is_better_where_the_farm_says_so(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    metrics = {
        "ocr_f1/ppocr": {"higher_is_better": True, "values": {"10": 0.2, "20": 0.5, "30": 0.4}},
        "fd/clip": {"higher_is_better": False, "values": {"10": 3.0, "20": 2.0, "30": 1.0}},
        "fd/inception": {"higher_is_better": False, "values": {}},
    }
    assert read_series(run, "mini/ocr_f1", {}).values == {}  # the farm has not said anything yet
    run.verdict("mini").parent.mkdir(parents=True)
    run.verdict("mini").write_text(json.dumps({"suite": "mini", "metrics": metrics}))
    series = read_series(run, "mini/ocr_f1", {})
    assert series.best(2) == [20, 30]
    assert not stalled(series, TWO)
    assert stalled(series, EarlyStopConfig(patience=1))
    with pytest.raises(ValueError, match=r"has more than one metric fd: it has fd/clip"):
        read_series(run, "mini/fd", {})
    assert read_series(run, "mini/fd/clip", {}).best(1) == [30]
    with pytest.raises(ValueError, match=r"has no metric ocr"):
        read_series(run, "mini/ocr", {})


def test_a_validation_loss_that_nobody_measures_is_not_waited_for(tmp_path: Path) -> None:
    for waits in ({"early_stop": TWO}, {"keep": KeepConfig(newest=1, best=1)}):
        with pytest.raises(ValueError, match="is validation_loss, and validation is null"):
            train_config(tmp_path, **waits)
        train_config(tmp_path, validation=ValidationConfig(samples=1), **waits)
    train_config(tmp_path, early_stop=EarlyStopConfig(patience=1, metric="train_loss"))
