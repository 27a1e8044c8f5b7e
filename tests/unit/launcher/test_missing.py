"""What a recipe names and is not there is said before anything starts, each in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.run_folder import MANIFEST
from launcher.missing import missing_files
from launcher.recipe import load_recipe
from tests.conftest import CHECKOUT

MINI = CHECKOUT / "recipes" / "mini.yaml"
Missing = Callable[..., list[str]]


@pytest.fixture
def missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Missing:
    """What is missing in an empty folder of a recipe with a model, and without words and eval."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    start = [f"train.model={CHECKOUT}", "train.data.words=null", "eval=null"]
    return lambda *keys: missing_files(load_recipe(MINI, [*start, *keys]))


def publish_shards(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps({"files": {}}))


def test_a_model_that_is_nowhere_comes_with_the_command_that_fetches_it(
    missing: Missing, tmp_path: Path
) -> None:
    publish_shards(tmp_path / "data" / "mini")
    (line,) = missing("train.model=some/model")
    assert line.startswith("train.model 'some/model' is neither a folder nor a file nor in the")
    assert "`hf download some/model` puts it there" in line
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "1a2b3c"
    snapshot.mkdir(parents=True)
    assert missing("train.model=some/model") == [line]  # a download that ended early
    (snapshot / "model_index.json").touch()
    assert missing("train.model=some/model") == []


def test_a_single_file_and_its_configs_are_looked_for_too(missing: Missing, tmp_path: Path) -> None:
    publish_shards(tmp_path / "data" / "mini")
    Path("model.safetensors").touch()
    keys = ["train.model=model.safetensors", "train.model_config=./configs"]
    (line,) = missing(*keys)
    assert line.startswith(f"train.model_config '{tmp_path}/configs' is neither a folder nor")
    assert "hf download" not in line
    Path("configs").mkdir()
    assert missing(*keys) == []


def test_a_network_of_a_reward_is_looked_for_and_one_that_no_reward_asks_is_not(
    missing: Missing, tmp_path: Path
) -> None:
    publish_shards(tmp_path / "data" / "mini")
    keys = [
        f"train.model={CHECKOUT / 'assets' / 'mini'}",
        "train.objective.caption_dropout=0",
        "train.reward.rewards={clip: 1}",
        "train.reward.networks.clip=./clip",
        "train.reward.networks.vgg16=./vgg16",
        "train.reward.recogniser=./ocr",
    ]
    (line,) = missing(*keys)
    assert line.startswith(f"train.reward.networks.clip {tmp_path}/clip does not exist: `letterp")
    lines = missing(*keys, "train.reward.watched=[ocr]")
    assert lines[1].startswith(f"train.reward.recogniser {tmp_path}/ocr does not exist")


def test_data_that_nothing_builds_must_be_there(missing: Missing, tmp_path: Path) -> None:
    (line,) = missing()
    assert f"train.data.path {tmp_path}/data/mini holds no indexed shards" in line
    publish_shards(tmp_path / "data" / "mini")
    assert missing() == []


def test_each_file_of_each_source_that_is_not_there_is_a_line(
    missing: Missing, tmp_path: Path
) -> None:
    keys = [
        "train.data.mario.path=mario",
        "train.data.mario.index=first.txt",
        "train.data.laion.path=tars",
        "train.data.words.samples=1",
    ]
    assert missing(*keys) == [
        f"train.data.{key} {tmp_path}/{name} does not exist: `letterpress keys "
        f"train.data.{key.partition('.')[0]}` says what it is"
        for key, name in (
            ("laion.path", "tars"),
            ("mario.path", "mario"),
            ("mario.index", "first.txt"),
        )
    ]
    publish_shards(tmp_path / "data" / "mini")
    (line,) = missing(*keys)  # MARIO is in the shards; the tars are read where they lie
    assert line.startswith("train.data.laion.path ")


def test_validation_and_evaluation_are_looked_at_too(missing: Missing, tmp_path: Path) -> None:
    publish_shards(tmp_path / "data" / "mini")
    found = missing(
        "train.validation.samples=8",
        "train.validation.path=held-out",
        "eval.networks.clip=./clip",
        "eval.suites=[mini, mine.yaml]",
    )
    assert [line.split(" ")[0] for line in found] == [
        "train.validation.path",
        "eval.suites",
        "eval.networks.clip",
    ]


def test_the_networks_of_the_loss_are_looked_for_too(missing: Missing, tmp_path: Path) -> None:
    publish_shards(tmp_path / "data" / "mini")
    (line,) = missing("train.objective.characters.segmenter=segmenter.pth")
    assert line == (
        f"train.objective.characters.segmenter {tmp_path}/segmenter.pth does not exist: "
        "`letterpress keys train.objective.characters.segmenter` says what it is"
    )
    Path("segmenter.pth").touch()
    assert missing("train.objective.characters.segmenter=segmenter.pth") == []
