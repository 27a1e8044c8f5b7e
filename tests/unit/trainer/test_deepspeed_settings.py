"""DeepSpeed's own settings in a recipe: only those that exist and are free, and never "auto"."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import train_config
from trainer.deepspeed_settings import OURS, SETTINGS
from trainer.engine import deepspeed_config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"zero_optimization": {"reduce_bucket_sise": 1}},
            "deepspeed.zero_optimization.reduce_bucket_sise is not a setting that can be given: "
            "did you mean reduce_bucket_size?",
        ),
        ({"wall_clock_breakdwn": True}, "did you mean wall_clock_breakdown?"),
        ({"zero_optimization": {"stage": 2}}, "is set by train.zero.stage"),
        ({"train_batch_size": 8}, "deepspeed.train_batch_size is set by train.global_batch"),
        ({"communication_data_type": "auto"}, 'is "auto", which DeepSpeed itself does not know'),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, 'is "auto"'),
        ({"zero_optimization": 3}, "takes keys of its own, got 3"),
        ({"memory_breakdown": {"a": 1}}, "takes one value, got"),
    ],
)
def test_a_setting_that_would_have_no_effect_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="deepspeed") as error:
        train_config(Path("model"), deepspeed=settings)
    assert message in str(error.value)


def test_a_setting_reaches_deepspeed_beside_ours() -> None:
    settings = {"zero_optimization": {"overlap_comm": False}, "wall_clock_breakdown": True}
    made = deepspeed_config(train_config(Path("model"), deepspeed=settings), ranks=1)
    assert made["zero_optimization"]["overlap_comm"] is False
    assert made["zero_optimization"]["stage"] == 2
    assert made["wall_clock_breakdown"] is True


def test_every_setting_that_may_be_given_is_one_of_the_installed_deepspeed() -> None:
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
    from deepspeed.runtime import constants
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    zero = set(fields) | {field.alias for field in fields.values() if field.alias}
    assert SETTINGS["zero_optimization"] is not None
    assert SETTINGS["zero_optimization"] <= zero
    assert SETTINGS["bf16"] is not None
    assert SETTINGS["bf16"] <= set(DeepSpeedBF16Config.model_fields)
    names = {value for value in vars(constants).values() if isinstance(value, str)}
    whole = {key for key, section in SETTINGS.items() if section is None}
    assert whole <= names
    assert {key for key in OURS if "." not in key} <= names
    assert CommsLoggerConfig
    assert DeepSpeedFlopsProfilerConfig
