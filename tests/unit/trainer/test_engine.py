"""The engine's settings: a schedule counted in steps, a DeepSpeed config with nothing left open."""

import json
from pathlib import Path

import pytest

from trainer.config import OptimConfig, TrainConfig, ZeroConfig
from trainer.data.config import DataConfig
from trainer.engine import deepspeed_config, learning_rate


def test_the_rate_rises_linearly_and_stays() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4)
    rates = [learning_rate(step, config, steps=100) for step in (0, 1, 3, 4, 50, 99)]
    assert rates == [0.25, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_the_cosine_falls_from_the_peak_to_nothing() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=10, schedule="cosine")
    assert learning_rate(10, config, steps=110) == 1.0
    assert learning_rate(60, config, steps=110) == pytest.approx(0.5)
    assert learning_rate(109, config, steps=110) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_no_setting_is_left_to_be_guessed(stage: int) -> None:
    config = TrainConfig(
        model="m",
        data=DataConfig(path=Path("d")),
        steps=10,
        global_batch=24,
        micro_batch=3,
        zero=ZeroConfig(stage=stage),  # type: ignore[arg-type]
    )
    settings = deepspeed_config(config, ranks=4)
    assert "auto" not in json.dumps(settings)
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["train_batch_size"] == 24
    assert settings["train_micro_batch_size_per_gpu"] * settings["gradient_accumulation_steps"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0}, "lr must be positive, got 0"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, got -1"),
        ({"clip_norm": -1}, "clip_norm must be 0 or more, got -1"),
    ],
)
def test_rates_that_make_no_sense_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**changes)  # type: ignore[arg-type]
