"""Making the mini model: encoders that learn, and a folder that plain diffusers loads."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from cluster.run_folder import RunFolder, publish
from evalfarm.references import picture_names
from tests.conftest import CHECKOUT
from trainer.config import OptimConfig
from trainer.mini import __main__ as mini
from trainer.mini.autoencoder import autoencoder_loss
from trainer.mini.clip import contrastive_loss
from trainer.mini.networks import Size, new_autoencoder, new_tokenizer
from trainer.models.clip import Clip
from trainer.optimise import optimise


def test_the_tokenizer_sees_every_character() -> None:
    tokenizer = new_tokenizer(max_tokens=12)
    tokens = [tokenizer.tokenize(text) for text in ("'moon'", "'MOON'", "'noon'")]
    # Six characters, though CLIP's own rules take 'm for a contraction.
    assert [token.removesuffix("</w>") for token in tokens[0]] == list("'moon'")
    assert tokens[0] == tokens[1] != tokens[2]
    assert len(tokenizer("'moon'", padding="max_length").input_ids) == 12


def test_the_autoencoder_learns() -> None:
    torch.manual_seed(0)
    vae = new_autoencoder(Size(autoencoder=(8, 8), latent_channels=4))
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    losses = list(optimise(vae, lambda: autoencoder_loss(vae, pixels), OptimConfig(lr=1e-2), 30))
    assert losses[-1] < 0.5 * losses[0]


def test_the_contrastive_loss_is_least_where_each_finds_its_own() -> None:
    right, wrong = torch.eye(4) * 20, torch.eye(4).flip(0) * 20
    assert contrastive_loss(right) < 1e-6
    assert contrastive_loss(wrong) > 19
    assert contrastive_loss(torch.zeros(4, 4)).item() == pytest.approx(torch.tensor(4.0).log())


def test_start_and_pack_make_a_small_folder_that_diffusers_loads(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini, "CHECKED", 4)
    monkeypatch.setattr(mini, "AUTOENCODER_BATCH", 2)
    monkeypatch.setattr(mini, "CLIP_BATCH", 2)
    mini.start([shards], tmp_path / "start", autoencoder_steps=1, clip_steps=1)
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.recipe.write_text("name: run")
    shutil.copytree(tmp_path / "start", tmp_path / "staging")
    publish(tmp_path / "staging", run.export(1), {"kind": "full", "step": 1})

    out = tmp_path / "mini"
    mini.pack(tmp_path / "start", run.root, out)
    mini.draw_references(CHECKOUT / "recipes" / "mini.yaml", out / "references.tar")
    size_mb = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    assert size_mb < 16
    pipeline = StableDiffusionPipeline.from_pretrained(out, dtype=torch.float32)
    image = pipeline("'moon' in red on white, sans", num_inference_steps=1).images[0]
    assert image.size == (96, 32)
    assert Clip(out / "clip").texts(["'moon'"]).shape == (1, 64)
    assert len(picture_names(out / "references.tar")) == mini.REFERENCES
    assert not any(str(tmp_path) in path.read_text() for path in out.rglob("*.json"))


def test_the_shipped_model_is_small_and_whole() -> None:
    folder = CHECKOUT / "assets" / "mini"
    size_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    assert size_mb <= 16
    assert isinstance(StableDiffusionPipeline.from_pretrained(folder), StableDiffusionPipeline)
