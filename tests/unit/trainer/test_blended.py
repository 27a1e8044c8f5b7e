"""Pictures between several text encoders: a blend is a model like any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cluster.run_folder import BrokenFolder
from tests.unit.trainer.test_loaded import LORA, publish_export
from trainer.models.loaded import LoadedModel
from trainer.models.named import find_named, named_digest, short_name, weights_of
from trainer.models.pipeline import load_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers, of NumPy 2
ModelOf = Callable[[str], Path]
PROMPTS = ["'a' in red", "'b' in blue"]
WHOLE = {"unet": "full", "text_encoder": "full"}
ADAPTERS = {"unet": "lora", "text_encoder": "lora", "lora": LORA}


def pictures(pipeline: Any, **keys: Any) -> NDArray[np.float32]:
    made = pipeline(
        PROMPTS,
        num_inference_steps=2,
        guidance_scale=4.0,
        height=16,
        width=16,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))],
        output_type="np",
        **keys,
    )
    pixels: NDArray[np.float32] = made.images
    return pixels


def embeddings(pipeline: Any) -> list[torch.Tensor]:
    """What a pipeline tells its denoiser of the prompts, with and without words."""
    answers = pipeline.encode_prompt(
        PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    return [answer.detach() for answer in answers]


@pytest.mark.parametrize(("name", "how"), [("sd1", ADAPTERS), ("sdxl", WHOLE)])
def test_prompts_are_told_by_weight_and_pictures_made_by_the_first(
    name: str, how: dict[str, Any], model_of: ModelOf, tmp_path: Path
) -> None:
    original = model_of(name)
    tuned = publish_export(tmp_path, original, 1, **how)
    first, second = (load_pipeline(model) for model in (tuned, original))
    mixed = load_pipeline(f"{tuned}*0.7+{original}*0.3")
    parts = (embeddings(pipeline) for pipeline in (mixed, first, second))
    for answer, ours, theirs in zip(*parts, strict=True):
        torch.testing.assert_close(answer, 0.7 * ours + 0.3 * theirs)
    negative = ["blurred"] * len(PROMPTS)
    all_first, all_second = (
        load_pipeline(f"{tuned}*{weight}+{original}*{1 - weight}") for weight in (1, 0)
    )
    for words in (None, negative):
        np.testing.assert_array_equal(
            pictures(all_first, negative_prompt=words), pictures(first, negative_prompt=words)
        )
    beside = pictures(all_second)  # the denoiser is the first's, at any weight
    assert all(np.abs(beside - pictures(one)).max() > 1e-4 for one in (first, second))


def test_styles_are_mixed_of_several_and_a_weight_goes_beyond_its_encoder(
    model_of: ModelOf, tmp_path: Path
) -> None:
    models = [model_of("sd1")]
    models += [publish_export(tmp_path, models[0], step, **WHOLE) for step in (1, 2)]
    ends = [embeddings(load_pipeline(model))[0] for model in models]
    for weights in ((0.2, 0.5, 0.3), (1.5, -0.75, 0.25)):
        named = "+".join(f"{model}*{weight}" for model, weight in zip(models, weights, strict=True))
        expected = sum(weight * end for weight, end in zip(weights, ends, strict=True))
        torch.testing.assert_close(embeddings(load_pipeline(named))[0], expected)


def test_the_networks_of_a_blend_keep_the_dtype_that_they_are_loaded_in(
    model_of: ModelOf, tmp_path: Path
) -> None:
    tuned = publish_export(tmp_path, model_of("sd1"), 1, **WHOLE)
    mixed: Any = load_pipeline(f"{tuned}*0.7+{model_of('sd1')}*0.3", dtype=torch.bfloat16)
    assert {answer.dtype for answer in embeddings(mixed)} == {torch.bfloat16}
    assert mixed.text_encoder.dtype == mixed.unet.dtype == torch.bfloat16


def test_without_guidance_there_is_nothing_to_lead_away_from(
    model_of: ModelOf, tmp_path: Path
) -> None:
    tuned = publish_export(tmp_path, model_of("sd1"), 1, **WHOLE)
    mixed: Any = load_pipeline(f"{tuned}*0.7+{model_of('sd1')}*0.3")
    told, nothing = mixed.encode_prompt(PROMPTS, "cpu", 1, False)
    assert nothing is None
    assert torch.equal(told, embeddings(mixed)[0])


def test_a_blend_takes_the_place_of_a_model_and_leaves_nothing_behind(
    model_of: ModelOf, tmp_path: Path
) -> None:
    base = model_of("sd1")
    adapters = publish_export(tmp_path, base, 1, **ADAPTERS)
    whole = publish_export(tmp_path, base, 2, **WHOLE)
    names = [str(base), f"{adapters}*0.7+{base}*0.3", str(adapters), f"{adapters}*0.4+{whole}*0.6"]
    names += [f"{base}*0.5+{adapters}*0.5"]
    loaded, networks = LoadedModel(), set()
    for named in names:
        switched = loaded.switch(find_named(named))
        networks.add(id(switched.unet))
        np.testing.assert_array_equal(pictures(switched), pictures(load_pipeline(named)))
    assert len(networks) == 1  # the base was read once


def test_each_export_in_a_blend_is_held_against_its_manifest(
    model_of: ModelOf, tmp_path: Path
) -> None:
    exports = [publish_export(tmp_path, model_of("sd1"), step, **ADAPTERS) for step in (1, 2)]
    file = exports[1] / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    named = f"{exports[0]}*0.5+{exports[1]}*0.5"
    for load in (load_pipeline, lambda name: LoadedModel().switch(find_named(name))):
        with pytest.raises(BrokenFolder, match=r"step-00000002.*pytorch_lora_weights"):
            load(named)


def test_a_blend_has_a_path_a_name_and_a_digest_of_its_own(
    model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = model_of("sd1")
    export = publish_export(tmp_path, base, 1, **ADAPTERS)
    monkeypatch.chdir(tmp_path)
    found = find_named(f"step-00000001*.70+{base}*0.3")
    assert found.path == f"{export}*0.7+{base}*0.3"
    assert found.name == short_name(found.path) == "step-00000001*0.7+sd1*0.3"
    assert weights_of(found.path) == str(export)
    assert find_named(found.path) == found
    named = {
        found.path,
        f"{export}*0.3+{base}*0.7",  # the adapters of the denoiser are the first's
        f"{base}*0.3+{export}*0.7",
        f"{export}*0.7+{base}*0.2+{base}*0.1",
        f"{export}/pytorch_lora_weights.safetensors@{base}*0.7+{model_of('turbo')}*0.3",
        str(export),
        str(base),
    }
    assert len({named_digest(name) for name in named}) == len(named)
    assert named_digest(f"step-00000001*.70+{base}*0.30") == named_digest(found.path)


def test_a_folder_may_be_called_like_a_blend(model_of: ModelOf, tmp_path: Path) -> None:
    folder = tmp_path / "a*0.5+b*0.5"
    folder.symlink_to(model_of("sd1"))
    assert find_named(str(folder)).blend == ()
    assert named_digest(str(folder)) == named_digest(str(model_of("sd1")))


def test_what_cannot_be_mixed_is_one_line(model_of: ModelOf, tiny_model: Path) -> None:
    base = model_of("sd1")
    for named, message in {
        f"{base}*0.7+{base}*0.2": r"the weights of .* must add up to 1, got 0\.9$",
        f"{base}*0.7+{base}": rf"{base} in .* has no weight: a blend is spelt MODEL\*0\.7\+OTHER",
        f"{base}*0.7+{base}*0.3+": rf"{base}\*0\.3\+ in .* has no weight",
        f"{base}*0.7+{base}*some": rf"{base}\*some in .* has no weight",
        f"{base}*0.7+gone*0.3": "model 'gone' is neither a folder nor a file",
        f"{base}*0.7+{tiny_model}*0.3": rf"{tiny_model} cannot be mixed with {base}: it has a "
        "text_encoder of 40 tokens x 32, not a text_encoder of 16 tokens x 32$",
        f"{base}*0.7+{model_of('sdxl')}*0.3": "it has a text_encoder of 16 tokens x 32 and a "
        "text_encoder_2 of 16 tokens x 64, not a text_encoder of 16",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            find_named(named)
        assert "\n" not in str(error.value)
