"""The character-aware loss: cross-entropy of a frozen segmenter on what the answer implies."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import load_tiny, train_config
from trainer.data.characters import CLASSES, UNKNOWN, label_of
from trainer.data.config import DataConfig, WordsConfig
from trainer.data.loader import Batch
from trainer.data.samples import open_samples
from trainer.data.shards import write_shards
from trainer.data.words import draw_sample
from trainer.models.family import Family
from trainer.models.segmenter import Segmenter, save_segmenter
from trainer.models.trained import Trained
from trainer.objectives.character_loss import CharacterLoss
from trainer.objectives.config import CharacterLossConfig, ObjectiveConfig, TermConfig
from trainer.objectives.denoising import Denoising
from trainer.objectives.noising import Schedule
from trainer.objectives.term import Denoised

WORDS = WordsConfig(samples=8)
PREDICTIONS = ("epsilon", "v_prediction", "flow_prediction")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random segmenter for the tiny model's latents."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("segmenter") / "segmenter.safetensors"
    save_segmenter(Segmenter(4, (8, 16)), path)
    return path


@pytest.fixture(scope="module")
def family(tiny_model: Path) -> Family:
    found: Family = load_tiny(tiny_model)
    return found


def denoised(prediction: str, predicted: Tensor | None = None) -> Denoised:
    """A pass over two pictures of 2 x 3 latents, its answer right or else given."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 2, 3, generator=generator)
    # Of a flow both factors add up to 1, else their squares do.
    signal = torch.tensor([0.4 if prediction == "flow_prediction" else 0.8])
    schedule = Schedule(signal, torch.tensor([0.6]), torch.tensor([0]))
    timesteps = torch.zeros(2, dtype=torch.int64)
    right = schedule.target(prediction, latents, noise, timesteps)
    return Denoised(
        schedule=schedule,
        prediction=prediction,
        latents=latents,
        noise=noise,
        timesteps=timesteps,
        noised=schedule.add_noise(latents, noise, timesteps),
        predicted=(right if predicted is None else predicted).requires_grad_(),
    )


def batch_of(characters: Tensor) -> Batch:
    """Pictures of which only the characters matter."""
    samples, height, width = characters.shape
    return Batch(
        positions=[*range(samples)],
        images=torch.full((samples, 3, height, width), 128, dtype=torch.uint8),
        masks=None,
        sizes=torch.tensor([[height, width, 0, 0, height, width]] * samples),
        captions=["'a'"] * samples,
        broken=[],
        characters=characters,
    )


def any_characters() -> Tensor:
    """A label for each pixel of two pictures, by lot."""
    return torch.randint(CLASSES, (2, 16, 24), generator=torch.Generator().manual_seed(0))


class Certain(nn.Module):
    """Gives label k of each latent the logit weight[k] * its first channel."""

    def __init__(self, weights: dict[int, float]) -> None:
        super().__init__()
        self.weights = torch.zeros(CLASSES)
        for label, weight in weights.items():
            self.weights[label] = weight

    def forward(self, latents: Tensor) -> Tensor:
        return latents[:, :1] * self.weights.view(1, -1, 1, 1)


def test_the_loss_is_the_mean_cross_entropy_over_all_latents(
    family: Family, segmenter: Path
) -> None:
    term = CharacterLoss(family, CharacterLossConfig(segmenter=segmenter))
    term.segmenter = Certain({label_of("A"): 2.0})
    characters = torch.zeros(2, 16, 24, dtype=torch.int64)
    characters[0, :, 8:16] = label_of("A")  # the middle column of 2 x 3 latents
    found = term(denoised("epsilon"), batch_of(characters))
    wanted = []
    pictures = denoised("epsilon").latents[:, 0].tolist()
    for picture, shows in zip(pictures, (True, False), strict=True):
        errors = []
        for row in picture:
            for column, value in enumerate(row):
                total = math.exp(2 * value) + CLASSES - 1  # all other logits are 0
                right = 2 * value if shows and column == 1 else 0.0
                errors.append(math.log(total) - right)
        wanted.append(sum(errors) / 6)
    assert found.losses.tolist() == pytest.approx(wanted, rel=1e-5)
    assert found.counts == {"untold": 0}


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_whatever_is_predicted_the_latents_behind_it_are_judged(
    family: Family, segmenter: Path, prediction: str
) -> None:
    term = CharacterLoss(family, CharacterLossConfig(segmenter=segmenter))
    batch = batch_of(any_characters())
    one = denoised(prediction)
    logits = term.segmenter(one.latents)
    labels = any_characters()[:, ::8, ::8]
    wanted = nn.functional.cross_entropy(logits, labels, reduction="none").mean(dim=(1, 2))
    torch.testing.assert_close(term(one, batch).losses, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_gradient_is_that_of_finite_differences(
    family: Family, segmenter: Path, prediction: str
) -> None:
    term = CharacterLoss(family, CharacterLossConfig(segmenter=segmenter))
    term.segmenter.double()
    batch = batch_of(any_characters())
    start = denoised(prediction)
    start = replace(start, noised=start.noised.double())

    def loss(answer: Tensor) -> Tensor:
        return term(replace(start, predicted=answer), batch).losses

    answer = start.predicted.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(loss, answer, eps=1e-6, atol=1e-6)


def test_a_picture_that_does_not_tell_its_characters_says_nothing_and_is_counted(
    family: Family, segmenter: Path
) -> None:
    term = CharacterLoss(family, CharacterLossConfig(segmenter=segmenter))
    characters = torch.zeros(2, 16, 24, dtype=torch.int64)
    characters[1] = UNKNOWN
    one = denoised("epsilon")
    found = term(one, batch_of(characters))
    assert found.counts == {"untold": 1}
    assert found.losses[0] > 0  # paper is a label too
    assert found.losses[1] == 0
    found.losses.sum().backward()
    assert one.predicted.grad is not None
    assert one.predicted.grad[0].abs().min() > 0
    assert one.predicted.grad[1].abs().max() == 0


@pytest.fixture
def half_told(tmp_path: Path) -> Path:
    """Eight drawn words; of every other one the characters are not known."""
    samples = [draw_sample(WORDS, number) for number in range(8)]
    forget = [s if n % 2 else s._replace(characters=None) for n, s in enumerate(samples)]
    write_shards(forget, tmp_path / "half", {})
    return tmp_path / "half"


def test_the_loss_teaches_the_denoiser_and_leaves_the_frozen_networks_as_they_were(
    tiny_model: Path, segmenter: Path, half_told: Path
) -> None:
    settings = CharacterLossConfig(segmenter=segmenter, weight=1.0)
    objective = ObjectiveConfig(denoising=TermConfig(weight=0.0), characters=settings)
    config = train_config(
        tiny_model, objective=objective, data=DataConfig(path=half_told), global_batch=8
    )
    denoising = Denoising(load_tiny(tiny_model), config)
    term = denoising.terms["characters"]
    assert isinstance(term, CharacterLoss)
    frozen = [term.segmenter, denoising.family.vae, *denoising.family.text_encoders.values()]
    before = [weight.clone() for network in frozen for weight in network.state_dict().values()]

    trained = Trained(denoising.family, config)
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-2)
    (batch,) = open_samples(config).batches(iter([[*range(8)]]))
    losses = []
    for _ in range(4):
        loss = denoising(trained, batch, step=0)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.scalars["loss_characters"].item())
        assert loss.counts == {"characters_untold": 4}
    assert losses == sorted(set(losses), reverse=True)
    after = [weight for network in frozen for weight in network.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_samples_of_which_nobody_knows_the_characters_are_refused(
    tiny_model: Path, segmenter: Path, tmp_path: Path
) -> None:
    sample = draw_sample(WORDS, 0)._replace(characters=None)
    write_shards([sample], tmp_path / "untold", {})
    objective = ObjectiveConfig(characters=CharacterLossConfig(segmenter=segmenter))
    config = train_config(
        tiny_model, objective=objective, data=DataConfig(path=tmp_path / "untold")
    )
    with pytest.raises(ValueError, match=r"train\.objective\.characters needs to know which"):
        open_samples(config)
