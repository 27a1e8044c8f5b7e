"""python -m benchmarks.ocr: pictures of words that are read in a second.

In turns, so that whatever else the machine does slows both alike:

    predict        PaddleOCR.predict, one picture after the other, on all cores as it comes
    letterpress    our readers, one a core in processes of their own, as the farm's scorers are

with the same weights and settings; both must read the same lines. A second on the wall and a second
of a core are both counted. Then what it would save to pool: CPU time of each network for a picture
of a batch and for one alone.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paddleocr import PaddleOCR, TextDetection, TextRecognition
from PIL import Image, ImageDraw, ImageFont

from benchmarks.machine import machine
from trainer.data.config import WordsConfig
from trainer.data.words import draw_sample, word_list
from trainer.models.ocr import DETECTION, RECOGNITION, OcrReader, model_folder

HERE = Path(__file__).parent
CORES = len(os.sched_getaffinity(0))
ROUNDS = 7
BATCH = 8
WORDS = 4
"""Of a large picture, one a line."""
LARGE_PX = 512
PICTURES = {"512x512": 16, "32x96": 64}
COMMON: dict[str, Any] = {"engine": "onnxruntime", "device": "cpu"}

Line = tuple[str, float]
Spent = tuple[float, float]
"""Seconds by the clock on the wall, and of all cores together."""


def main() -> None:
    """Measure, print a table, and write it beside this file."""
    logging.getLogger("paddlex").setLevel(logging.ERROR)
    measured_on = machine()
    with tempfile.TemporaryDirectory() as folder:
        models = {name: str(model_folder(Path(folder), name)) for name in (DETECTION, RECOGNITION)}
        pooling = measure_pooling(models)
        cases = measure_reading(models)
    report = {
        "command": "python -m benchmarks.ocr",
        "unit": f"pictures per second, and per second of a core; median of {ROUNDS} rounds",
        "machine": measured_on,
        "versions": {name: version(name) for name in ("paddleocr", "paddlex", "onnxruntime")},
        "cases": cases,
        "pooling": pooling,
    }
    path = HERE / "results" / "ocr-cpu.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")


def measure_reading(models: dict[str, str]) -> dict[str, Any]:
    """Both sides on pictures of each size."""
    plain = PaddleOCR(
        text_detection_model_name=DETECTION,
        text_detection_model_dir=models[DETECTION],
        text_recognition_model_name=RECOGNITION,
        text_recognition_model_dir=models[RECOGNITION],
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
        **COMMON,
    )
    cases = {}
    with ProcessPoolExecutor(CORES, get_context("spawn")) as readers:
        for name, number in PICTURES.items():
            images = [draw(name, place) for place in range(number)]
            cases[name] = take_turns(plain, readers, images)
            print(name, cases[name])
    return cases


def take_turns(
    plain: PaddleOCR, readers: ProcessPoolExecutor, images: list[Image.Image]
) -> dict[str, Any]:
    """Both read the same pictures, a round each, until all rounds are done."""
    pixels = [blue_green_red(image) for image in images]
    parts = [images[first::CORES] for first in range(CORES)]
    spent: dict[str, list[Spent]] = {"predict": [], "letterpress": []}
    for _ in range(ROUNDS + 1):  # the first one warms up
        start, core = time.perf_counter(), time.process_time()
        theirs = [lines_of(plain.predict(one)[0]) for one in pixels]
        spent["predict"].append((time.perf_counter() - start, time.process_time() - core))
        start = time.perf_counter()
        read = list(readers.map(read_part, parts))
        spent["letterpress"].append((time.perf_counter() - start, sum(s for _, s in read)))
        ours = [read[place % CORES][0][place // CORES] for place in range(len(images))]
        check_same(ours, theirs)
    return {
        "pictures": len(images),
        "lines": sum(map(len, theirs)),
        "pictures_per_s": compare(spent, 0, len(images)),
        "pictures_per_core_s": compare(spent, 1, len(images)),
    }


def compare(spent: Mapping[str, list[Spent]], which: int, pictures: int) -> dict[str, float]:
    """Rates of both sides by one of their two clocks, and the median ratio of the rounds."""
    seconds = {side: [both[which] for both in rounds[1:]] for side, rounds in spent.items()}
    pairs = zip(seconds["predict"], seconds["letterpress"], strict=True)
    rates = {side: pictures / statistics.median(values) for side, values in seconds.items()}
    ratio = statistics.median(theirs / ours for theirs, ours in pairs)
    return {name: round(v, 2) for name, v in (rates | {"letterpress / predict": ratio}).items()}


def measure_pooling(models: dict[str, str]) -> dict[str, dict[str, float]]:
    """Milliseconds of one core's time that each network takes for a picture, alone or pooled."""
    settings = COMMON | {"engine_config": {"intra_op_num_threads": 1}}
    detection = TextDetection(model_name=DETECTION, model_dir=models[DETECTION], **settings)
    recognition = TextRecognition(model_name=RECOGNITION, model_dir=models[RECOGNITION], **settings)
    pages = [blue_green_red(draw("512x512", place)) for place in range(BATCH)]
    crops = [blue_green_red(draw("32x96", place)) for place in range(BATCH)]
    found = {}
    for name, network, inputs in (("find", detection, pages), ("read", recognition, crops)):
        found[name] = {f"batch {size}": milliseconds(network, inputs, size) for size in (1, BATCH)}
        print(name, "a picture takes (ms)", found[name])
    return found


def milliseconds(network: Any, inputs: list[NDArray[np.uint8]], batch: int) -> float:
    """CPU time of each input, the median of the rounds after the first."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        network.predict(inputs, batch_size=batch)
        seconds.append(time.process_time() - start)
    return round(1000 * statistics.median(seconds[1:]) / len(inputs), 1)


@cache
def reader() -> OcrReader:
    """This process's own."""
    return OcrReader()


def read_part(images: list[Image.Image]) -> tuple[list[list[Line]], float]:
    """What this process's reader reads, and the CPU seconds it takes."""
    start = time.process_time()
    read = [[(line.text, line.confidence) for line in lines] for lines in reader().read(images)]
    return read, time.process_time() - start


def lines_of(result: Any) -> list[Line]:
    """Texts and confidences of PaddleOCR's result."""
    return list(zip(result["rec_texts"], map(float, result["rec_scores"]), strict=True))


def check_same(ours: list[list[Line]], theirs: list[list[Line]]) -> None:
    """The same texts in the same order, and confidences alike but for rounding."""
    for mine, other in zip(ours, theirs, strict=True):
        assert [text for text, _ in mine] == [text for text, _ in other], (mine, other)
        assert np.allclose([sure for _, sure in mine], [sure for _, sure in other], atol=1e-4)


def draw(kind: str, place: int) -> Image.Image:
    """A picture of the demo's kind, or a large one with a few words in it."""
    if kind == "32x96":
        return draw_sample(WordsConfig(samples=1), place).image
    rng = np.random.default_rng(place)
    paper = rng.normal(200, 8, (LARGE_PX, LARGE_PX, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(paper)
    brush, font = ImageDraw.Draw(image), ImageFont.load_default(40)
    for number, word in enumerate(rng.choice(word_list("held_out"), WORDS)):
        corner = (int(rng.integers(10, LARGE_PX // 2)), 20 + number * LARGE_PX // WORDS)
        brush.text(corner, str(word), font=font, fill=tuple(map(int, rng.integers(0, 90, 3))))
    return image


def blue_green_red(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels as PaddleOCR takes them."""
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


if __name__ == "__main__":
    main()
