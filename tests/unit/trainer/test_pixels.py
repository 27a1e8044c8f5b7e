"""Pixels: what a frame shows is what a viewer would show, decoded no further than needed."""

import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from trainer.data.framing import Frame, Size, choose_frame
from trainer.data.images import decode_image
from trainer.data.pixels import framed_image, framed_mask, spare_detail


def smooth(width: int, height: int) -> Image.Image:
    """A picture without fine detail, so that filters agree on it."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def centred(source: tuple[int, int], size: tuple[int, int], flip: bool = False) -> Frame:
    chance = random.Random(0)
    return choose_frame(Size(*source), Size(*size), crop="center", flip=flip, chance=chance)


def difference(pixels: torch.Tensor, image: Image.Image) -> float:
    """The mean difference of levels."""
    wanted = np.asarray(image.convert("RGB"), np.float64)
    return float(np.abs(pixels.permute(1, 2, 0).numpy() - wanted).mean())


def test_a_picture_of_the_frames_size_keeps_every_bit() -> None:
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    pixels = framed_image(image, centred((40, 30), (40, 30)))
    assert difference(pixels, image) == 0
    mirrored = framed_image(image, centred((40, 30), (40, 30), flip=True))
    assert torch.equal(mirrored, pixels.flip(2))


def test_a_frame_is_pillows_crop_and_resize() -> None:
    image = Image.effect_noise((400, 240), 80).convert("RGB")
    pixels = framed_image(image, centred((400, 240), (96, 96)))
    bicubic = image.crop((80, 0, 320, 240)).resize((96, 96), Image.Resampling.BICUBIC)
    assert pixels.shape == (3, 96, 96)
    assert pixels.dtype == torch.uint8
    assert difference(pixels, bicubic) < 0.6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_decoded_in_part_stands_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph = encoded(smooth(304, 208), "jpeg", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(photograph)))
    assert upright is not None
    frame = centred(upright.size, (upright.width // 5, upright.height // 5))
    decoded = decode_image(photograph, spare_detail(frame))
    assert max(decoded.size) == 152  # half
    box = (frame.left, frame.top, frame.left + frame.box.width, frame.top + frame.box.height)
    whole = upright.crop(box).resize(frame.size, Image.Resampling.BICUBIC)
    assert difference(framed_image(decoded, frame), whole) < 2


@pytest.mark.parametrize(("frame_px", "decoded_px"), [(201, 800), (200, 400), (32, 100)])
def test_a_jpeg_keeps_twice_the_detail_of_its_frame(frame_px: int, decoded_px: int) -> None:
    frame = centred((800, 800), (frame_px, frame_px))
    image = decode_image(encoded(smooth(800, 800), "jpeg"), spare_detail(frame))
    assert image.size == (decoded_px, decoded_px)


def test_a_mask_is_scaled_to_shares() -> None:
    mask = Image.new("L", (100, 50))
    mask.paste(255, (25, 0, 50, 50))
    shares = framed_mask(mask, centred((100, 50), (50, 50)))
    assert shares.shape == (1, 50, 50)
    assert (shares[..., :24] > 0.99).all()
    assert (shares[..., 26:] < 0.01).all()


def test_a_picture_of_another_size_than_indexed_is_broken() -> None:
    with pytest.raises(ValueError, match="is 30 x 40 pixels, not 40 x 30 as indexed"):
        framed_image(smooth(30, 40), centred((40, 30), (20, 20)))
