"""HPS against open_clip's own CLIP with the same random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.peers import peer
from trainer.models.hps import MEAN, STD, Hps
from trainer.models.open_clip import from_open_clip
from trainer.models.rgb import rgb_pixels

SIDE = 56


def new_reference(seed: int) -> Any:
    """open_clip's CLIP in small, random: 16 heads in each tower, as ViT-H-14 has."""
    open_clip = peer("open_clip.model")
    torch.manual_seed(seed)
    vision = open_clip.CLIPVisionCfg(
        layers=2, width=32, head_width=2, patch_size=14, image_size=SIDE
    )
    text = open_clip.CLIPTextCfg(layers=3, width=48, heads=16, context_length=40, vocab_size=138)
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text)
    for weight in model.parameters():  # open_clip starts some at 0 and 1, where errors would hide
        torch.nn.init.normal_(weight, std=0.2)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def reference() -> Any:
    return new_reference(0)


@pytest.fixture
def hps(reference: Any, tiny_model: Path, tmp_path: Path) -> Hps:
    path = tmp_path / "HPS_v2_compressed.pt"
    torch.save({"epoch": 1, "state_dict": reference.state_dict()}, path)
    return Hps(path, tiny_model / "clip")


def test_both_towers_are_open_clips(reference: Any) -> None:
    ours = from_open_clip(reference.state_dict())
    pictures = torch.randn(2, 3, SIDE, SIDE)
    captions = torch.randint(0, 130, (2, 40))
    captions[:, 20:] = 0  # as open_clip pads
    captions[:, 20] = 137  # the end
    theirs = reference.encode_image(pictures)
    found = ours.get_image_features(pixel_values=pictures).pooler_output
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-4)
    theirs = reference.encode_text(captions)
    found = ours.get_text_features(input_ids=captions).pooler_output
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-4)


def test_the_score_is_open_clips_cosine(reference: Any, hps: Hps) -> None:
    picture, prompts = Image.radial_gradient("L").convert("RGB"), ["a cat", "'hi' there"]
    pixels = hps.pixels([picture, picture])
    captions = torch.zeros(2, 40, dtype=torch.long)  # open_clip pads with zeros, transformers not
    for row, prompt in enumerate(prompts):
        numbers = hps.tokenizer(prompt).input_ids
        captions[row, : len(numbers)] = torch.tensor(numbers)
    inputs = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    images = reference.encode_image(inputs, normalize=True)
    cosines = (images * reference.encode_text(captions, normalize=True)).sum(dim=-1)
    torch.testing.assert_close(hps.score(pixels, prompts), cosines, atol=1e-4, rtol=1e-4)


def test_a_picture_is_seen_whole_in_a_black_square(hps: Hps) -> None:
    wide, tall = Image.new("RGB", (200, 100), "white"), Image.new("RGB", (50, 100), "white")
    for pixels, band in zip(hps.pixels([wide, tall]), (1, 2), strict=True):
        lit = (pixels > 0.5).any(dim=0).any(dim=2 - band).nonzero().flatten()
        assert (int(lit[0]), int(lit[-1])) == (SIDE // 4, SIDE - SIDE // 4 - 1)
    assert hps.pixels([wide]).shape == (1, 3, SIDE, SIDE)


def test_pixels_of_any_size_score_as_the_picture_and_get_a_gradient(hps: Hps) -> None:
    picture = Image.radial_gradient("L").resize((120, 80)).convert("RGB")
    pixels = rgb_pixels(picture)[None].requires_grad_()
    score = hps.score(pixels, ["a cat"])
    torch.testing.assert_close(score, hps.score(hps.pixels([picture]), ["a cat"]))
    score.sum().backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


def test_weights_that_are_no_clip_are_told_by_what_they_lack(reference: Any) -> None:
    weights = reference.state_dict()
    with pytest.raises(ValueError, match=r"no CLIP of open_clip: they lack visual\.proj"):
        from_open_clip({name: w for name, w in weights.items() if name != "visual.proj"})
    missing = "visual.transformer.resblocks.1.ln_1.bias"
    with pytest.raises(ValueError, match=r"no CLIP of open_clip: .*vision_model\.encoder"):
        from_open_clip({name: w for name, w in weights.items() if name != missing})
