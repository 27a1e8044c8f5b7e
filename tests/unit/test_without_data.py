"""Steps on tensors without data against the same steps on real ones."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.memory import most_above
from benchmarks.ranks import random_batch, train_config
from benchmarks.terms import reward
from trainer.config import TrainConfig
from trainer.data.loader import Batch

SIDE = 128
CASES: dict[str, dict[str, Any]] = {
    "denoising": {},
    # Decodes, reads, and computes again.
    "reward": {"unet": "lora", "reward": {**reward(1, True, SIDE), "sampler_steps": 1}},
}


def config_of(**changes: Any) -> TrainConfig:
    batch = {"global_batch": 1, "micro_batch": 1}
    return train_config({"model": "tiny", "device": "cpu", "precision": "fp32", **batch, **changes})


@pytest.mark.parametrize("name", CASES)
def test_what_is_tracked_without_data_is_what_real_tensors_take(name: str) -> None:
    import torch

    from benchmarks.without_data import new_step, track

    torch.set_num_threads(1)
    config = config_of(**CASES[name])
    tracked = track(config, "tiny", SIDE)
    step = new_step(config, "tiny", SIDE)
    # A CPU's convolutions copy their weights, which is the kernels' affair and not tracked.
    assert tracked.most - tracked.held == pytest.approx(most_above(step), rel=0.03)


def test_operations_are_those_that_torch_counts() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.without_data import Tally

    layer = torch.nn.Conv2d(3, 8, 3)
    pictures = torch.randn(2, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        layer(pictures).sum().backward()
    with Tally() as tally:
        layer(pictures).sum().backward()
    assert tally.flop == counter.get_total_flops()


def test_attention_takes_two_products_there_and_five_back() -> None:
    import torch

    from benchmarks.without_data import Tally

    query = torch.randn(1, 2, 16, 32, requires_grad=True)
    with Tally() as tally:
        torch.nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
    assert tally.flop == (2 + 5) * 2 * (2 * 16 * 16 * 32)


def test_memory_that_two_tensors_share_counts_once_and_until_both_are_gone() -> None:
    import torch

    from benchmarks.without_data import Tally

    with Tally() as tally:
        whole = torch.zeros(1000)
        part = whole[:10]
        assert tally.bytes == 4000
        del whole
        assert tally.bytes == 4000
        del part
        assert (tally.bytes, tally.most) == (0, 4000)


def test_a_term_that_has_nothing_to_do_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import without_data

    def noise(pictures: int, resolution: int, lines: int) -> Batch:
        return replace(random_batch(pictures, resolution), lines=[[]] * pictures)

    monkeypatch.setattr(without_data, "batch_of_lines", noise)
    with pytest.raises(RuntimeError, match="'ocr_without_text': 1"):
        without_data.track(config_of(objective={"ocr": {}}), "tiny", SIDE)
