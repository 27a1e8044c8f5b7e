"""Chance: a function of the seed and a sample's place in the stream, nothing else."""

import torch

from trainer.objectives.randomness import Draws, draw, seed_of


def draw_at(positions: list[int], *, seed: int = 0, dropout: float = 0.0) -> Draws:
    return draw(
        positions,
        seed=seed,
        latent_shape=(4, 4, 12),
        num_timesteps=1000,
        caption_dropout=dropout,
    )


def test_a_sample_meets_the_same_noise_in_any_batch() -> None:
    together, alone = draw_at([5, 6, 7]), draw_at([6])
    assert torch.equal(together.noise[1], alone.noise[0])
    assert torch.equal(together.posterior[1], alone.posterior[0])
    assert together.timesteps[1] == alone.timesteps[0]


def test_dropping_captions_changes_no_noise() -> None:
    kept, dropped = draw_at([1, 2]), draw_at([1, 2], dropout=1.0)
    assert torch.equal(kept.noise, dropped.noise)
    assert torch.equal(kept.timesteps, dropped.timesteps)
    assert (kept.drop_caption, dropped.drop_caption) == ([False] * 2, [True] * 2)


def test_neighbours_and_seeds_are_independent() -> None:
    draws = draw_at(list(range(400)))
    flat = draws.noise.flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(400)
    assert correlation.abs().max() < 0.45  # 192 numbers each
    assert abs(flat.mean()) < 0.02
    assert abs(flat.std() - 1) < 0.02
    assert not torch.equal(draw_at([1]).noise, draw_at([1], seed=1).noise)


def test_timesteps_and_dropped_captions_are_spread_evenly() -> None:
    draws = draw_at(list(range(2000)), dropout=0.1)
    counts = torch.histc(draws.timesteps.float(), bins=10, min=0, max=1000)
    assert counts.min() > 150
    assert 150 < sum(draws.drop_caption) < 250


def test_every_combination_has_a_seed_of_its_own() -> None:
    seeds = {seed_of(a, b) for a in range(20) for b in range(20)} | {seed_of(11, 1), seed_of(1, 11)}
    assert len(seeds) == 400
