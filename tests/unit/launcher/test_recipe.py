"""Recipes: those that are shipped are sound, and mistakes are caught before anything starts."""

from pathlib import Path

import pytest

from launcher.recipe import check_files, check_ranks, load_recipe
from tests.conftest import CHECKOUT

RECIPES = sorted((CHECKOUT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_sound(path: Path) -> None:
    recipe = load_recipe(path)
    check_ranks(recipe)
    assert len(path.read_text().partition("\nname")[0].splitlines()) <= 3  # says what it is for


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
    assert recipe.eval.clip == CHECKOUT / "assets" / "mini" / "clip"


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


def test_a_model_that_is_nowhere_is_found_missing_before_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    recipe = load_recipe(CHECKOUT / "recipes" / "mini.yaml", ["train.model=some/model"])
    with pytest.raises(ValueError, match=r"train\.model 'some/model' is neither a folder"):
        check_files(recipe)
    (tmp_path / "models--some--model").mkdir()
    check_files(recipe)


def test_a_single_file_and_its_configs_are_looked_for_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.safetensors").touch()
    keys = ["train.model=model.safetensors", "train.model_config=./configs"]
    recipe = load_recipe(CHECKOUT / "recipes" / "mini.yaml", keys)
    assert recipe.train.model == str(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"train\.model_config '/.*/configs' is neither a folder"):
        check_files(recipe)
    Path("configs").mkdir()
    check_files(recipe)


def test_data_that_nothing_builds_must_be_there() -> None:
    recipe = load_recipe(
        CHECKOUT / "recipes" / "mini.yaml",
        ["train.data.words=null", "train.data.path=/no/such", f"train.model={CHECKOUT}"],
    )
    with pytest.raises(ValueError, match=r"train\.data\.path /no/such does not exist"):
        check_files(recipe)
