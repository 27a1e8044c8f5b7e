"""Encoded once: training from the cache computes what it computes from the pictures."""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.run_folder import verify
from tests.conftest import load_tiny, train_config
from tests.unit.trainer.test_loader import spoil
from trainer.config import TrainConfig
from trainer.data.cache import work
from trainer.data.cache.captions import find_bearers
from trainer.data.cache.encode import encode, encode_share, silent
from trainer.data.cache.reading import Cache, Encodings, open_cache
from trainer.data.config import BucketConfig, DataConfig
from trainer.data.loader import Batch, Stream, open_batches
from trainer.data.shards import ShardFolder, write_shards
from trainer.data.words import Sample
from trainer.distributed import Place, find_place
from trainer.models.trained import Trained
from trainer.objectives.config import ObjectiveConfig
from trainer.objectives.denoising import Denoising

SHAPES = [(96, 64), (64, 96), (64, 64)]
CAPTIONS = ["'lemon'", "'river'"]
OBJECTIVE = ObjectiveConfig(caption_dropout=0.5, mask_weight=2.0)
Make = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def posters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 noisy pictures of three shapes under two captions, each with a mask."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "posters"
    samples = []
    for number in range(24):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        image = coarse.resize(SHAPES[number % 3], Image.Resampling.BICUBIC)
        samples.append(Sample(image, CAPTIONS[number % 2], [], image.getchannel(0)))
    write_shards(samples, folder, {})
    return folder


@pytest.fixture(scope="module")
def keys(tiny_model: Path, posters: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The keys of a train section on the posters, with a cache that is there."""
    data = DataConfig(
        path=posters,
        cache=tmp_path_factory.mktemp("cache"),
        resolution=64,
        buckets=BucketConfig(step_px=16),
    )
    run(train_config(tiny_model, data=data))
    return {"objective": OBJECTIVE, "data": data}


@pytest.fixture
def make(tiny_model: Path, keys: Any, tmp_path: Path) -> Make:
    """Makes a train section without a cache yet; keyword arguments are keys of the data."""

    def config(**data: Any) -> TrainConfig:
        mine = replace(keys["data"], **{"cache": tmp_path / "cache", **data})
        return train_config(tiny_model, **{**keys, "data": mine})

    return config


@pytest.fixture
def encoded(tiny_model: Path, keys: Any) -> TrainConfig:
    """A train section whose cache is there."""
    return train_config(tiny_model, **keys)


def run(config: TrainConfig, rank: int = 0, ranks: int = 1) -> str:
    return encode_share(config, 8, silent, Place(rank, rank, ranks))


def open_it(config: TrainConfig) -> Cache:
    cache = open_cache(config, load_tiny(Path(config.model)))
    assert cache is not None
    return cache


def batches(config: TrainConfig, cache: Cache | None, steps: int = 6) -> list[Batch]:
    stream = Stream(
        ShardFolder(config.data.path),
        config.data,
        seed=7,
        global_batch=4,
        truth=("masks",),
        cache=cache,
    )
    positions = [list(range(4 * step, 4 * step + 4)) for step in range(steps)]
    return list(open_batches(stream, iter(positions)))


def losses(config: TrainConfig, cache: Cache | None) -> list[float]:
    """Of three steps: one of each frame."""
    family = load_tiny(Path(config.model))
    torch.manual_seed(0)
    trained, objective = Trained(family, config).eval(), Denoising(family, config)
    with torch.no_grad():
        return [
            objective(trained, batch, step=0).total.item() for batch in batches(config, cache, 3)
        ]


def assert_nothing_changed(config: TrainConfig, steps: int = 6) -> None:
    """What the network is given is the same with and without the cache."""
    objective = Denoising(load_tiny(Path(config.model)), config)
    without, cached = (batches(config, cache, steps) for cache in (None, open_it(config)))
    for before, after in zip(without, cached, strict=True):
        noise = torch.randn(4, *objective.latent_shape(after))
        torch.testing.assert_close(
            objective.latents(after, noise), objective.latents(before, noise)
        )
        drop = [False, True, False, False]
        torch.testing.assert_close(objective.told(after, drop), objective.told(before, drop))
        assert after.broken == before.broken


def count_pictures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the pictures that are read from now on."""
    read: list[int] = []
    image = ShardFolder.image

    def counted(shards: ShardFolder, number: int, shrink: float = 1.0) -> Image.Image:
        read.append(number)
        return image(shards, number, shrink)

    monkeypatch.setattr(ShardFolder, "image", counted)
    return read


def test_training_from_the_cache_computes_the_same_losses_and_reads_no_picture(
    encoded: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    without, cache = losses(encoded, None), open_it(encoded)
    read = count_pictures(monkeypatch)
    assert losses(encoded, cache) == pytest.approx(without, rel=1e-6)
    assert read == []


def test_a_mirrored_picture_has_latents_of_its_own(make: Make) -> None:
    config = make(flip=0.5)
    run(config)
    assert_nothing_changed(config)


def test_what_training_is_told_beside_pictures_and_captions_stays(
    encoded: TrainConfig,
) -> None:
    cache = open_it(encoded)
    pairs = zip(batches(encoded, None, 3), batches(encoded, cache, 3), strict=True)
    for before, after in pairs:
        assert before.positions == after.positions
        assert torch.equal(before.sizes, after.sizes)
        assert before.masks is not None
        assert after.masks is not None
        assert torch.equal(before.masks, after.masks)
        assert after.images is None
        assert after.captions == []


def test_text_encoders_that_learn_read_their_captions(encoded: TrainConfig) -> None:
    config = replace(encoded, text_encoder="full")
    assert run(config).endswith("text: not cached, since the text encoder is trained")
    cache = open_it(config)
    assert cache.text is None
    without, cached = batches(config, None, 2), batches(config, cache, 2)
    assert [batch.captions for batch in cached] == [batch.captions for batch in without]
    assert all(batch.posterior is not None for batch in cached)


def test_a_caption_is_kept_once_and_the_empty_one_with_them(encoded: TrainConfig) -> None:
    text = open_it(encoded).text
    assert text is not None
    assert text.manifest["rows"] == 3
    family = load_tiny(Path(encoded.model))
    for number, caption in [(0, CAPTIONS[0]), (3, CAPTIONS[1]), (22, CAPTIONS[0])]:
        wanted = family.encode_tokens(family.tokenize([caption])).context[0]
        torch.testing.assert_close(text.read(number)["context"], wanted)


def test_the_first_of_equal_captions_bears_for_all() -> None:
    digests = np.array([[5, 1], [3, 9], [5, 1], [0, 0], [5, 2], [3, 9]], np.uint64)
    assert find_bearers(digests).tolist() == [0, 1, 0, -2, 4, 1]


def test_bf16_is_kept_to_the_bit(make: Make) -> None:
    config = replace(make(), precision="bf16")
    run(config)
    family = load_tiny(Path(config.model))
    for network in (family.vae, *family.text_encoders.values()):
        network.to(torch.bfloat16)
    cache = open_cache(config, family)
    (batch,), (cached,) = batches(config, None, 1), batches(config, cache, 1)
    assert batch.images is not None
    mean, std = family.encode_posterior(batch.images)
    torch.testing.assert_close(cached.posterior, torch.stack([mean, std], dim=1))


class Killed(BaseException):
    """As by a signal, in the middle of the work."""


def kill_after(rows: int) -> Callable[[str], Callable[[Iterable[Any], int], Iterator[Any]]]:
    def count(items: Iterable[Any], _: int) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == rows:
                raise Killed
            yield item

    return lambda _: count


def test_a_killed_encode_goes_on_where_it_was(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "ROWS_PER_PART", 4)
    config = make()
    read = count_pictures(monkeypatch)
    with pytest.raises(Killed):
        encode_share(config, 4, kill_after(14), Place(0, 0, 1))
    with pytest.raises(ValueError, match="holds no latents for this recipe: run"):
        open_it(config)
    first = set(read)
    read.clear()
    run(config)
    assert len(first) == 16
    assert len(read) == 12  # three parts were done: 12 of 24 pictures are left
    assert_nothing_changed(config, steps=3)
    read.clear()
    assert re.fullmatch("latents: already in .*\ntext: already in .*", run(config))
    assert read == []


def test_processes_share_the_parts_and_the_first_does_what_is_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "ROWS_PER_PART", 4)
    config = make()
    read = count_pictures(monkeypatch)
    run(config, rank=1, ranks=3)
    assert len(read) == 8
    run(config, rank=0, ranks=3)  # the third never came
    assert len(read) == len(set(read)) == 24
    assert_nothing_changed(config, steps=3)


def test_what_is_published_is_what_its_manifest_lists(encoded: TrainConfig) -> None:
    for part in open_it(encoded):
        assert part is not None
        there = {path.name for path in part.folder.iterdir()}
        assert {*verify(part.folder)["files"], "manifest.json"} == there


def test_a_damaged_file_is_named(encoded: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(open_it(encoded).latents.folder, folder)
    with (folder / "00001.safetensors").open("r+b") as file:
        file.truncate(2000)
    latents = Encodings(folder)
    number = int((latents.index[:, 0, 0] == 1).argmax())
    with pytest.raises(OSError, match=r"copied/00001\.safetensors is damaged"):
        latents.read(number)


def test_a_broken_sample_is_passed_over_as_without_the_cache(
    make: Make, posters: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "posters"
    shutil.copytree(posters, copied)
    spoil(copied, range(5, 6))
    config = make(path=copied)
    assert "1 cannot be read, such as posters/00000.tar:000000005 (cannot identify" in run(config)
    assert any(batch.broken for batch in batches(config, open_it(config)))
    assert_nothing_changed(config)


def change_weight(model: Path, network: str, name: str) -> Any:
    family = load_tiny(model)
    weights = {"vae": family.vae, **family.text_encoders}[network].state_dict()
    weights[name].view(-1)[0] += 1  # of the network itself
    return family


def test_each_folder_is_asked_for_by_all_that_it_depends_on(
    encoded: TrainConfig, tiny_model: Path
) -> None:
    encoder = "encoder.conv_in.weight"
    weights = load_tiny(tiny_model).text_encoders["text_encoder"].state_dict()
    embedding = next(name for name in weights if name.endswith("final_layer_norm.weight"))
    for family, lacking in [
        (change_weight(tiny_model, "vae", encoder), "latents .*of another vae"),
        (change_weight(tiny_model, "text_encoder", embedding), "text .*of another text encoders"),
    ]:
        with pytest.raises(ValueError, match=f"holds no {lacking}.: run `python -m trainer.data"):
            open_cache(encoded, family)
    decoder = change_weight(tiny_model, "vae", "decoder.conv_in.weight")
    assert open_cache(encoded, decoder) is not None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"resolution": 32}, "resolution"),
        ({"buckets": None}, "buckets"),
        ({"max_upscale": 1.0}, "max_upscale"),
        ({"max_upscale": 2.0, "buckets": None}, "buckets, max_upscale"),
    ],
)
def test_latents_of_other_frames_are_not_taken(
    encoded: TrainConfig, changes: Any, what: str
) -> None:
    config = replace(encoded, data=replace(encoded.data, **changes))
    with pytest.raises(ValueError, match=rf"no latents for this recipe \(.* of another {what}\)"):
        open_it(config)


def test_another_precision_or_other_samples_are_another_folder(
    encoded: TrainConfig, shards: Path
) -> None:
    family = load_tiny(Path(encoded.model))
    family.vae.to(torch.bfloat16)
    with pytest.raises(ValueError, match="of another precision, vae"):
        open_cache(encoded, family)
    with pytest.raises(ValueError, match="of another data"):
        open_it(replace(encoded, data=replace(encoded.data, path=shards)))


def test_moved_samples_are_the_same_samples(
    encoded: TrainConfig, posters: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(posters, moved)
    assert open_it(replace(encoded, data=replace(encoded.data, path=moved)))


def test_what_cannot_be_kept_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="cache holds one crop of each picture: set crop to cent"):
        make(crop="random")
    with pytest.raises(ValueError, match=r"train\.data\.cache names no folder"):
        encode(make(cache=None), 4, silent)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
    with pytest.raises(ValueError, match=r"the latents take 0\.0 MB more, and .* has 0\.0 MB free"):
        run(make())


def test_the_place_among_processes_comes_from_whoever_started_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "9")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert find_place() is None  # a batch script is no task of srun
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    assert find_place() == Place(9, 1, 16)
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "3"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert find_place() == Place(3, 3, 4)
