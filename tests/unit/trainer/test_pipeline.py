"""Finding and loading models: what is not there is said in one line."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from cluster.run_folder import BrokenFolder, publish
from tests.conftest import load_tiny, publish_lora_export, train_config
from trainer.config import LoraConfig
from trainer.models.digest import weights_digest
from trainer.models.pipeline import family_of, load_pipeline
from trainer.models.source import Source, find_model
from trainer.models.trained import Trained


def test_a_model_that_is_nowhere_is_named_with_where_it_was_sought() -> None:
    with pytest.raises(
        ValueError, match=r"model 'no/such' is neither a folder nor a file .* nor in the Hugging"
    ):
        find_model("no/such")


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no diffusers folder: it holds no model_index\.json"):
        find_model(str(tmp_path))


def test_a_pipeline_of_no_known_family_is_refused(tmp_path: Path) -> None:
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"is a FluxPipeline; what can be trained: .*Stable"):
        family_of(Source(tmp_path, tmp_path))


def test_pictures_survive_the_way_to_latents_and_back_in_shape(tiny_model: Path) -> None:
    family = load_tiny(tiny_model)
    images = torch.randint(256, (2, 3, 32, 96), dtype=torch.uint8)
    latents = family.encode_images(images, torch.zeros(2, 4, 4, 12))
    assert latents.shape == (2, 4, 32 // family.latent_scale, 96 // family.latent_scale)
    ids = family.tokenize(["'a'", "'bcd' in red"])
    assert family.encode_tokens(ids).context.shape == (2, 40, 32)


def test_only_the_adapters_are_trained_and_they_start_without_effect(tiny_model: Path) -> None:
    family = load_tiny(tiny_model)
    inputs = (torch.randn(1, 4, 4, 12), torch.tensor([500]), family.tokenize(["a"]), torch.empty(0))
    config = train_config(tiny_model, unet="lora", text_encoder="lora", lora=LoraConfig(rank=2))
    before = family.denoise(*inputs[:2], family.encode_tokens(inputs[2]), inputs[3])
    trained = Trained(family, config)
    assert torch.equal(trained(family.predict, *inputs), before)
    names = [name for name, weight in trained.named_parameters() if weight.requires_grad]
    assert {name.partition(".")[0] for name in names} == {"unet", "text_encoder"}
    assert all("lora_" in name for name in names)


def test_an_export_that_differs_from_its_manifest_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    export = tmp_path / "step-00000001"
    publish_lora_export(export, tiny_model, 1, final=True)
    assert isinstance(load_pipeline(export), StableDiffusionPipeline)

    weights = export / "pytorch_lora_weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(BrokenFolder, match=r"pytorch_lora_weights\.safetensors has \d+ bytes"):
        load_pipeline(export)


def test_the_digest_follows_the_weights_and_not_the_previews(tmp_path: Path) -> None:
    digests = []
    for name, weights, preview in (("a", "1", "x"), ("b", "1", "y"), ("c", "2", "x")):
        staging = tmp_path / f"{name}.tmp"
        (staging / "preview").mkdir(parents=True)
        (staging / "weights").write_text(weights)
        (staging / "preview" / "0.png").write_text(preview)
        publish(staging, tmp_path / name, {})
        digests.append(weights_digest(tmp_path / name))
    assert digests[0] == digests[1] != digests[2]
