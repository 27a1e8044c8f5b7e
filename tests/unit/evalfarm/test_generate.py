"""Pictures: a function of suite, prompt and sample alone, and what is wrong with one is its row."""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cluster.run_folder import BrokenFolder
from evalfarm.config import EvalConfig
from evalfarm.farm.generate import Generator, parameters, picture_seed
from evalfarm.rows import Picture
from evalfarm.suite import Item, Sampling
from evalfarm.work import Generate
from tests.conftest import publish_lora_export
from trainer.models.named import named_digest
from trainer.models.samplers import FLOW, new_sampler

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers, of NumPy 2

SAMPLERS = ("ddim", "pndm", "euler", "dpmsolver++")
SAMPLING = Sampling(sampler_steps=4, guidance=3.0, height=32, width=96)
TEXTS = ("'eel' in red", "a <b>../../etc</b>", "", "'eel' in red", "it's", "'net' " * 60)
ITEMS = tuple(
    Item(prompt=number, sample=sample, text=text)
    for number, text in enumerate(TEXTS)
    for sample in range(2)
)
MAX_DIFFERENCE = 1  # grey levels of 255: what a batch's size may change


def unit_of(model: Path | str, folder: Path, items: Sequence[Item], **sampling: Any) -> Generate:
    """A unit of work on the pictures of a model."""
    return Generate(
        suite="quick",
        checkpoint=named_digest(str(model)),
        path=str(model),
        folder=folder,
        subfolder="model",
        sampling=replace(SAMPLING, **sampling),
        items=tuple(items),
    )


def new_generator() -> Generator:
    """One as the farm has, on the CPU."""
    return Generator(EvalConfig(device="cpu", precision="fp32"))


def make(model: Path | str, folder: Path, items: Sequence[Item], **sampling: Any) -> list[Picture]:
    """The rows of these pictures, made by a generator of their own."""
    return new_generator().run(unit_of(model, folder, items, **sampling)).pictures


def pixels(folder: Path, pictures: Sequence[Picture]) -> dict[tuple[int, int], np.ndarray]:
    """The pictures that were made, by prompt and sample."""
    return {
        (picture.prompt, picture.sample): np.asarray(Image.open(folder / picture.file), dtype=int)
        for picture in pictures
        if picture.file
    }


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_is_the_same_in_any_batch_and_order(
    tiny_model: Path, tmp_path: Path, sampler: str
) -> None:
    whole = make(tiny_model, tmp_path / "whole", ITEMS, sampler=sampler)
    expected = pixels(tmp_path / "whole", whole)
    assert len({picture.tobytes() for picture in expected.values()}) == len(ITEMS)
    generator = new_generator()
    turned = [*ITEMS[::-1]]
    for first in range(0, len(turned), 5):
        unit = unit_of(tiny_model, tmp_path / "parts", turned[first : first + 5], sampler=sampler)
        for key, picture in pixels(tmp_path / "parts", generator.run(unit).pictures).items():
            assert np.abs(picture - expected[key]).max() <= MAX_DIFFERENCE


def test_each_sampler_draws_in_its_own_way(tiny_model: Path, tmp_path: Path) -> None:
    drawn = {
        sampler: pixels(tmp_path, make(tiny_model, tmp_path, ITEMS[:1], sampler=sampler))[0, 0]
        for sampler in SAMPLERS
    }
    assert len({picture.tobytes() for picture in drawn.values()}) == len(SAMPLERS)


def test_one_generator_serves_suites_of_several_samplers_and_models(
    tiny_model: Path, tmp_path: Path
) -> None:
    export = tmp_path / "step-00000001"
    publish_lora_export(export, tiny_model, 1, final=False, strength=0.5)
    generator = new_generator()
    for model in (tiny_model, export, tiny_model):
        for sampler in ("pndm", "ddim", "pndm"):
            unit = unit_of(model, tmp_path / "shared", ITEMS[:2], sampler=sampler)
            alone = make(model, tmp_path / "alone", ITEMS[:2], sampler=sampler)
            shared = generator.run(unit).pictures
            assert [p.sha256 for p in shared] == [p.sha256 for p in alone]


def test_the_negative_prompt_and_the_seed_change_the_picture(
    tiny_model: Path, tmp_path: Path
) -> None:
    changes: list[dict[str, Any]] = [{}, {"negative_prompt": "blue"}, {"seed": 1}]
    files = [make(tiny_model, tmp_path, ITEMS[:1], **change)[0] for change in changes]
    assert len({picture.sha256 for picture in files}) == 3


def with_broken(model: Path, folder: Path, network: str, name: str, value: Any) -> Path:
    """A copy of a model in which a weight, or some rows of it, has this value."""
    shutil.copytree(model, folder)
    (file,) = (folder / network).glob("*.safetensors")
    weights = load_file(file)
    rows, number = value
    weights[name][rows] = number
    save_file(weights, file, {"format": "pt"})
    return folder


def test_only_the_picture_that_is_not_finite_fails(tiny_model: Path, tmp_path: Path) -> None:
    (file,) = (tiny_model / "text_encoder").glob("*.safetensors")
    embedding = next(name for name in load_file(file) if "token_embedding" in name)
    vocabulary = json.loads((tiny_model / "tokenizer" / "tokenizer.json").read_text())
    tokens = [vocabulary["model"]["vocab"][text] for text in ("z", "z</w>")]
    model = with_broken(
        tiny_model, tmp_path / "nan", "text_encoder", embedding, (tokens, float("nan"))
    )
    items = [Item(prompt=n, sample=0, text=text) for n, text in enumerate(("ab", "azb", "ba"))]
    good, bad, other = make(model, tmp_path, items)
    assert (bad.status, bad.file) == ("failed", None)
    assert bad.error == "the model gave NaN or infinite values for this picture"
    assert not list(tmp_path.glob("images/model/00001-0-*.png"))
    expected = pixels(tmp_path / "whole", make(tiny_model, tmp_path / "whole", [items[0]]))
    assert (good.status, other.status) == ("ok", "ok")
    found = pixels(tmp_path, [good])
    assert np.abs(found[0, 0] - expected[0, 0]).max() <= MAX_DIFFERENCE


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_decoder_that_overflows_gives_no_white_picture(
    tiny_model: Path, tmp_path: Path, value: float
) -> None:
    model = with_broken(
        tiny_model, tmp_path / "broken", "vae", "decoder.conv_out.bias", (slice(None), value)
    )
    assert [picture.status for picture in make(model, tmp_path, ITEMS[:2])] == ["failed"] * 2


def test_a_picture_of_one_color_is_kept_with_a_note(tiny_model: Path, tmp_path: Path) -> None:
    model = with_broken(
        tiny_model, tmp_path / "black", "vae", "decoder.conv_out.bias", (slice(None), -1000.0)
    )
    black, _ = make(model, tmp_path, ITEMS[:2])
    assert (black.status, black.note) == ("ok", "all of one colour")
    assert not pixels(tmp_path, [black])[0, 0].any()
    (normal,) = make(tiny_model, tmp_path, ITEMS[:1])
    assert normal.note is None


def test_a_picture_says_how_it_was_made_in_the_words_of_web_uis(
    tiny_model: Path, tmp_path: Path
) -> None:
    sampling = {"negative_prompt": "blurred, grey", "sampler": "dpmsolver++"}
    (picture,) = make(tiny_model, tmp_path, ITEMS[2:3], **sampling)
    # By number and content: prompts may hold anything.
    assert picture.file == f"images/model/00001-0-{picture.sha256[:8]}.png"
    path = tmp_path / picture.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == picture.sha256
    with Image.open(path) as image:
        text = image.info["parameters"]
    prompt, negative, facts = text.split("\n")
    assert prompt == TEXTS[1]
    assert negative == "Negative prompt: blurred, grey"
    # How A1111 finds them, and in its order.
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', facts)
    assert found == [
        ("Steps", "4"),
        ("Sampler", "DPM++ 2M"),
        ("CFG scale", "3.0"),
        ("Seed", str(picture_seed(0, 1, 0))),
        ("Size", "96x32"),
        ("Model hash", picture.checkpoint[:10]),
        ("Model", tiny_model.name),
        ("RNG", "CPU"),
    ]


def test_a_blend_is_made_like_any_model_and_named_in_its_pictures(
    tiny_model: Path, tmp_path: Path
) -> None:
    (file,) = (tiny_model / "text_encoder").glob("*.safetensors")
    embedding = next(name for name in load_file(file) if "token_embedding" in name)
    other = with_broken(
        tiny_model, tmp_path / "other", "text_encoder", embedding, (slice(0, None, 2), 0.05)
    )
    blend = f"{tiny_model}*0.7+{other}*0.3"
    made = make(blend, tmp_path, ITEMS[:2])
    expected = pixels(tmp_path, made)
    for item in ITEMS[:2]:
        (alone,) = pixels(tmp_path, make(blend, tmp_path, [item])).values()
        assert np.abs(alone - expected[item.prompt, item.sample]).max() <= MAX_DIFFERENCE
    for model in (tiny_model, other):
        unlike = pixels(tmp_path, make(model, tmp_path, ITEMS[:2]))
        assert np.abs(unlike[0, 0] - expected[0, 0]).max() > MAX_DIFFERENCE
    assert {picture.checkpoint for picture in made} == {named_digest(blend)}
    with Image.open(tmp_path / str(made[0].file)) as image:
        assert f"Model: {tiny_model.name}*0.7+other*0.3, RNG" in image.info["parameters"]


def test_a_name_with_commas_is_quoted_and_no_negative_prompt_is_no_line(tmp_path: Path) -> None:
    unit = Generate(
        suite="quick",
        checkpoint="0" * 64,
        path="/models/a, b: c",
        folder=tmp_path,
        subfolder="model",
        sampling=SAMPLING,
        items=ITEMS[:1],
    )
    prompt, facts = parameters(unit, ITEMS[0]).split("\n")
    assert prompt == TEXTS[0]
    assert 'Model: "a, b: c", RNG: CPU' in facts


def test_a_model_that_cannot_be_loaded_is_named_with_its_file(
    tiny_model: Path, tmp_path: Path
) -> None:
    export, gone = tmp_path / "step-00000001", tmp_path / "step-00000002"
    for step, folder in ((1, export), (2, gone)):
        publish_lora_export(folder, tiny_model, step, final=False)
    units = [unit_of(folder, tmp_path, ITEMS[:1]) for folder in (export, gone)]
    file = export / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    shutil.rmtree(gone)
    generator = new_generator()
    with pytest.raises(BrokenFolder, match=r"step-00000001.*pytorch_lora_weights\.safetensors"):
        generator.run(units[0])
    with pytest.raises(ValueError, match=r"model '.*step-00000002' is neither a folder nor"):
        generator.run(units[1])


def test_the_flow_is_followed_by_what_can() -> None:
    assert new_sampler({}, FLOW, "euler").config.solver_order == 1
    assert new_sampler({}, FLOW, "dpmsolver++").config.solver_order == 2
    with pytest.raises(ValueError, match=r"sampler pndm cannot follow the flow .*: choose"):
        new_sampler({}, FLOW, "pndm")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_samplers_keep_the_schedule_of_the_training(sampler: str, prediction: str) -> None:
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    made = new_sampler(schedule, prediction, sampler)
    assert made.config.prediction_type == prediction
    torch.testing.assert_close(
        made.alphas_cumprod, new_sampler(schedule, prediction).alphas_cumprod
    )
