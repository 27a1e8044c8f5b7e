"""Recipes: those that are shipped are sound, and mistakes are caught before anything starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from launcher.recipe import check_ranks, load_recipe
from tests.conftest import CHECKOUT
from trainer.config import split_batch

RECIPES = sorted((CHECKOUT / "recipes").glob("*.yaml"))
PUBLISHED = {  # ranks, and the images of a forward pass and the passes of a step on each
    "mario_lora": (1, (8, 3)),
    "mario_textmask": (1, (8, 3)),
    "unsplash_full": (1, (1, 4)),
    "wikiart_lora": (1, (1, 1)),
    "laion_full": (256, (4, 2)),
    "textcraftor_text": (64, (4, 1)),
    "textcraftor_unet": (64, (1, 4)),
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_sound(path: Path) -> None:
    recipe = load_recipe(path)
    check_ranks(recipe)
    assert len(path.read_text().partition("\nname")[0].splitlines()) <= 3  # says what it is for


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_splits_its_batch_as_published(name: str) -> None:
    ranks, split = PUBLISHED[name]
    assert split_batch(load_recipe(CHECKOUT / "recipes" / f"{name}.yaml").train, ranks) == split


def test_a_path_below_home_is_one_of_a_folder_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load_recipe(CHECKOUT / "recipes" / "mini.yaml", ["train.model=~/model"])
    assert recipe.train.model == str(tmp_path / "model")


def test_the_two_mario_recipes_differ_in_the_mask_alone() -> None:
    plain, masked = (
        load_recipe(CHECKOUT / "recipes" / f"{name}.yaml", ["name=mario"])
        for name in ("mario_lora", "mario_textmask")
    )
    assert masked.train.objective == replace(plain.train.objective, mask_weight=3.0)
    assert replace(masked.train, objective=plain.train.objective) == plain.train


def test_flags_win_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    path = CHECKOUT / "recipes" / "mini.yaml"
    recipe = load_recipe(
        path,
        [
            "train.steps=7",
            "train.unet=frozen",
            "train.text_encoder=full",
            "train.lora=null",
            "eval.batch=3",
        ],
    )
    assert recipe.train.steps == 7
    assert recipe.train.text_encoder == "full"
    assert recipe.eval is not None
    assert recipe.eval.batch == 3


def test_paths_are_absolute_so_that_a_run_means_the_same_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(CHECKOUT)
    recipe = load_recipe(CHECKOUT / "recipes" / "mini.yaml")
    assert recipe.train.data.path == CHECKOUT / "data" / "mini"
    assert recipe.train.model == str(CHECKOUT / "assets" / "mini")
    assert recipe.eval is not None
    assert recipe.eval.networks.clip == str(CHECKOUT / "assets" / "mini" / "clip")
    named = ["train.objective.ocr.recogniser=./latin.onnx"]
    recipe = load_recipe(CHECKOUT / "recipes" / "mario_ocr_loss.yaml", named)
    assert recipe.train.objective.ocr is not None
    assert recipe.train.objective.ocr.recogniser == str(CHECKOUT / "latin.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.stpes=4", "train.stpes is not a key: did you mean train.steps"),
        ("train.optim.lr=-1", "train.optim: lr must be positive, got -1"),
        ("train.zero.stage=7", r"train.zero.stage: expected Literal\[0, 1, 2, 3\], got 7"),
        ("name=a/b", "name 'a/b' must be letters, digits"),
        ("eval.generators=0", "eval: generators must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_named_by_its_key(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(CHECKOUT / "recipes" / "mini.yaml", [change])


@pytest.mark.parametrize("name", ["", "-x", "..", "a b", "a\n", "$(id)", "n" * 201])
def test_a_name_is_a_plain_word_that_a_folder_may_have(name: str) -> None:
    with pytest.raises(ValueError, match="must be letters, digits"):
        replace(load_recipe(CHECKOUT / "recipes" / "mini.yaml"), name=name)
