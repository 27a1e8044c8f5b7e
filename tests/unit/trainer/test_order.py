"""The order of a run: every sample once an epoch, the same on any number of ranks."""

import pytest

from trainer.config import TrainConfig, split_batch
from trainer.data.config import DataConfig
from trainer.data.order import rank_positions, sample_at


def positions(ranks: int, micro_batch: int, first_step: int = 0) -> dict[int, set[int]]:
    """The positions of each step, from all ranks together."""
    found: dict[int, set[int]] = {}
    passes = 12 // (ranks * micro_batch)
    for rank in range(ranks):
        batches = rank_positions(
            first_step, 5, global_batch=12, micro_batch=micro_batch, rank=rank, ranks=ranks
        )
        for number, batch in enumerate(batches):
            assert len(batch) == micro_batch
            step = found.setdefault(first_step + number // passes, set())
            assert step.isdisjoint(batch)
            step |= set(batch)
    return found


def test_an_epoch_shows_every_sample_once() -> None:
    epochs = [[sample_at(10 * e + n, seed=3, samples=10) for n in range(10)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 12), (2, 6), (2, 1), (3, 2), (4, 3)])
def test_a_step_holds_the_same_samples_on_any_number_of_ranks(ranks: int, micro_batch: int) -> None:
    assert positions(ranks, micro_batch) == {
        step: set(range(12 * step, 12 * step + 12)) for step in range(5)
    }


def test_a_resumed_run_goes_on_where_the_step_begins() -> None:
    assert positions(2, 3, first_step=3) == {step: positions(2, 3)[step] for step in (3, 4)}


@pytest.mark.parametrize(
    ("ranks", "expected"), [(1, (16, 2)), (2, (16, 1)), (4, (8, 1)), (8, (4, 1)), (32, (1, 1))]
)
def test_a_batch_is_split_into_the_fewest_passes(ranks: int, expected: tuple[int, int]) -> None:
    config = TrainConfig(
        model="m", data=DataConfig(path="d"), steps=1, global_batch=32, micro_batch=16  # type: ignore[arg-type]
    )  # fmt: skip
    assert split_batch(config, ranks) == expected


def test_a_batch_that_cannot_be_split_names_the_nearest_that_can() -> None:
    config = TrainConfig(model="m", data=DataConfig(path="d"), steps=1, global_batch=32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 cannot be split evenly over 5 ranks: take 30 or 35"):
        split_batch(config, 5)
