"""Synthetic captioned pictures of words, drawn with real fonts, with everything known about them.

Sample `index` of a config is a pure function of (config, index): the same pixels on every machine
that has the same Pillow, whatever was drawn before it and by whom.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFont

from trainer.data.characters import label_of
from trainer.data.config import WordsConfig

Point = tuple[int, int]

# Every eighth word, chosen by a hash so that adding a word to the list moves no other.
HELD_OUT_SHARE = 8
MARGIN_PX = 4

# Face name in captions -> (package that carries the font, file in it).
FACES = {
    "sans": ("font_source_sans_pro", "SourceSansPro-Bold.ttf"),
    "serif": ("font_source_serif_pro", "SourceSerifPro-Bold.ttf"),
    "round": ("font_fredoka_one", "FredokaOne-Regular.ttf"),
    "book": ("font_caladea", "Caladea-Bold.ttf"),
    "hand": ("font_amatic_sc", "AmaticSC-Bold.ttf"),
}


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word as it was drawn."""

    text: str
    box: tuple[Point, Point, Point, Point]
    """Corners in pixels, clockwise from the top left, as MARIO's ocr.txt has them."""


class Sample(NamedTuple):
    """A picture and its ground truth."""

    image: Image.Image
    """RGB, `height` x `width`."""
    caption: str
    words: list[Word]
    mask: Image.Image
    """Mode L, the size of `image`: 255 where there is ink of a letter, 0 elsewhere."""
    characters: Image.Image | None = None
    """Mode L, the size of `image`: the label (characters.py) of the letter whose ink is there."""


class Style(NamedTuple):
    """The choices that a sample draws by lot."""

    face: str
    ink: str
    paper: str
    background: str


def word_list(split: Literal["train", "held_out"]) -> tuple[str, ...]:
    """The words of the shipped list that are trained on, or those that never are."""
    held_out = split == "held_out"
    return tuple(word for word in _all_words() if _is_held_out(word) == held_out)


def draw_sample(config: WordsConfig, index: int) -> Sample:
    """Sample `index` of the endless series that `config` describes."""
    rng = random.Random(f"letterpress-words/{config.seed}/{index}")
    word = _choose_word(config, rng)
    style = Style(
        rng.choice(config.faces),
        rng.choice(config.inks),
        rng.choice(config.papers),
        rng.choice(config.backgrounds),
    )
    return draw_word(config, word, style, rng)


def draw_word(config: WordsConfig, word: str, style: Style, rng: random.Random) -> Sample:
    """A picture of `word` in `style`; `rng` places it and roughens the paper."""
    size = (config.width, config.height)
    text, font = word.upper(), _fitting_font(style.face, word.upper(), size)
    left, top, right, bottom = font.getbbox(text)
    shift_x = rng.randint(-config.shift_px, config.shift_px)
    shift_y = rng.randint(-config.shift_px, config.shift_px)
    x = round((size[0] - (right - left)) / 2) + shift_x
    y = round((size[1] - (bottom - top)) / 2) + shift_y
    mask, characters = _ink_and_characters(text, font, (x - left, y - top), size)

    ink = mask.copy()
    if config.underline:
        rule_y = min(y + (bottom - top) + 2, size[1] - 2)
        ImageDraw.Draw(ink).line([(x, rule_y), (x + right - left, rule_y)], fill=255)
    image = _paper(style, size, rng)
    image.paste(ImageColor.getrgb(style.ink), mask=ink)
    caption = config.caption.format(
        word=word, ink=style.ink, paper=style.paper, face=style.face, background=style.background
    )
    box = _box(mask)
    return Sample(image, caption, [Word(text=word, box=box)], mask, characters)


def missing_fonts(faces: Sequence[str]) -> list[str]:
    """The packages that the faces need and this environment lacks."""
    packages = {FACES[face][0] for face in faces}
    return sorted(name.replace("_", "-") for name in packages if find_spec(name) is None)


def _choose_word(config: WordsConfig, rng: random.Random) -> str:
    if rng.random() < config.random_words:
        letters = rng.randint(config.min_letters, config.max_letters)
        return "".join(rng.choice(ascii_lowercase) for _ in range(letters))
    return rng.choice(_words_of_length(config.split, config.min_letters, config.max_letters))


@cache
def _all_words() -> tuple[str, ...]:
    return tuple(files("trainer.data").joinpath("words.txt").read_text().split())


def _is_held_out(word: str) -> bool:
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0


@cache
def _words_of_length(
    split: Literal["train", "held_out"], min_letters: int, max_letters: int
) -> tuple[str, ...]:
    words = tuple(w for w in word_list(split) if min_letters <= len(w) <= max_letters)
    if not words:
        raise ValueError(f"no {split} word has {min_letters} to {max_letters} letters")
    return words


@cache
def font_of(face: str, size_px: int) -> ImageFont.FreeTypeFont:
    """A face of FACES, letters about so many pixels high."""
    package, file = FACES[face]
    return ImageFont.truetype(str(Path(str(files(package))) / "files" / file), size_px)


def _fitting_font(face: str, text: str, size: tuple[int, int]) -> ImageFont.FreeTypeFont:
    """The largest size at which the text leaves its margin free."""
    room_x, room_y = size[0] - 2 * MARGIN_PX, size[1] - 2 * MARGIN_PX
    for size_px in range(2 * size[1], 1, -1):
        font = font_of(face, size_px)
        left, top, right, bottom = font.getbbox(text)
        if right - left <= room_x and bottom - top <= room_y:
            return font
    raise ValueError(f"{text!r} does not fit a picture of {size[0]} x {size[1]} pixels")


def _ink_and_characters(
    text: str, font: ImageFont.FreeTypeFont, place: tuple[float, float], size: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """The ink of the text, and the label of the letter that has the most of it in each pixel.

    A letter's ink is what it adds to those before it: so it stands where kerning puts it.
    """
    ink, labels = np.zeros((2, size[1], size[0]), np.uint8)
    most = np.zeros_like(ink)
    for end, letter in enumerate(text, 1):
        drawn = Image.new("L", size, 0)
        ImageDraw.Draw(drawn).text(place, text[:end], font=font, fill=255)
        before, ink = ink, np.asarray(drawn)
        added = np.where(ink > before, ink - before, 0)
        labels[added > most] = label_of(letter)
        most = np.maximum(most, added)
    return Image.fromarray(ink), Image.fromarray(np.where(ink, labels, 0))


def _paper(style: Style, size: tuple[int, int], rng: random.Random) -> Image.Image:
    paper = Image.new("RGB", size, style.paper)
    if style.background == "plain":
        return paper
    if style.background == "gradient":
        ramp = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(size)
        shade = ramp.point([round(level * 0.25) for level in range(256)])
    else:  # speckled
        noise = rng.randbytes(size[0] * size[1])
        shade = Image.frombytes("L", size, noise).point(
            [(level > 235) * 60 for level in range(256)]
        )
    return ImageChops.subtract(paper, Image.merge("RGB", (shade, shade, shade)))


def _box(mask: Image.Image) -> tuple[Point, Point, Point, Point]:
    bounds = mask.getbbox()
    assert bounds is not None, "a word that leaves no ink"
    left, top, right, bottom = bounds
    return ((left, top), (right, top), (right, bottom), (left, bottom))
