"""The order of a run: every sample once an epoch, the same on any number of ranks."""

import numpy as np
import pytest

from trainer.config import TrainConfig, split_batch
from trainer.data.config import DataConfig
from trainer.data.order import Order, permutation, rank_positions, sample_at


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


def random_buckets(samples: int, buckets: int, left_out: bool = False) -> Order:
    """Batches of 4 from samples that lie in buckets by lot, the last bucket a rare one."""
    drawn = np.random.default_rng(samples).integers(-left_out, buckets - 1, samples)
    drawn[samples // 2] = buckets - 1
    return Order(drawn.astype(np.int16), seed=3, global_batch=4)


def walk(order: Order, epochs: int) -> list[list[int]]:
    """The batches of some epochs, by filling them one by one."""
    filling: dict[int, list[int]] = {}
    batches = []
    for epoch in range(epochs):
        for sample in permutation(order.seed, epoch, len(order.buckets)).tolist():
            batch = filling.setdefault(int(order.buckets[sample]), [])
            batch.append(sample)
            if len(batch) == order.global_batch:
                batches.append(filling.pop(int(order.buckets[sample])))
    return [batch for batch in batches if order.buckets[batch[0]] >= 0]


def step_samples(order: Order, step: int) -> list[int]:
    return [order.sample(order.place(4 * step + row)) for row in range(4)]


@pytest.mark.parametrize("order", [random_buckets(21, 3), random_buckets(50, 6, left_out=True)])
def test_a_step_is_found_at_once_that_a_walk_would_reach(order: Order) -> None:
    batches = walk(order, 30)
    assert len(batches) > 100
    for step in (*range(20), *range(len(batches) - 1, 0, -7)):  # onwards and in leaps
        assert step_samples(order, step) == batches[step]


def test_every_step_is_of_one_bucket_on_every_rank() -> None:
    order = random_buckets(50, 4)
    for step in range(40):
        buckets = {order.place(position).bucket for position in range(4 * step, 4 * step + 4)}
        assert len(buckets) == 1


def test_no_sample_is_ever_more_than_a_batch_behind_the_epochs() -> None:
    order = random_buckets(50, 4)
    seen = np.zeros(50, np.int64)
    for step in range(order.steps_before(20)):
        np.add.at(seen, step_samples(order, step), 1)
    for bucket, samples in enumerate(order.samples):
        shown = seen[order.buckets == bucket]
        assert shown.sum() > 20 * samples - 4  # less than a batch is left over
        assert shown.max() - shown.min() <= 1
        assert 20 - 4 / samples < shown.mean() <= 20


def test_samples_that_are_left_out_never_come() -> None:
    order = random_buckets(50, 3, left_out=True)
    shown = {sample for step in range(60) for sample in step_samples(order, step)}
    assert shown == set(np.flatnonzero(order.buckets >= 0))
    assert len(shown) < 50


def test_one_bucket_is_the_plain_stream() -> None:
    order = Order(np.zeros(10, np.int16), seed=3, global_batch=4)
    for position in range(100):
        assert order.sample(order.place(position)) == sample_at(position, seed=3, samples=10)


def test_each_sample_of_an_epoch_is_trained_on_once_though_the_ranks_change() -> None:
    samples, global_batch = 48, 8
    order = Order(np.zeros(samples, np.int16), seed=3, global_batch=global_batch)
    seen: list[int] = []
    for ranks, first_step, last_step in ((2, 0, 2), (1, 2, 3), (4, 3, 6)):  # one epoch in all
        for rank in range(ranks):
            for positions in rank_positions(
                first_step,
                last_step,
                global_batch=global_batch,
                micro_batch=global_batch // ranks,
                rank=rank,
                ranks=ranks,
            ):
                seen += [order.sample(order.place(position)) for position in positions]
    assert sorted(seen) == list(range(samples))
