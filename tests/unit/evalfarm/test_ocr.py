"""OCR metrics against cases worked out by hand from MARIO-Eval's definition."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paddleocr import PaddleOCR
from PIL import Image, ImageDraw, ImageFont

from evalfarm.metrics.base import Asked, Batch
from evalfarm.metrics.ocr import Ocr
from evalfarm.metrics.reading import f1
from evalfarm.networks import Networks
from evalfarm.rows import NO_ROWS
from evalfarm.suite import quoted_words
from tests.unit.evalfarm.conftest import rows_of
from trainer.models.config import NetworksConfig
from trainer.models.ocr import DETECTION, RECOGNITION, Line, OcrReader, model_folder

OCR = Ocr("ppocrv6-small", NetworksConfig())


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("A sign that says 'Keep OUT'", ["keep", "out"]),
        ("'one' and 'two'", ["one", "two"]),
        ("no text at all", []),
        ("''", []),
    ],
)
def test_the_words_asked_for_stand_in_single_quotes(prompt: str, words: list[str]) -> None:
    assert quoted_words(prompt) == words


class Read:
    """An OCR that has read these lines, a text for each picture."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def read(self, images: list[Image.Image]) -> list[list[Line]]:
        return [[Line(text=text, confidence=1.0, polygon=[])] for text in self.texts]


def summary_of(read_and_asked: list[tuple[str, str]]) -> dict[str, float]:
    networks = Networks(NetworksConfig())
    networks.keep("ocr", lambda: Read(*(read for read, _ in read_and_asked)))
    image = Image.new("RGB", (8, 8))
    asked = [Asked(image=image, words=tuple(words.split())) for _, words in read_and_asked]
    return OCR.summarize(
        rows_of([seen.numbers for seen in OCR.look(Batch(asked, networks))]), NO_ROWS
    )


def test_f1_is_that_of_the_mean_precision_and_recall() -> None:
    # MARIO's table: F of the averages, not the average of F.
    summary = summary_of([("a b c d", "a"), ("e", "e f")])  # P 1/4 and 1, R 1 and 1/2
    precision, recall = 5 / 8, 3 / 4
    assert summary["precision"] == pytest.approx(precision)
    assert summary["recall"] == pytest.approx(recall)
    assert summary["f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_micro_counts_the_words_of_all_pictures_together() -> None:
    summary = summary_of([("a b c d", "a"), ("e", "e f")])  # 2 right of 5 read and 3 asked
    assert summary["micro_precision"] == pytest.approx(2 / 5)
    assert summary["micro_recall"] == pytest.approx(2 / 3)
    assert summary["micro_f1"] == pytest.approx(2 * 2 / (5 + 3))


def test_sentence_accuracy_wants_the_order_that_accuracy_forgets() -> None:
    summary = summary_of([("Hello World", "hello world"), ("world hello", "hello world")])
    assert summary["accuracy"] == 1
    assert summary["sentence_accuracy"] == 0.5


def test_the_character_error_rate_is_over_all_characters_and_may_exceed_one() -> None:
    # kitten to sitting: 3 of 7. "a" to "abcdef": 5 of 1.
    assert summary_of([("kitten", "sitting")])["cer"] == pytest.approx(3 / 7)
    assert summary_of([("abcdef", "a")])["cer"] == 5
    assert summary_of([("kitten", "sitting"), ("abcdef", "a")])["cer"] == pytest.approx(8 / 8)


def test_a_prompt_without_words_has_no_sentence_but_counts_for_the_words() -> None:
    with_words, mixed = summary_of([("hi", "hi")]), summary_of([("hi", "hi"), ("stray", "")])
    for name in ("sentence_accuracy", "cer"):
        assert mixed[name] == with_words[name]
    assert mixed["precision"] == pytest.approx(0.5)
    assert mixed["micro_precision"] == pytest.approx(0.5)
    assert not {"sentence_accuracy", "cer"} & set(summary_of([("stray", "")]))


def test_the_published_f1_follows_from_the_published_means() -> None:
    # TextDiffuser's table, OCR by MaskTextSpotter v3: P .7795, R .7498, F .7643.
    assert f1(0.7795, 0.7498) == pytest.approx(0.7643, abs=1e-4)


@pytest.fixture(scope="module")
def draw() -> Callable[[str], Image.Image]:
    def draw_text(text: str) -> Image.Image:
        image = Image.new("RGB", (512, 512), "white")
        font = ImageFont.load_default(64)
        ImageDraw.Draw(image).text((40, 200), text, font=font, fill="black")
        return image

    return draw_text


def test_real_ocr_reads_real_pictures(draw: Callable[[str], Image.Image]) -> None:
    words = ("hello", "world")
    batch = [
        Asked(image=draw("Hello World"), words=words),
        Asked(image=draw("Hello Word"), words=words),
        Asked(image=Image.new("RGB", (512, 512), "white"), words=("hello",)),
    ]
    right, wrong, blank = OCR.look(Batch(batch, Networks(NetworksConfig())))
    for name in ("precision", "recall", "accuracy", "ned", "sentence_right"):
        assert right.numbers[name] == pytest.approx(1, abs=1e-7)
    assert wrong.detail["read"] == "hello word"
    assert wrong.numbers["precision"] == pytest.approx(0.5)
    assert wrong.numbers["ned"] == pytest.approx(1 - 1 / 11)
    assert blank.detail == {"read": "", "lines": []}
    for name in ("precision", "recall", "accuracy", "ned", "words_read", "sentence_right"):
        assert blank.numbers[name] == 0


def test_the_reader_reads_the_lines_that_the_plain_pipeline_reads(
    draw: Callable[[str], Image.Image], tmp_path: Path
) -> None:
    texts = (
        "paper",
        "Two words",
        "two\nlines",
        "42 %",
        "a longer line",
        "",
        "x",
        "MiXeD",
        "é",
        "it's",
    )
    images = [draw(text) for text in texts]
    plain = PaddleOCR(  # with the same weights, and nothing else set
        text_detection_model_name=DETECTION,
        text_detection_model_dir=str(model_folder(tmp_path, DETECTION)),
        text_recognition_model_name=RECOGNITION,
        text_recognition_model_dir=str(model_folder(tmp_path, RECOGNITION)),
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
        engine="onnxruntime",
    )
    for lines, image in zip(OcrReader().read(images), images, strict=True):
        (expected,) = plain.predict(np.asarray(image)[:, :, ::-1])
        assert [line.text for line in lines] == expected["rec_texts"]
        assert [line.confidence for line in lines] == pytest.approx(
            expected["rec_scores"], abs=1e-4
        )
