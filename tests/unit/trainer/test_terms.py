"""Terms of the loss: each by its weight, its schedule and its noise levels, and told apart."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import load_tiny, train_config
from trainer.data.loader import Batch
from trainer.models.trained import Trained
from trainer.objectives import terms
from trainer.objectives.config import ObjectiveConfig, TermConfig
from trainer.objectives.denoising import Denoising
from trainer.objectives.noising import Schedule
from trainer.objectives.term import Denoised, Said, Term
from trainer.objectives.terms import gradient_shares, said_by

SCHEDULE = Schedule(
    torch.tensor([0.9, 0.8, 0.6]), torch.tensor([0.19, 0.36, 0.64]).sqrt(), torch.arange(3)
)


class Size(Term):
    """The mean of what the answer says of the picture; silent where the caption is empty."""

    def __call__(self, denoised: Denoised, batch: Batch) -> Said:
        told = torch.tensor([float(bool(caption)) for caption in batch.captions])
        losses = denoised.clean.mean(dim=(1, 2, 3)) * told
        return Said(losses, {"without_caption": int((1 - told).sum())})


@dataclass(frozen=True, kw_only=True)
class WithSize(ObjectiveConfig):
    """The settings of a recipe that has that term too."""

    size: TermConfig | None = None


def denoised_at(*timesteps: int, prediction: str = "epsilon") -> Denoised:
    """A pass whose answer is 0, on pictures of the value 1 with noise of the value 2."""
    times = torch.tensor(timesteps)
    latents, noise = torch.ones(len(times), 1, 1, 1), torch.full((len(times), 1, 1, 1), 2.0)
    return Denoised(
        schedule=SCHEDULE,
        prediction=prediction,
        latents=latents,
        noise=noise,
        timesteps=times,
        noised=SCHEDULE.add_noise(latents, noise, times),
        predicted=torch.zeros_like(latents, requires_grad=True),
    )


def batch_of(*captions: str) -> Batch:
    """Grey pictures with these captions."""
    return Batch(
        positions=[*range(len(captions))],
        images=torch.full((len(captions), 3, 32, 96), 128, dtype=torch.uint8),
        masks=None,
        sizes=torch.tensor([[32, 96, 0, 0, 32, 96]] * len(captions)),
        captions=[*captions],
        broken=[],
    )


def test_a_weight_waits_ramps_and_stays() -> None:
    config = TermConfig(weight=1.0, start_step=10, ramp_steps=4, start_weight=0.2)
    found = [config.weight_at(step) for step in (0, 9, 10, 12, 14, 1000)]
    assert found == pytest.approx([0.2, 0.2, 0.2, 0.6, 1.0, 1.0])
    assert TermConfig(weight=0.3).weight_at(0) == 0.3


@pytest.mark.parametrize(
    ("key", "value"), [("weight", -1.0), ("ramp_steps", -1), ("timesteps", (9, 3))]
)
def test_a_schedule_that_makes_no_sense_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        TermConfig(**{key: value})


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow_prediction"])
def test_the_right_answer_gives_the_picture_back(prediction: str) -> None:
    schedule = SCHEDULE
    if prediction == "flow_prediction":
        schedule = Schedule(
            torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.1, 0.5, 0.9]), SCHEDULE.told
        )
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=generator)
    timesteps = torch.arange(3)
    noised = schedule.add_noise(latents, noise, timesteps)
    answer = schedule.target(prediction, latents, noise, timesteps)
    torch.testing.assert_close(schedule.clean(prediction, noised, answer, timesteps), latents)


def test_a_term_is_asked_only_of_its_noise_levels_and_weighed_by_what_is_left_of_the_picture(
    tiny_model: Path,
) -> None:
    config = TermConfig(timesteps=(1, 2), weigh_by_signal=True)
    term = Size(load_tiny(tiny_model), config)
    said = said_by(term, denoised_at(0, 1, 2), batch_of("", "'a'", ""))
    # (0.8 + 0.6 * 2) / 0.8 of a picture of which 0.64 is left; the last one is silent.
    assert said.losses.tolist() == pytest.approx([0.0, 0.64 * 2.5, 0.0])
    assert said.counts == {"without_caption": 1}  # the first was not asked
    silent = said_by(term, denoised_at(0, 0), batch_of("'a'", "'b'"))
    assert silent.losses.tolist() == [0, 0]


def test_terms_that_could_never_speak_are_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="every term has weight 0"):
        ObjectiveConfig(denoising=TermConfig(weight=0.0))
    settings = ObjectiveConfig(denoising=TermConfig(timesteps=(900, 1000)))
    config = replace(train_config(tiny_model), objective=settings)
    with pytest.raises(ValueError, match="beyond the model's: it has 0 to 999"):
        Denoising(load_tiny(tiny_model), config)


def test_shares_are_those_of_the_gradients_norms() -> None:
    answer = torch.ones(2, requires_grad=True)
    parts = {"a": 3 * answer.sum(), "b": answer.sum(), "silent": torch.tensor(0.0)}
    shares = gradient_shares(parts, answer)
    assert {name: share.item() for name, share in shares.items()} == pytest.approx(
        {"a": 0.75, "b": 0.25, "silent": 0.0}
    )


def test_terms_are_added_by_weight_and_logged_apart(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(terms.TERMS, "size", Size)
    settings = WithSize(
        denoising=TermConfig(weight=0.8),
        size=TermConfig(weight=0.2, start_step=5),
        gradient_shares_every=5,
    )
    config = replace(train_config(tiny_model), objective=settings)
    family = load_tiny(tiny_model)
    objective, trained = Denoising(family, config), Trained(family, config)
    batch = batch_of("'a'", "")
    before, after = (objective(trained, batch, step) for step in (4, 5))
    assert before.scalars.keys() == {"loss_denoising"}
    plain = before.scalars["loss_denoising"].item()
    assert before.total.item() == pytest.approx(0.8 * plain)
    size = after.scalars["loss_size"].item()
    assert size != 0
    assert after.total.item() == pytest.approx(0.8 * plain + 0.2 * size, rel=1e-5)
    shares = [after.scalars[f"gradient_share_{name}"].item() for name in ("denoising", "size")]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0
    assert after.counts == {"size_without_caption": 1}
    nothing = objective.nothing(trained, batch, 5)
    assert nothing.scalars.keys() == after.scalars.keys()  # the ranks average them together


def test_an_added_term_teaches(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(terms.TERMS, "size", Size)
    settings = WithSize(denoising=TermConfig(weight=0.0), size=TermConfig())
    family = load_tiny(tiny_model)
    config = replace(train_config(tiny_model), objective=settings)
    objective, trained = Denoising(family, config), Trained(family, config)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    sizes: list[Tensor] = []
    for step in range(3):
        loss = objective(trained, batch_of("'a'"), step)
        loss.total.backward()
        optimizer.step()
        sizes.append(loss.scalars["loss_size"])
    assert sizes[2] < sizes[1] < sizes[0]
