"""Reward tuning as an objective: what learns, what does not, and what is left out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import load_tiny, train_config
from trainer.data.build import build
from trainer.data.config import DataConfig, PromptsConfig
from trainer.data.loader import Batch
from trainer.data.samples import open_samples
from trainer.models.config import NetworksConfig
from trainer.models.trained import Trained
from trainer.objectives.config import ObjectiveConfig
from trainer.objectives.reward_config import RewardConfig
from trainer.objectives.reward_tuning import Drawn, RewardTuning
from trainer.objectives.rewards.reward import Judged
from trainer.objectives.sampling import Cut
from trainer.train import _loss

CAPTIONS = ["'moon' in red", "'a' in blue"]


def settings(model: Path, **changes: Any) -> RewardConfig:
    keys: dict[str, Any] = {
        "rewards": {"clip": 1.0},
        "sampler_steps": 4,
        "grad_steps": 2,
        "height": 32,
        "width": 96,
        "networks": NetworksConfig(clip=str(model / "clip"), pick_score=str(model / "clip")),
    }
    return RewardConfig(**keys | changes)


def tuning(
    model: Path, *, reward: dict[str, Any] | None = None, **changes: Any
) -> tuple[RewardTuning, Trained]:
    """The objective and what it trains: the text encoder alone, unless `changes` say else."""
    keys = {"unet": "frozen", "text_encoder": "full"} | changes
    config = train_config(model, reward=settings(model, **reward or {}), **keys)
    family = load_tiny(model)
    return RewardTuning(family, config), Trained(family, config)


def batch_of(*captions: str, first: int = 0) -> Batch:
    return Batch(
        positions=[first + row for row in range(len(captions))],
        images=None,
        masks=None,
        sizes=torch.tensor([[32, 96, 0, 0, 32, 96]] * len(captions)),
        captions=[*captions],
        broken=[],
    )


def shake(network: nn.Module) -> None:
    """Change a network as training would, but more."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)


def gradients(trained: Trained, objective: RewardTuning, *batches: Batch) -> dict[str, Tensor]:
    trained.zero_grad()
    for batch in batches:
        (objective(trained, batch, step=0).total / len(batches)).backward()
    return {n: w.grad.clone() for n, w in trained.named_parameters() if w.grad is not None}


def test_early_steps_are_told_by_the_original_encoder(tiny_model: Path) -> None:
    objective, trained = tuning(tiny_model)
    noise, sizes = torch.randn(2, 4, 4, 12), batch_of(*CAPTIONS).sizes

    def drawn(cut: Cut) -> Tensor:
        return objective.draw(trained, CAPTIONS, noise, sizes, cut).latents.detach()

    early, whole = drawn(Cut(2, 2)), drawn(Cut(2, 4))
    shake(objective.family.text_encoders["text_encoder"])
    assert torch.equal(drawn(Cut(2, 2)), early)
    assert not torch.allclose(drawn(Cut(2, 4)), whole, atol=1e-3)


def test_computing_again_changes_no_gradient(tiny_model: Path) -> None:
    found = []
    for checkpoint in (True, False):
        objective, trained = tuning(
            tiny_model, reward={"checkpoint": checkpoint, "pull": 1.0}, unet="full"
        )
        shake(objective.family.text_encoders["text_encoder"])
        found.append(gradients(trained, objective, batch_of(*CAPTIONS)))
    kept, again = found
    assert any(name.startswith("unet.") for name in kept)
    assert any(name.startswith("text_encoder.") for name in kept)
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-7)


def test_a_batch_in_one_pass_or_in_two_is_the_same(tiny_model: Path) -> None:
    objective, trained = tuning(tiny_model)
    together = gradients(trained, objective, batch_of(*CAPTIONS))
    alone = (batch_of(caption, first=row) for row, caption in enumerate(CAPTIONS))
    apart = gradients(trained, objective, *alone)
    most = max(float(gradient.abs().max()) for gradient in together.values())
    for name, gradient in together.items():  # the chain carries on what is rounded
        torch.testing.assert_close(apart[name], gradient, rtol=1e-3, atol=1e-4 * most)


def test_the_empty_caption_learns_too_where_there_is_guidance(tiny_model: Path) -> None:
    for guidance, learns in ((3.0, True), (1.0, False)):
        objective, trained = tuning(tiny_model, reward={"guidance": guidance})
        seen: list[Tensor] = []
        encode = objective.family.encode_tokens

        def kept(ids: Any, encode: Callable[..., Any] = encode, seen: list[Tensor] = seen) -> Any:
            conditioning = encode(ids)
            conditioning.context.retain_grad()
            seen.append(conditioning.context)
            return conditioning

        object.__setattr__(objective.family, "encode_tokens", kept)
        objective(trained, batch_of(*CAPTIONS), step=0).total.backward()
        (context,) = seen  # each caption once, however many steps are told
        assert context.grad is not None
        assert bool(context.grad[-1].any()) == learns


@pytest.mark.parametrize(
    ("changes", "rewards"),
    [
        ({}, {"clip": 1.0}),
        ({"unet": "lora", "text_encoder": "frozen"}, {"clip": 1.0}),
        ({"unet": "full", "text_encoder": "lora"}, {"clip": 1.0, "pick_score": 0.5}),
    ],
)
def test_a_few_steps_raise_the_reward_and_leave_what_is_frozen_as_it_was(
    changes: dict[str, Any], rewards: dict[str, float], tiny_model: Path
) -> None:
    objective, trained = tuning(tiny_model, reward={"rewards": rewards}, **changes)
    original = [*objective.original.text_encoders.values()] if objective._text_learns else []
    frozen = [objective.family.vae, *original]
    learnt = {id(weight) for weight in trained.parameters() if weight.requires_grad}
    weights = [w for network in (*frozen, trained) for w in network.parameters()]
    before = [weight.clone() for weight in weights]
    optimizer = torch.optim.AdamW([w for w in trained.parameters() if w.requires_grad], lr=3e-3)
    scores = []
    for step in range(8):
        loss = objective(trained, batch_of(*CAPTIONS), step)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        scores.append(-float(loss.total.detach()))
        expected = sum(w * float(loss.scalars[f"reward_{n}"]) for n, w in rewards.items())
        assert scores[-1] == pytest.approx(expected, rel=1e-4)
    assert scores[-1] > scores[0] + 0.1
    same = [torch.equal(w, old) for w, old in zip(weights, before, strict=True)]
    assert all(same[place] for place, w in enumerate(weights) if id(w) not in learnt)
    assert not all(same)


def test_what_is_watched_is_logged_and_not_climbed(tiny_model: Path) -> None:
    plain, trained = tuning(tiny_model)
    watching, watched = tuning(tiny_model, reward={"watched": ("pick_score",)})
    loss = watching(watched, batch_of(*CAPTIONS), step=0)
    assert {"reward_clip", "reward_pick_score"} <= loss.scalars.keys()
    assert torch.equal(loss.total, plain(trained, batch_of(*CAPTIONS), step=0).total)


def test_a_picture_that_is_good_enough_earns_and_teaches_nothing_more(tiny_model: Path) -> None:
    plain, _ = tuning(tiny_model)
    capped, _ = tuning(tiny_model, reward={"enough": {"clip": 2.0}})
    distance = torch.zeros(())
    drawn = Drawn(torch.zeros(2, *capped.latent_shape), distance)
    values = torch.tensor([1.5, 2.5], requires_grad=True)
    judged = {"clip": Judged(values, torch.ones(2).bool())}
    loss = capped.add_up(judged, drawn)
    loss.total.backward()
    assert values.grad is not None
    assert values.grad.tolist() == [-0.5, 0]
    refl = torch.relu(2 - values.detach()).mean()  # the loss of ReFL, but for a constant
    assert float(loss.total.detach()) == pytest.approx(float(refl) - 2)
    assert float(loss.scalars["reward_clip"]) == 2.0  # what is logged is what was judged
    assert float(plain.add_up(judged, drawn).total.detach()) == -2.0


def test_the_pull_is_the_squared_distance_of_the_embeddings(tiny_model: Path) -> None:
    free, _ = tuning(tiny_model)
    held, trained = tuning(tiny_model, reward={"pull": 3.0})
    start = held(trained, batch_of(*CAPTIONS), step=0)
    assert float(start.scalars["distance"]) == 0
    shake(held.family.text_encoders["text_encoder"])
    with torch.no_grad():
        ids = held.family.tokenize([*CAPTIONS, ""])
        tuned = held.family.encode_tokens(ids).context
        expected = (tuned - free.family.encode_tokens(ids).context).square().mean()
    loss = held(trained, batch_of(*CAPTIONS), step=0)
    torch.testing.assert_close(loss.scalars["distance"], expected)
    total = 3 * float(expected) - float(loss.scalars["reward_clip"])
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-4)


def test_an_empty_caption_is_counted_and_teaches_nothing(tiny_model: Path) -> None:
    objective, trained = tuning(tiny_model)
    some = objective(trained, batch_of(CAPTIONS[0], " "), step=0)
    assert some.counts["clip_empty_caption"] == 1
    assert float(some.scalars["judged_clip"]) == 0.5
    alone = objective(trained, batch_of(CAPTIONS[0]), step=0)
    assert torch.allclose(some.total, alone.total / 2, rtol=1e-4)
    (nothing, *_) = gradients(trained, objective, batch_of("")).values()
    assert not nothing.any()


def test_prompts_without_quoted_words_are_counted_and_teach_ocr_nothing(tiny_model: Path) -> None:
    reward = {"rewards": {"ocr": 1.0}, "line": "whole"}
    objective, trained = tuning(tiny_model, reward=reward)
    loss = objective(trained, batch_of("a cat", "it's a dog"), step=0)
    assert loss.counts["ocr_no_quoted_words"] == 2
    assert float(loss.scalars["judged_ocr"]) == 0
    loss.total.backward()  # every rank must: at stage 3 they gather the weights together
    found = [weight.grad for weight in trained.parameters() if weight.grad is not None]
    assert found
    assert not any(gradient.any() for gradient in found)


@pytest.mark.parametrize(("choice", "counted"), [("stop", 0), ("skip", 1)])
def test_a_reward_that_is_not_finite_goes_the_way_of_any_broken_loss(
    tiny_model: Path, choice: str, counted: int
) -> None:
    objective, trained = tuning(tiny_model, on_broken_loss=choice)
    whole = objective(trained, batch_of(*CAPTIONS), step=0)

    def broken(pixels: Tensor, captions: list[str]) -> Judged:
        return Judged(pixels.mean(dim=(1, 2, 3)) * torch.nan, torch.ones(2, dtype=torch.bool))

    objective.rewards["clip"] = broken
    skipped: list[list[str]] = []
    job: Any = SimpleNamespace(
        config=train_config(tiny_model, on_broken_loss=choice),
        objective=objective,
        world=SimpleNamespace(any=lambda flag: flag),
        journal=SimpleNamespace(count_skipped=skipped.append),
        samples=SimpleNamespace(names=lambda positions: [f"prompt {p}" for p in positions]),
    )
    learner: Any = SimpleNamespace(engine=trained, step=0)
    loss = _loss(job, learner, batch_of(*CAPTIONS))
    assert len(skipped) == counted
    if choice == "stop":
        assert torch.isnan(loss.total)
        return
    assert skipped == [["prompt 0", "prompt 1"]]
    assert loss.scalars.keys() == whole.scalars.keys()  # the ranks average them together
    loss.total.backward()
    found = [weight.grad for weight in trained.parameters() if weight.grad is not None]
    assert found
    assert not any(gradient.any() for gradient in found)


def test_a_run_reads_prompts_and_is_told_the_size_that_it_draws(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("prompt,raw_data\na cat,{}\n,{}\na cat,{}\na dog,{}\n")
    data = DataConfig(path=tmp_path / "shards", prompts=PromptsConfig(path=tmp_path / "list.csv"))
    build(data)
    config = train_config(tiny_model, reward=settings(tiny_model), data=data, global_batch=2)
    samples = open_samples(config)
    (batch,) = samples.batches(iter([[0, 1]]))
    assert sorted(batch.captions) == ["a cat", "a dog"]
    assert batch.images is None
    assert batch.sizes.tolist() == [[32, 96, 0, 0, 32, 96]] * 2
    assert sorted(samples.names([0, 1])) == [f"shards/00000.tar:00000000{n}" for n in (0, 3)]


def test_the_captions_of_pictures_are_prompts_too(tiny_model: Path, shards: Path) -> None:
    data = DataConfig(path=shards)
    config = train_config(tiny_model, reward=settings(tiny_model), data=data, global_batch=2)
    (batch,) = open_samples(config).batches(iter([[0, 1]]))
    assert all(caption.startswith("'") for caption in batch.captions)
    assert batch.images is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": ObjectiveConfig(min_snr_gamma=5.0)}, "takes the place of the objective"),
        ({"data": DataConfig(path=Path("x"), resolution=64)}, "leave data.cache and data.resol"),
        ({"text_encoder": "frozen", "unet": "full"}, "a text encoder back that is frozen"),
    ],
)
def test_what_is_of_no_use_to_rewards_is_refused(
    changes: dict[str, Any], message: str, tiny_model: Path
) -> None:
    keys = {"unet": "frozen", "text_encoder": "full"} | changes
    with pytest.raises(ValueError, match=message):
        train_config(tiny_model, reward=settings(tiny_model, pull=1.0), **keys)


def test_a_size_that_the_model_cannot_draw_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="draws 96 x 30 pixels: this model takes multiples of 8"):
        tuning(tiny_model, reward={"height": 30})


def test_pictures_without_a_gradient_cost_no_graph(tiny_model: Path) -> None:
    objective, trained = tuning(tiny_model)
    with torch.no_grad():
        loss = objective(trained, batch_of(*CAPTIONS), step=0)
    assert not loss.total.requires_grad
    again = replace(loss, total=objective(trained, batch_of(*CAPTIONS), step=0).total.detach())
    assert torch.equal(again.total, loss.total)
