"""PP-OCR that needs no download: the weights that the rapidocr wheel carries, run by PaddleOCR.

paddleocr reads a folder with `inference.onnx` and `inference.yml` for each of its two networks; the
wheel has the ONNX files, and their settings (those of PP-OCRv6 small) are written here.
"""

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.models.digest import SHORT, files_digest

DETECTION, RECOGNITION = "PP-OCRv6_small_det", "PP-OCRv6_small_rec"
ONNX_FILES = {DETECTION: "PP-OCRv6_det_small.onnx", RECOGNITION: "PP-OCRv6_rec_small.onnx"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of text as it was read."""

    text: str
    confidence: float
    """0 to 1."""
    polygon: list[list[int]]
    """Corners in pixels, clockwise from the top left."""


class OcrReader:
    """Finds and reads text in pictures, on one core. Not for several threads at once.

    Nearly all its time goes into the two networks, which take as long for a picture in a batch of
    eight as for one alone, so pictures are read one by one; more cores are more readers.
    """

    def __init__(self) -> None:
        # Else every start asks four hosts whether they are there.
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
        from paddleocr import PaddleOCR

        logging.getLogger("paddlex").setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as folder:
            self._ocr = PaddleOCR(
                text_detection_model_name=DETECTION,
                text_detection_model_dir=str(model_folder(Path(folder), DETECTION)),
                text_recognition_model_name=RECOGNITION,
                text_recognition_model_dir=str(model_folder(Path(folder), RECOGNITION)),
                # These would turn and unwarp a page; a picture is to be read as it is.
                use_doc_orientation_classify=False,
                use_doc_unwarping=False,
                use_textline_orientation=False,
                engine="onnxruntime",
                # Of `cpu_threads` PaddleOCR tells this engine nothing: each network would take all
                # cores, and wait for them spinning.
                engine_config={"intra_op_num_threads": 1},
                device="cpu",
            )

    def read(self, images: Sequence[Image.Image]) -> list[list[Line]]:
        """The lines in each RGB picture, from the top down."""
        return [self._read_one(image) for image in images]

    def _read_one(self, image: Image.Image) -> list[Line]:
        blue_green_red = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
        (result,) = self._ocr.predict(blue_green_red)
        if "error" in result:
            raise RuntimeError(f"PaddleOCR: {result['error']}")
        return [
            Line(text=text, confidence=float(score), polygon=np.asarray(polygon).tolist())
            for text, score, polygon in zip(
                result["rec_texts"], result["rec_scores"], result["rec_polys"], strict=True
            )
        ]


@cache
def ocr_name() -> str:
    """The name that these weights bear in metrics; they are read once a process."""
    return f"ppocrv6-small@{files_digest(onnx_file(name) for name in ONNX_FILES)[:SHORT]}"


def missing_ocr() -> str | None:
    """Why there is no OCR here, and what to do; None if there is."""
    lacking = [name for name in ("paddleocr", "onnxruntime", "rapidocr") if find_spec(name) is None]
    return f"not installed: pip install {' '.join(lacking)}" if lacking else None


def onnx_file(name: str) -> Path:
    """Where the wheel has a network, DETECTION or RECOGNITION; rapidocr must be installed."""
    spec = find_spec("rapidocr")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / ONNX_FILES[name]


def model_folder(parent: Path, name: str) -> Path:
    """Make the folder below `parent` that PaddleOCR reads a network from."""
    folder = parent / name
    folder.mkdir()
    (folder / "inference.onnx").symlink_to(onnx_file(name))
    settings = _detection_settings() if name == DETECTION else _recognition_settings()
    # JSON is YAML, and 18,708 characters are written faster so.
    text = json.dumps({"Global": {"model_name": name}, **settings}, ensure_ascii=False)
    (folder / "inference.yml").write_text(text)
    return folder


def _detection_settings() -> dict[str, Any]:
    normalize = {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "order": "hwc",
        "scale": "1./255.",
    }
    return {
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"DetResizeForTest": {"resize_long": 960}},
                {"NormalizeImage": normalize},
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {
            "name": "DBPostProcess",
            "thresh": 0.3,
            "box_thresh": 0.6,
            "max_candidates": 1000,
            "unclip_ratio": 1.5,
        },
    }


def _recognition_settings() -> dict[str, Any]:
    from onnxruntime import InferenceSession

    session = InferenceSession(onnx_file(RECOGNITION), providers=["CPUExecutionProvider"])
    characters = session.get_modelmeta().custom_metadata_map["character"].split("\n")
    return {
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"RecResizeImg": {"image_shape": [3, 48, 320]}},
            ]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": characters},
    }
