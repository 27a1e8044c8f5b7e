"""Pictures from strangers: every odd kind is decoded as decided, or refused with its reason."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data.images import Unusable, decode_image, image_size

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB", colour: Any = RED) -> Image.Image:
    return Image.new(mode, (20, 10), colour)


def half_clear(mode: str, clear: Any, colour: Any) -> Image.Image:
    image = picture(mode, clear)
    image.paste(colour, (10, 0, 20, 10))
    return image


def palette_with_a_clear_entry() -> bytes:
    image = picture("P", 0)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.paste(1, (10, 0, 20, 10))
    return encoded(image, transparency=0)


def animation() -> bytes:
    frames = [picture("RGB", RED), picture("RGB", (0, 0, 255))]
    return encoded(frames[0], "gif", save_all=True, append_images=frames[1:])


def huge_png(width: int, height: int) -> bytes:
    """The header of a picture that nobody has drawn."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "right_pixel"),
    [
        pytest.param(encoded(picture("CMYK", (0, 255, 255, 0)), "tiff"), RED, id="cmyk"),
        pytest.param(encoded(picture("L", 128)), (128, 128, 128), id="grey"),
        pytest.param(encoded(picture("I;16", 40_000)), (156, 156, 156), id="16 bits"),
        pytest.param(encoded(picture("1", 1)), WHITE, id="1 bit"),
        pytest.param(animation(), RED, id="animated: the first picture"),
        pytest.param(encoded(half_clear("RGBA", (0, 0, 0, 0), (*RED, 255))), RED, id="alpha"),
        pytest.param(encoded(half_clear("LA", (0, 0), (9, 255))), (9, 9, 9), id="grey with alpha"),
        pytest.param(palette_with_a_clear_entry(), RED, id="palette"),
    ],
)
def test_odd_pictures_become_rgb(data: bytes, right_pixel: tuple[int, int, int]) -> None:
    image = decode_image(data)
    assert (image.mode, image.size, image_size(data)) == ("RGB", (20, 10), (20, 10))
    assert image.getpixel((15, 5)) == right_pixel


@pytest.mark.parametrize(
    "data",
    [
        encoded(half_clear("RGBA", (0, 0, 0, 0), (*RED, 255))),
        encoded(half_clear("LA", (0, 0), (9, 255))),
        palette_with_a_clear_entry(),
        encoded(half_clear("RGB", (0, 0, 255), RED), transparency=(0, 0, 255)),
    ],
    ids=["alpha", "grey", "palette", "one clear colour"],
)
def test_what_is_transparent_is_white(data: bytes) -> None:
    assert decode_image(data).getpixel((5, 5)) == WHITE


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_and_so_is_their_size(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste(RED, (0, 0, 16, 8))
    backwards = {6: 8, 8: 6}.get(orientation, orientation)
    stored = turned(upright, backwards)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif, quality=100)
    assert image_size(data) == (32, 16)
    image = decode_image(data)
    assert np.abs(np.asarray(image, int) - np.asarray(upright, int)).mean() < 4


def turned(image: Image.Image, orientation: int) -> Image.Image:
    pixels = np.asarray(image)
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    flips = {2: 1, 3: (0, 1), 4: 0, 6: 1, 7: (0, 1), 8: 0}
    return Image.fromarray(np.flip(pixels, flips[orientation]) if orientation in flips else pixels)


def test_exif_that_cannot_be_read_turns_nothing() -> None:
    data = encoded(picture(), "jpeg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert image_size(data) == decode_image(data).size == (20, 10)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot identify image file"),
        (b"<html>404</html>", "cannot identify image file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify image file"),
        (encoded(Image.new("RGB", (7, 99))), "less than 8 pixels a side"),
        (huge_png(10_000, 10_000), "more than 89 million pixels"),
        (huge_png(100_000, 100_000), "more than 89 million pixels"),
    ],
    ids=["nothing", "a page", "PostScript", "tiny", "a large bomb", "a huge bomb"],
)
def test_what_is_no_picture_is_refused_by_its_header(data: bytes, reason: str) -> None:
    for read in (image_size, decode_image):
        with pytest.raises(Unusable) as caught:
            read(data)
        assert caught.value.reason == reason


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "tiff"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(Unusable):
        decode_image(data[: len(data) // 2])


def test_a_damaged_png_is_refused() -> None:
    data = bytearray(encoded(Image.effect_noise((64, 64), 99)))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(Unusable, match="cannot be decoded"):
        decode_image(bytes(data))


def test_levels_without_a_range_are_refused() -> None:
    with pytest.raises(Unusable, match="levels of 32 bits"):
        decode_image(encoded(picture("F", 0.5), "tiff"))


def test_the_head_of_a_large_file_tells_its_size() -> None:
    data = encoded(Image.effect_noise((500, 400), 99).convert("RGB"), "jpeg", quality=95)
    assert image_size(data[:1024]) == (500, 400)
