"""The recipes of published systems train, two steps each, on tiny models and data of their kind."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster.agent import run_node
from cluster.config import to_yaml
from cluster.exit_codes import ExitCode
from cluster.rendezvous import local_node
from cluster.run_folder import RunFolder, verify
from launcher.recipe import Recipe, load_recipe
from tests.conftest import CHECKOUT
from tests.unit.trainer.sources import picture, write_download
from tests.unit.trainer.test_mario import write_sample
from tests.unit.trainer.test_rewards import write_networks
from trainer.data.build import build
from trainer.models.pipeline import load_pipeline

STEPS = 2
FAMILY_OF = {
    "mario_lora": "sd1",
    "mario_textmask": "sd1",
    "mario_ocr_loss": "sd1",
    "unsplash_full": "sd1",
    "wikiart_lora": "turbo",
    "laion_full": "sd1",
    "textcraftor_text": "sd1",
    "textcraftor_unet": "sd1",
    "spell_reward": "sd1",
    "spell_reward_mini": "sd1",
}
BY_REWARD = tuple(name for name in FAMILY_OF if name.startswith(("textcraftor", "spell")))
DRAWN_PX = 32
ASKED = ("clip", "clip_l14", "aesthetic", "pick_score", "hps_v2", "hps_v2_1")
GOOD = {"original_width": 512, "original_height": 600, "aesthetic": 5.1, "pwatermark": 0.2}
POOR = [{"original_width": 500}, {"aesthetic": 4.9}, {"pwatermark": 0.6}, {"pwatermark": None}]


class Trained(NamedTuple):
    """A recipe that was trained, and what came of it."""

    recipe: Recipe
    run: RunFolder

    @property
    def losses(self) -> list[float]:
        """Of each step."""
        lines = self.run.attempt(0).events.read_text().splitlines()
        return [e["loss"] for e in map(json.loads, lines) if e["event"] == "step"]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, model_of: Callable[[str], Path], tiny_model: Path
) -> dict[str, Trained]:
    """Every recipe by its file's name, trained by one process."""
    root = tmp_path_factory.mktemp("recipes")
    sources = _write_sources(root) | _write_prompts(root, tiny_model / "clip")
    runs: dict[str, Trained] = {}
    for name, family in FAMILY_OF.items():
        changes = {
            "model": model_of(family),
            "data.path": root / f"{name}-shards",
            "data.resolution": 32,
            "data.workers": 0,
            "device": "cpu",
            "precision": "fp32",
            "steps": STEPS,
            **sources[name],
        }
        overrides = [f"train.{key}={value}" for key, value in changes.items()]
        recipe = load_recipe(CHECKOUT / "recipes" / f"{name}.yaml", overrides)
        build(recipe.train.data)
        run = RunFolder(root / "runs" / name)
        run.root.mkdir(parents=True)
        run.recipe.write_text(to_yaml(recipe))
        runs[name] = Trained(recipe, run)
    _train([trained.run for trained in runs.values()], root / "rank")
    return runs


def _write_sources(root: Path) -> dict[str, dict[str, Any]]:
    """A few pictures for each recipe, and the keys that say where they are."""
    for number in range(3):
        write_sample(root / "mario", f"06269/06269000{number}")
    (root / "first.txt").write_text("06269_062690000\n06269_062690002\n")
    mario = {"data.mario.path": root / "mario", "data.mario.index": root / "first.txt"}
    write_download(root / "unsplash", 0, [{}] * 4)
    write_download(root / "laion", 0, [GOOD, GOOD, *(GOOD | poor for poor in POOR)])
    paintings = root / "paintings"
    paintings.mkdir()
    rows = [{"file_name": f"{n}.png", "text": f"painting {n}"} for n in range(2)]
    for row in rows:
        (paintings / row["file_name"]).write_bytes(picture("png", 60, 40))
    (paintings / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "mario_lora": mario,
        "mario_textmask": mario,
        "mario_ocr_loss": mario,
        "unsplash_full": {"data.webdataset.path": root / "unsplash"},
        "wikiart_lora": {"data.imagefolder.path": paintings},
        "laion_full": {"data.laion.path": root / "laion", "global_batch": 8},
    }


def _write_prompts(root: Path, clip: Path) -> dict[str, dict[str, Any]]:
    """Prompts and tiny networks for each recipe that is tuned by rewards."""
    (root / "prompts.csv").write_text("prompt,raw_data\na cat,{}\n,{}\na sign 'hi',{}\na cat,{}\n")
    networks = vars(write_networks(root, clip))
    changes: dict[str, Any] = {
        "data.resolution": "null",
        "global_batch": 2,
        "micro_batch": 2,
        "reward.sampler_steps": 2,
        "reward.grad_steps": 1,
        "reward.height": DRAWN_PX,
        "reward.width": DRAWN_PX,
        **{f"reward.networks.{name}": path for name, path in networks.items() if name in ASKED},
    }
    prompts = {"data.prompts.path": root / "prompts.csv"}
    return {n: changes | ({} if n == "spell_reward_mini" else prompts) for n in BY_REWARD}


def _train(runs: list[RunFolder], folder: Path) -> None:
    """Train one run after the other on one rank, whose log lies in `folder`."""
    rank = RunFolder(folder)
    number = rank.begin_attempt()
    module = "tests.unit.trainer.recipes_on_a_rank"
    command = [sys.executable, "-m", module, *(str(run.root) for run in runs)]
    code = run_node(rank, number, local_node(1), command)
    assert code == ExitCode.DONE, rank.attempt(number).rank_log(0).read_text()


@pytest.mark.parametrize("name", FAMILY_OF)
def test_a_recipe_trains_and_its_export_is_ready_for_diffusers(
    name: str, trained: dict[str, Trained]
) -> None:
    done = trained[name]
    assert len(done.losses) == STEPS
    assert all(map(math.isfinite, done.losses))
    export = verify(done.run.export(STEPS))
    config = done.recipe.train
    whole = "full" in (config.unet, config.text_encoder)
    assert export["kind"] == ("full" if whole else "lora")
    assert export["weights"] == ("ema" if config.ema else "master")
    pipeline: Any = load_pipeline(done.run.export(STEPS))
    if not whole:
        adapter = pipeline.unet.peft_config["default_0"]
        wanted = done.recipe.train.lora
        assert wanted is not None
        assert (adapter.r, adapter.lora_alpha) == (wanted.rank, wanted.alpha)
        assert set(adapter.target_modules) >= {"to_q"}


def test_the_mask_alone_sets_the_two_mario_recipes_apart(trained: dict[str, Trained]) -> None:
    plain, masked = trained["mario_lora"], trained["mario_textmask"]
    assert plain.recipe.train.objective.mask_weight == 1
    assert masked.recipe.train.objective.mask_weight > 1
    # The same pictures, noise and adapters: only the weights of the errors differ.
    assert plain.losses[0] != masked.losses[0]
    assert plain.losses[0] == pytest.approx(masked.losses[0], rel=0.5)


def test_the_ocr_loss_counts_the_lines_that_nobody_could_read(trained: dict[str, Trained]) -> None:
    done = trained["mario_ocr_loss"]
    objective = done.recipe.train.objective
    assert objective.ocr is not None
    assert objective.denoising.weight + objective.ocr.weight == 1
    beat = json.loads(done.run.attempt(0).heartbeat(0).read_text())
    # Two words in each of 24 pictures, twice: one a pixel high, one where nothing is written.
    assert beat["left_out"] == {"ocr_too_small": 48, "ocr_unreadable": 48}


def test_laions_pictures_are_those_that_stable_diffusion_took(trained: dict[str, Trained]) -> None:
    (source,) = verify(trained["laion_full"].recipe.train.data.path)["sources"]
    assert source["samples"] == 2
    assert source["left_out"] == {
        "width < 512": 1,
        "aesthetic < 5": 1,
        "pwatermark > 0.5": 1,
        "pwatermark unknown": 1,
    }


def test_early_stopping_finds_the_loss_of_each_epoch(trained: dict[str, Trained]) -> None:
    run = trained["wikiart_lora"].run
    history = verify(run.checkpoint(STEPS))["history"]
    assert list(history["train_loss"]) == [str(STEPS)]


@pytest.mark.parametrize("name", BY_REWARD)
def test_a_recipe_by_rewards_logs_what_it_climbs_and_what_it_watches(
    name: str, trained: dict[str, Trained]
) -> None:
    reward = trained[name].recipe.train.reward
    assert reward is not None
    lines = trained[name].run.attempt(0).events.read_text().splitlines()
    steps = [event for event in map(json.loads, lines) if event["event"] == "step"]
    for asked in (*reward.rewards, *reward.watched):
        assert all(step[f"reward_{asked}"] for step in steps if step[f"judged_{asked}"]), asked
    assert any(step[f"judged_{asked}"] for step in steps for asked in reward.rewards)


def test_the_two_stages_of_textcraftor_differ_in_what_learns(trained: dict[str, Trained]) -> None:
    first, second = (trained[f"textcraftor_{name}"].recipe.train for name in ("text", "unet"))
    assert (first.unet, first.text_encoder) == ("frozen", "full")
    assert (second.unet, second.text_encoder) == ("full", "frozen")
    assert first.reward is not None
    assert second.reward is not None
    assert first.reward.rewards == second.reward.rewards


def test_open_prompts_are_dropped_where_they_are_empty_or_repeated(
    trained: dict[str, Trained],
) -> None:
    (source,) = verify(trained["textcraftor_text"].recipe.train.data.path)["sources"]
    assert source["samples"] == 2
    assert source["left_out"] == {"empty": 1, "repeated": 1}
