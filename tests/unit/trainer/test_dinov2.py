"""DINOv2 against the published network written out."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from trainer.models.dinov2 import Dinov2

HEADS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINOv2 with positions for 7 x 7 patches, all weights random."""
    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            image_size=98,
            patch_size=14,
        )
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=1.0)
    path = tmp_path_factory.mktemp("models") / "dinov2"
    model.save_pretrained(path)
    return path


def picture(seed: int) -> Image.Image:
    """Coarse noise."""
    chance = np.random.default_rng(seed)
    small = Image.fromarray(chance.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return small.resize((120, 90), Image.Resampling.BICUBIC)


def published(folder: Path, pixels: Tensor) -> Tensor:
    """The CLS vectors by the equations of a vision transformer (Dosovitskiy et al. 2021)."""
    weights = Dinov2Model.from_pretrained(folder).state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        scaled = (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, correction=0, keepdim=True) + 1e-6
        ) ** 0.5
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    patches = pixels.unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5).flatten(3)
    kernel = weights["embeddings.patch_embeddings.projection.weight"].flatten(1)
    tokens = patches @ kernel.T + weights["embeddings.patch_embeddings.projection.bias"]
    positions = weights["embeddings.position_embeddings"]
    grid = positions[:, 1:].transpose(1, 2).unflatten(2, (7, 7))
    # As its interpolate_pos_encoding has it: 16 patches and an offset of 0.1, over 7.
    scaled = F.interpolate(grid, scale_factor=(16.1 / 7, 16.1 / 7), mode="bicubic")
    tokens = tokens.flatten(1, 2) + scaled.flatten(2).transpose(1, 2)
    cls = weights["embeddings.cls_token"] + positions[:, :1]
    x = torch.cat([cls.expand(len(pixels), -1, -1), tokens], dim=1)
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        y = norm(f"{layer}.norm1", x)
        q, k, v = (split(linear(f"{layer}.attention.{name}_proj", y)) for name in "qkv")
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        mixed = linear(f"{layer}.attention.o_proj", mixed.transpose(1, 2).flatten(2))
        x = x + weights[f"{layer}.layer_scale1.lambda1"] * mixed
        hidden = F.gelu(linear(f"{layer}.mlp.fc1", norm(f"{layer}.norm2", x)))
        x = x + weights[f"{layer}.layer_scale2.lambda1"] * linear(f"{layer}.mlp.fc2", hidden)
    return norm("layernorm", x)[:, 0]


def test_the_vectors_are_those_of_the_published_network(folder: Path) -> None:
    images = [picture(seed) for seed in range(3)]
    resized = [image.resize((224, 224), Image.Resampling.BICUBIC) for image in images]
    levels = np.stack([np.asarray(image) for image in resized]) / 255
    normal = (levels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    expected = published(folder, torch.from_numpy(normal).permute(0, 3, 1, 2).float())
    found = Dinov2(folder).images(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.std(0).mean() > 1e-2  # they do tell the pictures apart


def test_transformers_own_positions_would_give_others(folder: Path) -> None:
    """What the offset is for."""
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unaltered = Dinov2Model.from_pretrained(folder)(pixel_values=pixels).pooler_output
    assert (unaltered - published(folder, pixels)).abs().max() > 1e-3
