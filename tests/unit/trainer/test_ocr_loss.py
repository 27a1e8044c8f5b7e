"""The OCR loss, with a recogniser that reads coloured stripes: R, G and B on grey."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conftest import load_tiny, train_config
from trainer.data.config import Face, WordsConfig
from trainer.data.loader import Batch, TextLine
from trainer.data.words import draw_sample
from trainer.models.family import Family
from trainer.models.recogniser import Reading
from trainer.models.rgb import rgb_pixels
from trainer.models.trained import Trained
from trainer.objectives import decoding, ocr_loss
from trainer.objectives.config import ObjectiveConfig, OcrLossConfig, TermConfig
from trainer.objectives.ctc import ctc_per_step
from trainer.objectives.decoding import decode
from trainer.objectives.denoising import Denoising
from trainer.objectives.noising import Schedule
from trainer.objectives.ocr_loss import OcrLoss
from trainer.objectives.term import Denoised

GREY = (0.5, 0.5, 0.5)
COLOURS = {"R": (1.0, 0.0, 0.0), "G": (0.0, 1.0, 0.0), "B": (0.0, 0.0, 1.0)}
BOX = np.array([[8.0, 8], [88, 8], [88, 24], [8, 24]])
BOTH = OcrLossConfig(ctc=1.0, perceptual=0.5)
FEATURES, TEXT = OcrLossConfig(perceptual=1.0), OcrLossConfig(perceptual=0.0, ctc=1.0)
SCHEDULE = Schedule(torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8]), torch.arange(2))


class Stripes(nn.Module):
    """Reads each four columns of a crop by their mean colour."""

    characters = tuple(COLOURS)
    height_px = 8

    def __init__(self) -> None:
        super().__init__()
        colours = torch.tensor([GREY, *COLOURS.values()])
        self.colours = nn.Parameter(colours, requires_grad=False)

    def forward(self, crops: Tensor) -> Reading:
        features = F.avg_pool2d(crops, (8, 4)).squeeze(2).transpose(1, 2)
        distances = (features[:, :, None] - self.colours).square().sum(dim=-1)
        return Reading((-8 * distances).log_softmax(dim=-1), features)

    def encode(self, text: str) -> list[int] | None:
        known = set(text) <= set(self.characters)
        return [self.characters.index(c) + 1 for c in text] if known else None

    def decode(self, reading: Reading) -> list[tuple[str, float]]:
        texts = []
        for row in reading.log_probabilities.argmax(dim=-1).tolist():
            kept = [c for before, c in zip([0, *row], row, strict=False) if c not in (0, before)]
            texts.append(("".join(self.characters[c - 1] for c in kept), 1.0))
        return texts


class Mosaic(nn.Module):
    """An autoencoder whose latents are the mean colours of squares of 8 pixels, and a 0."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.dtype, self.device = config, torch.float32, torch.device("cpu")

    def encode(self, pixels: Tensor) -> Any:
        mean = F.pad(F.avg_pool2d(pixels, 8), (0, 0, 0, 0, 0, 1))
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.zeros_like(mean)))

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=F.interpolate(latents[:, :3], scale_factor=8))


def picture(text: str) -> Tensor:
    """A grey picture, 32 x 96, in whose BOX these colours stand apart."""
    pixels = torch.tensor(GREY)[:, None, None].repeat(1, 32, 96)
    for left, character in zip(range(16, 96, 16), text, strict=False):
        pixels[:, 8:24, left : left + 8] = torch.tensor(COLOURS[character])[:, None, None]
    return (255 * pixels).round().byte()


def line(text: str, polygon: Any = BOX) -> TextLine:
    return TextLine(text, np.asarray(polygon, np.float64))


def batch_of(shown: Sequence[str], lines: Sequence[Sequence[TextLine]]) -> Batch:
    """Pictures of these texts, with these lines."""
    return Batch(
        positions=[*range(len(shown))],
        images=torch.stack([picture(text) for text in shown]),
        masks=None,
        sizes=torch.tensor([[32, 96, 0, 0, 32, 96]] * len(shown)),
        captions=["'a'"] * len(shown),
        broken=[],
        lines=[[*of_picture] for of_picture in lines],
    )


def answer_to(family: Family, batch: Batch, off: float) -> Denoised:
    """What a denoiser says of a batch; `off` times noise away from what is right."""
    assert batch.images is not None
    rows = len(batch.positions)
    generator = torch.Generator().manual_seed(0)
    noise, error = torch.randn(2, rows, 4, 4, 12, generator=generator)
    latents = family.encode_images(batch.images, torch.zeros_like(noise))
    timesteps = torch.arange(rows) % 2
    return Denoised(
        schedule=SCHEDULE,
        prediction="epsilon",
        latents=latents,
        noise=noise,
        timesteps=timesteps,
        noised=SCHEDULE.add_noise(latents, noise, timesteps),
        predicted=(noise + off * error).requires_grad_(),
    )


@pytest.fixture
def family(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    """A tiny model, beside which the recogniser of stripes lies."""
    monkeypatch.setattr(ocr_loss, "load_recogniser", lambda path: Stripes())
    found: Family = load_tiny(tiny_model)
    return found


@pytest.fixture
def plain(family: Family) -> Family:
    """The same with an autoencoder that loses nothing of stripes."""
    return replace(family, vae=Mosaic(family.vae.config))


@pytest.fixture
def batch() -> Batch:
    """A line, no line, and one more."""
    return batch_of(["RGB", "", "GG"], [[line("RGB")], [], [line("GG")]])


def test_ctc_is_the_sum_over_all_ways_to_say_the_text() -> None:
    blank, a, b = 0.5, 0.3, 0.2
    log_probabilities = torch.tensor([blank, a, b]).log().expand(2, 3, 3)
    found = ctc_per_step(log_probabilities, [[1, 1], [1, 2]])
    # In three steps: a-a; and aab, abb, ab-, a-b, -ab.
    ways = [a * blank * a, a * a * b + a * b * b + 3 * a * b * blank]
    assert found.tolist() == pytest.approx([-math.log(way) / 3 for way in ways])


def test_the_right_answer_has_the_features_of_the_original_and_its_text(
    plain: Family, batch: Batch
) -> None:
    right = answer_to(plain, batch, off=0.0)
    assert OcrLoss(plain, FEATURES)(right, batch).losses.tolist() == pytest.approx(
        [0] * 3, abs=1e-9
    )
    read = Stripes()(
        F.pad(picture("RGB")[None, :, 8:24, 8:88] / 255, (0, 48), value=0.5)[..., ::2, ::2]
    )
    (expected,) = ctc_per_step(read.log_probabilities, [[1, 2, 3]])
    said = OcrLoss(plain, TEXT)(right, batch)
    assert said.losses[0].item() == pytest.approx(expected.item(), rel=1e-3)
    assert said.counts == {"without_text": 1}


@pytest.mark.parametrize("config", [FEATURES, TEXT, BOTH])
def test_the_further_an_answer_is_off_the_more_it_costs(
    plain: Family, batch: Batch, config: OcrLossConfig
) -> None:
    term = OcrLoss(plain, config)
    near, far = (term(answer_to(plain, batch, off), batch).losses for off in (0.1, 0.5))
    assert near[1] == far[1] == 0  # there is no text
    assert (near[::2] < far[::2]).all()


def test_cached_latents_are_decoded_to_read_the_original(plain: Family, batch: Batch) -> None:
    denoised, term = answer_to(plain, batch, off=0.3), OcrLoss(plain, BOTH)
    cached = term(denoised, replace(batch, images=None))
    torch.testing.assert_close(cached.losses, term(denoised, batch).losses)
    assert cached.counts == {"without_text": 1}


def test_the_text_is_what_the_original_shows_whatever_its_case(plain: Family, batch: Batch) -> None:
    denoised, term = answer_to(plain, batch, off=0.3), OcrLoss(plain, TEXT)
    lower = replace(batch, lines=[[line("rgb")], [], [line("gG")]])
    assert torch.equal(term(denoised, lower).losses, term(denoised, batch).losses)
    assert term(denoised, lower).counts == {"without_text": 1}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (line("RG"), "unreadable"),
        (line("RXB"), "outside_list"),
        (line("RGB" * 6), "too_long"),  # 18 letters in 16 steps
        (line("R" * 9), "too_long"),  # and 8 blanks between them
        (line(" "), "empty"),
        (line("RGB", BOX * 0.1), "too_small"),
        (line("RGB", BOX[::-1]), "degenerate"),
        (line("RGB", BOX + 20), "outside_frame"),
    ],
)
def test_lines_of_no_use_are_left_out_and_counted(plain: Family, told: TextLine, why: str) -> None:
    batch = batch_of(["RGB"] * 2, [[told], [told, line("RGB")]])
    said = OcrLoss(plain, BOTH)(answer_to(plain, batch, off=0.3), batch)
    assert said.counts == {why: 2}
    assert said.losses[0] == 0
    alone = replace(batch, lines=[[], [line("RGB")]])
    expected = OcrLoss(plain, BOTH)(answer_to(plain, batch, off=0.3), alone)
    assert said.losses[1] == expected.losses[1] > 0


def test_pictures_without_text_say_nothing_and_nothing_is_decoded(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ocr_loss, "decode")
    batch = batch_of(["", ""], [[], []])
    denoised = answer_to(family, batch, off=0.3)
    said = OcrLoss(family, BOTH)(denoised, replace(batch, images=None))
    assert said.losses.tolist() == [0, 0]
    assert said.counts == {"without_text": 2}


def test_a_sample_counts_the_mean_of_its_lines_and_none_of_its_neighbours(plain: Family) -> None:
    wide = np.minimum(BOX, (96, 16))  # longer than what short lines are padded to
    lines = [[line("RGB"), line("RGB", wide)], [line("GG")]]
    batch = batch_of(["RGB", "GG"], lines)
    denoised, term = answer_to(plain, batch, off=0.3), OcrLoss(plain, BOTH)
    together = term(denoised, batch)
    assert together.counts == {}
    each = [
        term(denoised.take([row]), replace(batch.take([row]), lines=[[told]])).losses.item()
        for row, told in ((0, lines[0][0]), (0, lines[0][1]), (1, lines[1][0]))
    ]
    expected = [(each[0] + each[1]) / 2, each[2]]
    assert together.losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_reaches_the_answer_and_is_that_of_finite_differences(
    family: Family, batch: Batch
) -> None:
    denoised, term = answer_to(family, batch, off=0.3), OcrLoss(family, BOTH)
    term(denoised, batch).losses.sum().backward()
    gradient = denoised.predicted.grad
    assert gradient is not None
    assert gradient[1].abs().max() == 0
    way = gradient / gradient.norm()
    with torch.no_grad():
        ends = [
            term(replace(denoised, predicted=denoised.predicted + step * way), batch).losses.sum()
            for step in (0.02, -0.02)
        ]
    assert ((ends[0] - ends[1]) / 0.04).item() == pytest.approx(gradient.norm().item(), rel=0.01)


def test_two_steps_down_the_gradient_make_the_answer_more_legible(
    family: Family, batch: Batch
) -> None:
    denoised, term = answer_to(family, batch, off=0.3), OcrLoss(family, BOTH)
    losses = []
    for _ in range(3):
        loss = term(denoised, batch).losses.sum()
        (gradient,) = torch.autograd.grad(loss, denoised.predicted)
        further = denoised.predicted.detach() - 0.1 * gradient / gradient.norm()
        denoised = replace(denoised, predicted=further.requires_grad_())
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


def test_decoding_in_parts_that_are_decoded_again_changes_nothing(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.randn(5, 4, 4, 12, generator=torch.Generator().manual_seed(0))
    kept, again = (latents.clone().requires_grad_() for _ in range(2))
    whole = family.decode_latents(kept)
    whole.square().sum().backward()
    sizes = []
    plain_decode = Family.decode_latents

    def counted(self: Family, part: Tensor) -> Tensor:
        sizes.append(len(part))
        return plain_decode(self, part)

    monkeypatch.setattr(Family, "decode_latents", counted)
    monkeypatch.setattr(decoding, "PIXELS_AT_ONCE", 2 * 32 * 96)
    parts = decode(family, again)
    parts.square().sum().backward()
    assert sizes == [2, 2, 1, 1, 2, 2]  # there, and back
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(again.grad, kept.grad)


def test_decoding_undoes_what_makes_latents_of_the_autoencoders(
    plain: Family, batch: Batch
) -> None:
    assert batch.images is not None
    latents = plain.encode_images(batch.images, torch.zeros(3, 4, 4, 12))
    torch.testing.assert_close(plain.decode_latents(latents), batch.images / 255)


def test_a_recipe_adds_it_and_the_frozen_networks_stay_as_they_were(
    tiny_model: Path, family: Family
) -> None:
    settings = ObjectiveConfig(
        denoising=TermConfig(weight=0.8),
        ocr=replace(BOTH, weight=0.2),
        gradient_shares_every=1,  # a second way back through what is computed again
    )
    assert settings.truth == {"lines": "ocr"}
    config = replace(train_config(tiny_model), objective=settings)
    family.to(torch.device("cpu"))
    objective, trained = Denoising(family, config), Trained(family, config)
    term = objective.terms["ocr"]
    assert isinstance(term, OcrLoss)
    frozen = {"vae": family.vae, "recogniser": term.recogniser}
    before = {name: _copied(network) for name, network in frozen.items()}
    batch = batch_of(["RGB", "GG"], [[line("RGB")], [line("XX")]])
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    loss = objective(trained, batch, step=0)
    loss.total.backward()
    optimizer.step()
    plain, ocr = (loss.scalars[f"loss_{name}"].item() for name in ("denoising", "ocr"))
    assert ocr > 0
    assert loss.scalars["gradient_share_ocr"] > 0
    assert loss.total.item() == pytest.approx(0.8 * plain + 0.2 * ocr, rel=1e-5)
    assert loss.counts == Counter(ocr_outside_list=1)
    for name, network in frozen.items():
        after = _copied(network)
        assert all(torch.equal(after[key], tensor) for key, tensor in before[name].items())
        assert all(weight.grad is None for weight in network.parameters())


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_drawn_words_are_legible_to_pp_ocr_in_every_face(tiny_model: Path) -> None:
    faces: tuple[Face, ...] = ("sans", "serif", "round", "book")
    samples = [draw_sample(WordsConfig(samples=1, faces=(face,)), 0) for face in faces]
    texts = [[line(word.text, word.box) for word in sample.words] for sample in samples]
    drawn = torch.stack([255 * rgb_pixels(sample.image) for sample in samples]).byte()
    batch = replace(batch_of([""] * len(faces), texts), images=drawn)
    family = load_tiny(tiny_model)
    said = OcrLoss(family, OcrLossConfig(ctc=1.0))(answer_to(family, batch, off=0.3), batch)
    assert said.counts == {}
    assert (said.losses > 0.5).all()  # of what the untrained decoder shows, nothing is legible


@pytest.mark.parametrize(
    "keys", [{"ctc": -1.0}, {"perceptual": -1.0}, {"perceptual": 0.0, "ctc": 0.0}]
)
def test_weights_that_make_no_sense_are_refused(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"ctc|perceptual"):
        OcrLossConfig(**keys)
