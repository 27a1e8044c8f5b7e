"""The synthetic words: varied, seeded, and described truthfully."""

import random

import numpy as np
import pytest
from PIL import ImageChops

from trainer.data.characters import CHARACTERS, label_of
from trainer.data.config import WordsConfig
from trainer.data.words import FACES, Style, draw_sample, draw_word, word_list
from trainer.models.ocr import OcrReader

CONFIG = WordsConfig(samples=1, random_words=0.3)


def test_a_sample_is_a_function_of_config_and_number_alone() -> None:
    first = [draw_sample(CONFIG, number) for number in range(5)]
    again = [draw_sample(CONFIG, number) for number in reversed(range(5))][::-1]
    for one, other in zip(first, again, strict=True):
        assert ImageChops.difference(one.image, other.image).getbbox() is None
        assert (one.caption, one.words) == (other.caption, other.words)


def test_another_seed_draws_others() -> None:
    other = WordsConfig(samples=1, random_words=0.3, seed=1)
    captions = {draw_sample(CONFIG, number).caption for number in range(20)}
    assert captions.isdisjoint(draw_sample(other, number).caption for number in range(20))


def test_samples_vary_in_every_way() -> None:
    samples = [draw_sample(CONFIG, number) for number in range(60)]
    captions = " ".join(sample.caption for sample in samples)
    for choices in (CONFIG.faces, CONFIG.inks, CONFIG.papers):
        assert all(choice in captions for choice in choices)
    assert len({sample.words[0].box for sample in samples}) > 30


@pytest.mark.parametrize("face", list(FACES))
def test_the_mask_is_the_ink_and_the_box_bounds_it(face: str) -> None:
    config = WordsConfig(
        samples=1, faces=(face,), inks=("black",), papers=("white",), backgrounds=("plain",)  # type: ignore[arg-type]
    )  # fmt: skip
    sample = draw_sample(config, 3)
    dark = 255 - np.asarray(sample.image.convert("L")).astype(int)
    assert np.abs(dark - np.asarray(sample.mask)).max() <= 1
    (left, top), _, (right, bottom), _ = sample.words[0].box
    assert sample.mask.getbbox() == (left, top, right, bottom)


@pytest.mark.parametrize("face", list(FACES))
def test_every_pixel_of_ink_has_the_label_of_a_letter_and_no_other_has_one(face: str) -> None:
    config = WordsConfig(samples=1, faces=(face,), random_words=0.5, underline=True)  # type: ignore[arg-type]
    for sample in (draw_sample(config, number) for number in range(20)):
        assert sample.characters is not None
        labels = np.asarray(sample.characters)
        assert np.array_equal(labels > 0, np.asarray(sample.mask) > 0)
        shown = {CHARACTERS[label - 1] for label in np.unique(labels[labels > 0])}
        assert shown == set(sample.words[0].text.upper())


def test_letters_are_labelled_where_kerning_puts_them() -> None:
    style = Style("sans", "black", "white", "plain")
    sample = draw_word(WordsConfig(samples=1, shift_px=0), "ava", style, random.Random(0))
    (left, top), _, (right, bottom), _ = sample.words[0].box
    labels = np.asarray(sample.characters)[top:bottom, left:right]
    a, v = (np.flatnonzero((labels == label_of(letter)).any(axis=0)) for letter in "AV")
    assert v[0] <= a[a < v.mean()][-1]  # the V leans over the foot of the first A
    ink = labels > 0  # the letters are their own mirror images, and so is the word
    assert (labels == labels[:, ::-1])[ink].mean() > 0.9


def test_no_word_is_both_trained_on_and_held_out() -> None:
    train, held_out = set(word_list("train")), set(word_list("held_out"))
    assert train.isdisjoint(held_out)
    assert 0.05 < len(held_out) / len(train | held_out) < 0.2


def test_the_words_are_of_the_split_and_the_lengths_asked_for() -> None:
    config = WordsConfig(samples=1, split="held_out", min_letters=4, max_letters=5)
    words = {draw_sample(config, number).words[0].text for number in range(50)}
    assert words <= set(word_list("held_out"))
    assert {len(word) for word in words} == {4, 5}


def test_ocr_reads_what_the_caption_says() -> None:
    config = WordsConfig(samples=1, backgrounds=("plain",))
    samples = [draw_sample(config, number) for number in range(8)]
    read = OcrReader().read([sample.image for sample in samples])
    texts = [" ".join(line.text for line in lines).lower() for lines in read]
    assert texts == [sample.words[0].text for sample in samples]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption": "{wrod}"}, "caption '{wrod}' can hold {word}"),
        ({"min_letters": 5, "max_letters": 4}, "letters must be 1 or more, not 5 to 4"),
        ({"random_words": 2}, "random_words must be 0 to 1, got 2"),
        ({"faces": ()}, "faces must name at least one"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        WordsConfig(**{"samples": 1} | changes)  # type: ignore[arg-type]
