"""What a recipe names and is not there is said before anything starts, each in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from cluster.run_folder import MANIFEST
from launcher.hub import network_is_here, torch_cache
from launcher.missing import missing_files
from launcher.recipe import load_recipe
from tests.conftest import CHECKOUT
from trainer.data.config import DataConfig, WordsConfig
from trainer.models.config import NetworksConfig
from trainer.models.networks import MissingNetwork, find_network
from trainer.models.networks import torch_cache as trainers_torch_cache

MINI = CHECKOUT / "recipes" / "mini.yaml"
WORDS = WordsConfig(samples=32)
Missing = Callable[..., list[str]]


@pytest.fixture
def missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Missing:
    """What is missing in an empty folder of a recipe with a model, and without words and eval."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    start = [f"train.model={CHECKOUT}", "train.data.words=null", "eval=null"]
    return lambda *keys: missing_files(load_recipe(MINI, [*start, *keys]))


def publish_shards(folder: Path, **source: object) -> None:
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps({"files": {}, "source": source}))


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
    assert missing("train.model=some/model") == [line]  # of another branch: not what is trained
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1a2b3c")
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


@pytest.fixture
def reward_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a recipe that lacks the networks of its rewards, and nothing else."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    publish_shards(tmp_path / "data" / "mini")
    return [
        f"train.model={CHECKOUT / 'assets' / 'mini'}",
        "train.objective.caption_dropout=0",
        "train.reward.rewards={clip: 1, aesthetic: 1, hps_v2: 1, ocr: 1}",
        "train.reward.networks.clip=laion/big",
        "train.reward.recogniser=paddle/rec",
    ]


def cached(hub: Path, repository: str, file: str) -> None:
    """A file in a snapshot of the Hugging Face cache, as a download leaves it."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("1a2b3c")
    (folder / "snapshots" / "1a2b3c" / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / "snapshots" / "1a2b3c" / file).touch()


def test_a_reward_whose_network_is_in_no_cache_is_told_by_its_key(
    missing: Missing, reward_keys: list[str], tmp_path: Path
) -> None:
    hub, torch_hub = tmp_path / "hub", tmp_path / "torch" / "hub" / "checkpoints"
    fetched = {
        "networks.clip laion/big": "laion/big",
        "networks.clip_l14 openai/clip-vit-large-patch14": "openai/clip-vit-large-patch14",
        "networks.hps_v2 xswu/HPSv2/HPS_v2_compressed.pt": "xswu/HPSv2 HPS_v2_compressed.pt",
        "recogniser paddle/rec": "paddle/rec",
    }
    lines = [
        f"train.reward.{key} is neither a path nor in the Hugging Face cache ({hub}): "
        f"`hf download {what}` puts it there"
        for key, what in fetched.items()
    ]
    head = "sac+logos+ava1-l14-linearMSE.pth"
    lines.insert(
        0,
        f"train.reward.networks.aesthetic {head} is neither a path nor in {torch_hub}: put it "
        "there, or set train.reward.networks.aesthetic",
    )
    assert missing(*reward_keys) == lines
    cached(hub, "laion/big", "config.json")
    assert missing(*reward_keys) == lines  # a download that ended early
    for repository in ("laion/big", "openai/clip-vit-large-patch14"):
        cached(hub, repository, "model.safetensors")
    cached(hub, "xswu/HPSv2", "HPS_v2_compressed.pt")
    cached(hub, "paddle/rec", "onnx/inference.onnx")
    assert missing(*reward_keys) == lines[:1]
    torch_hub.mkdir(parents=True)
    (torch_hub / head).touch()
    assert missing(*reward_keys) == []


@pytest.mark.parametrize(
    "name",
    [
        "some/repository",
        "some/repository/weights.pt",
        "some/repository/sub/weights.pt",
        "weights.pth",
        "weights",
        "/weights.pth",
        "some/",
    ],
)
def test_what_the_launcher_finds_is_what_the_trainer_finds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, torch_hub = tmp_path / "hub", tmp_path / "torch" / "hub" / "checkpoints"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))

    def trainer_finds_it() -> bool:
        try:
            return find_network(name).exists()
        except MissingNetwork:
            return False

    assert torch_cache() == trainers_torch_cache() == torch_hub
    assert not network_is_here(name)
    assert not trainer_finds_it()
    torch_hub.mkdir(parents=True)
    (torch_hub / "weights.pth").touch()
    for file in ("weights.pt", "sub/weights.pt"):
        cached(hub, "some/repository", file)
    assert trainer_finds_it() == name.startswith(("some/repository", "weights.pth"))
    assert network_is_here(name) == trainer_finds_it()


def test_the_recogniser_of_the_loss_and_what_scores_are_looked_for_by_name_too(
    missing: Missing, tmp_path: Path
) -> None:
    publish_shards(tmp_path / "data" / "mini")
    lines = missing(
        "train.objective.ocr.recogniser=paddle/rec",
        "eval.networks.clip=laion/big",
        f"eval.networks.pick_score={NetworksConfig().pick_score}",
    )
    assert [line.split(" is neither")[0] for line in lines] == [
        "train.objective.ocr.recogniser paddle/rec",
        "eval.networks.clip laion/big",  # not what no recipe names: the farm says what it lacks
    ]
    assert lines[0].endswith("`hf download paddle/rec` puts it there")


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
    data = load_recipe(MINI, ["train.data.words=null", *keys]).train.data
    publish_shards(tmp_path / "data" / "mini", **data.described)
    (line,) = missing(*keys)  # MARIO is in the shards; the tars are read where they lie
    assert line.startswith("train.data.laion.path ")


def test_a_folder_of_other_samples_is_refused_before_the_queue(
    missing: Missing, tmp_path: Path
) -> None:
    keys = ["train.data.words.samples=64", "train.data.words.seed=1"]
    publish_shards(tmp_path / "data" / "mini", **DataConfig(path=tmp_path, words=WORDS).described)
    assert missing(*keys) == [
        f"train.data.path {tmp_path}/data/mini holds other samples (words.samples 32, not 64; "
        "words.seed 0, not 1): set train.data.path to a new folder, or remove this one"
    ]


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
