"""Finding and loading models: what is not there is said in one line."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from cluster.run_folder import BrokenFolder, publish
from tests.conftest import publish_lora_export
from trainer.config import LoraConfig
from trainer.models.digest import weights_digest
from trainer.models.lora import add_lora
from trainer.models.pipeline import find_model, load_parts, load_pipeline


def test_a_model_that_is_nowhere_is_named_with_where_it_was_sought() -> None:
    with pytest.raises(ValueError, match="model 'no/such' is neither a folder nor in the Hugging"):
        find_model("no/such")


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no diffusers folder: it holds no model_index\.json"):
        find_model(str(tmp_path))


def test_a_pipeline_without_our_unet_is_refused(tmp_path: Path) -> None:
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is a FluxPipeline, not a Stable Diffusion"):
        load_parts(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32)


def test_pictures_survive_the_way_to_latents_and_back_in_shape(tiny_model: Path) -> None:
    parts = load_parts(str(tiny_model), device=torch.device("cpu"), dtype=torch.float32)
    images = torch.randint(256, (2, 3, 32, 96), dtype=torch.uint8)
    latents = parts.encode_images(images, torch.zeros(2, 4, 4, 12))
    assert latents.shape == (2, 4, 32 // parts.latent_scale, 96 // parts.latent_scale)
    assert parts.encode_captions(["'a'", "'bcd' in red"]).shape == (2, 40, 32)


def test_only_the_adapters_are_trained_and_they_start_without_effect(tiny_model: Path) -> None:
    parts = load_parts(str(tiny_model), device=torch.device("cpu"), dtype=torch.float32)
    inputs = (torch.randn(1, 4, 4, 12), torch.tensor([500]), torch.randn(1, 40, 32))
    before = parts.unet(*inputs).sample
    add_lora(parts.unet, LoraConfig(rank=2))
    assert torch.equal(parts.unet(*inputs).sample, before)
    trained = [name for name, weight in parts.unet.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


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
