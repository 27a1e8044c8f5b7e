"""The text mask: wherever the text is known from, its share of each latent weighs the loss."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import load_tiny, train_config
from trainer.data.config import DataConfig, WordsConfig
from trainer.data.loader import Batch
from trainer.data.samples import open_samples
from trainer.data.shards import ShardFolder, drawn_members, publish_shards, staging_for
from trainer.data.tars import write_part
from trainer.data.words import Sample, Word, draw_sample
from trainer.objectives.config import ObjectiveConfig
from trainer.objectives.denoising import Denoising

WIDTH, HEIGHT, LATENT_PX = 96, 32, 8
NOW = torch.tensor([500])


def written(folder: Path, sample: Sample, *leave_out: str) -> Path:
    """A folder of this sample alone, without some of its members."""
    members = {name: data for name, data in drawn_members(sample).items() if name not in leave_out}
    with staging_for(folder) as staging:
        part = write_part(staging / "00000.tar", [("0", members)], knows_text=True)
        publish_shards(staging, folder, [(0, part)], {"words": {}})
    return folder


def batch_of(folder: Path, model: Path, mask_weight: float) -> tuple[Denoising, Batch]:
    """The objective with this mask weight, and the sample in the folder as it is trained on."""
    objective = ObjectiveConfig(mask_weight=mask_weight)
    config = train_config(model, objective=objective, data=DataConfig(path=folder))
    (batch,) = open_samples(config).batches(iter([[0]]))
    return Denoising(load_tiny(model), config), batch


def weights_of(objective: Denoising, batch: Batch) -> Tensor:
    """What the squared error of each latent counts, h w: the gradient of the sum of all means."""
    errors = torch.ones(1, 1, HEIGHT // LATENT_PX, WIDTH // LATENT_PX, requires_grad=True)
    objective.weigh(errors, NOW, batch).sum().backward()
    assert errors.grad is not None
    return errors.grad[0, 0] * errors.numel()


@pytest.fixture
def drawn() -> Sample:
    """A word in a picture."""
    return draw_sample(WordsConfig(samples=1), 0)


def test_ink_goes_before_letters_and_letters_before_boxes(drawn: Sample, tmp_path: Path) -> None:
    ink = ShardFolder(written(tmp_path / "ink", drawn)).mask(0)
    letters = ShardFolder(written(tmp_path / "letters", drawn, "mask.png")).mask(0)
    boxes = ShardFolder(written(tmp_path / "boxes", drawn, "mask.png", "charseg.png")).mask(0)
    assert ink is not None
    assert letters is not None
    assert boxes is not None
    assert np.array_equal(np.asarray(ink), np.asarray(drawn.mask))  # with soft edges
    assert np.array_equal(np.asarray(letters), 255 * (np.asarray(drawn.mask) > 0))
    assert boxes.getbbox() is not None
    assert np.asarray(boxes).sum() > np.asarray(letters).sum()


def test_text_weighs_by_the_share_of_each_latent_that_it_covers(
    drawn: Sample, tmp_path: Path, tiny_model: Path
) -> None:
    objective, batch = batch_of(written(tmp_path / "ink", drawn), tiny_model, 5.0)
    ink = np.asarray(drawn.mask) / 255
    rows, columns = HEIGHT // LATENT_PX, WIDTH // LATENT_PX
    share = ink.reshape(rows, LATENT_PX, columns, LATENT_PX).mean(axis=(1, 3))
    wanted = 1 + 4 * share
    np.testing.assert_allclose(weights_of(objective, batch), wanted / wanted.mean(), rtol=1e-4)


def test_the_polygon_of_a_tilted_word_covers_its_area(
    drawn: Sample, tmp_path: Path, tiny_model: Path
) -> None:
    corners = ((10, 4), (80, 14), (78, 28), (8, 18))
    tilted = drawn._replace(words=[Word(text="tilted", box=corners)])
    folder = written(tmp_path / "tilted", tilted, "mask.png", "charseg.png")
    objective, batch = batch_of(folder, tiny_model, 3.0)
    weights = weights_of(objective, batch)
    share = (weights / weights.min() - 1) / 2  # the corners of the picture show no text
    assert share[0, 0] == share[-1, -1] == 0
    assert share[2, 6] == 1  # the middle of the word
    # By the shoelace formula; Pillow draws the edge too, of half its length in pixels.
    x, y = np.array(corners).T
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    edge = 2 * (70 + 14)
    assert area <= share.sum() * LATENT_PX**2 <= area + edge


def test_a_hairline_weighs_by_its_area_and_is_not_lost(
    drawn: Sample, tmp_path: Path, tiny_model: Path
) -> None:
    mask = drawn.mask.copy()
    mask.paste(0, (0, 0, WIDTH, HEIGHT))
    mask.paste(255, (42, 0, 43, HEIGHT))  # a pixel wide, in the sixth column of latents
    objective, batch = batch_of(
        written(tmp_path / "line", drawn._replace(mask=mask)), tiny_model, 9.0
    )
    weights = weights_of(objective, batch)
    ratio = weights / weights[0, 0]
    assert ratio[:, 5].tolist() == pytest.approx([1 + 8 / 8] * 4)
    assert ratio[:, [0, 4, 6, 11]].flatten().tolist() == pytest.approx([1] * 16)


@pytest.mark.parametrize("mask_weight", [0.1, 3.0, 20.0])
def test_the_weight_moves_the_gradient_and_does_not_lengthen_it(
    drawn: Sample, tmp_path: Path, tiny_model: Path, mask_weight: float
) -> None:
    objective, batch = batch_of(written(tmp_path / "ink", drawn), tiny_model, mask_weight)
    answer = torch.full((1, 4, HEIGHT // LATENT_PX, WIDTH // LATENT_PX), 0.5, requires_grad=True)
    gradients = [
        torch.autograd.grad(objective.weigh(answer.square(), NOW, seen).sum(), answer)[0]
        for seen in (batch, replace(batch, masks=None))
    ]
    # Summed over the picture, as the gradient of a weight that all of its latents share.
    sums = [gradient.sum().item() for gradient in gradients]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert not torch.allclose(gradients[0], gradients[1], rtol=0.05)


def test_a_picture_that_is_all_text_or_none_is_as_without_a_mask(
    drawn: Sample, tmp_path: Path, tiny_model: Path
) -> None:
    for value in (0, 255):
        mask = drawn.mask.copy()
        mask.paste(value, (0, 0, WIDTH, HEIGHT))
        folder = written(tmp_path / str(value), drawn._replace(mask=mask))
        weights = weights_of(*batch_of(folder, tiny_model, 7.0))
        torch.testing.assert_close(weights, torch.ones(4, 12))


def test_much_text_in_one_picture_takes_nothing_from_another(
    drawn: Sample, tmp_path: Path, tiny_model: Path
) -> None:
    objective, batch = batch_of(written(tmp_path / "ink", drawn), tiny_model, 9.0)
    assert batch.masks is not None
    both = torch.cat([batch.masks, torch.zeros_like(batch.masks)])
    losses = objective.weigh(torch.ones(2, 4, 4, 12), NOW.repeat(2), replace(batch, masks=both))
    assert losses.tolist() == pytest.approx([1, 1])
