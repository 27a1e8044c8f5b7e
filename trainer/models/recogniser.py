"""PP-OCR's text recogniser in torch: what a line of text says, with the gradient to its pixels."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.networks import MissingNetwork, find_network
from trainer.models.ocr import RECOGNITION, onnx_file
from trainer.models.recogniser_files import RecogniserFiles, read_onnx
from trainer.models.recogniser_transformers import read_transformers
from trainer.models.rgb import normalize

BLANK = 0
GREY = 0.5
WIDTH_STEP_PX = 32
"""Crops are padded to a multiple of it. PaddleOCR pads to 320 at least; drawn words are read as
well without that (120 of 120), and the gradient takes 0.6 of the time."""


class Reading(NamedTuple):
    """What the network says of crops."""

    log_probabilities: Tensor
    """fp32, batch time classes; class 0 is CTC's blank."""
    features: Tensor
    """fp32, batch time dim: what the last layer before the classes sees."""


class Recogniser(nn.Module):
    """A recogniser of lines, frozen. Its arithmetic is fp32 under autocast too."""

    def __init__(self, files: RecogniserFiles) -> None:
        super().__init__()
        self.files = files
        self.network = files.network
        # Where a character is listed twice, PaddleOCR was taught the later class.
        self.classes = {one: place for place, one in enumerate(files.characters, start=1)}
        self.eval().requires_grad_(False)

    @property
    def name(self) -> str:
        """The name that these weights and characters bear in metrics."""
        return self.files.name

    @property
    def characters(self) -> tuple[str, ...]:
        """Class k is `characters[k - 1]`."""
        return self.files.characters

    @property
    def height_px(self) -> int:
        """Of the crops that it reads."""
        return self.files.height_px

    def train(self, mode: bool = True) -> "Recogniser":
        """Nothing: what it is part of may be trained, it is not."""
        return super().train(False)

    def forward(self, crops: Tensor) -> Reading:
        """Read RGB crops about 0 to 1, batch 3 height_px width; the gradient reaches them.

        At least one crop, of at least 8 pixels' width.
        """
        assert len(crops), "no crop to read"
        assert crops.shape[2] == self.height_px, f"{crops.shape[2]} pixels, not {self.height_px}"
        weight = next(self.parameters())
        dtype = torch.promote_types(weight.dtype, torch.float32)
        with torch.autocast(crops.device.type, enabled=False):
            shown = crops.flip(1) if self.files.blue_first else crops
            inputs = normalize(shown.to(dtype), self.files.mean, self.files.std)
            logits, features = self.network(inputs)
            return Reading(logits.log_softmax(-1), features)

    def encode(self, text: str) -> list[int] | None:
        """The classes of a text; None if one of its characters is not in the list."""
        classes = [self.classes.get(character) for character in text]
        known = [one for one in classes if one is not None]
        return known if len(known) == len(classes) else None

    def decode(self, reading: Reading) -> list[tuple[str, float]]:
        """The likeliest class at each time, repeats and blanks left out: text and confidence.

        The confidence is the mean of the probabilities of what is left, 0 of an empty text.
        """
        likeliest = reading.log_probabilities.detach().max(dim=-1)
        log_probabilities, classes = likeliest.values.cpu(), likeliest.indices.cpu()
        kept = classes != BLANK
        kept[:, 1:] &= classes[:, 1:] != classes[:, :-1]
        return [
            (
                "".join(self.characters[one - 1] for one in row[mask].tolist()),
                float(logs[mask].exp().mean()) if bool(mask.any()) else 0.0,
            )
            for row, mask, logs in zip(classes, kept, log_probabilities, strict=True)
        ]


def load_recogniser(path: str | None) -> Recogniser:
    """A recogniser from an .onnx file of PP-OCR or a folder of transformers, or the hub's name.

    None is PP-OCRv6 small, which the rapidocr wheel carries. The characters of an ONNX file are in
    its metadata, or beside it in `inference.yml` or a dictionary with a character a line.
    MissingNetwork if it is not on this machine, ValueError if it is no recogniser.
    """
    return Recogniser(_read(path))


def in_batches(crops: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Crops, 3 height_px width, in batches of one width, each with their numbers.

    They are grey to the right. None is padded for another's sake: what is read in it does not hang
    on those beside it.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for number, crop in enumerate(crops):
        groups[-(-crop.shape[-1] // WIDTH_STEP_PX) * WIDTH_STEP_PX].append(number)
    for width, numbers in groups.items():
        group = [crops[number] for number in numbers]
        yield (
            numbers,
            torch.stack([F.pad(crop, (0, width - crop.shape[-1]), value=GREY) for crop in group]),
        )


def _read(path: str | None) -> RecogniserFiles:
    if path is None:
        if find_spec("rapidocr") is None:
            raise MissingNetwork(
                "PP-OCRv6's recogniser comes with rapidocr, which is not installed: "
                "pip install rapidocr, or name a recogniser's file or folder"
            )
        path = str(onnx_file(RECOGNITION))
    found, name = find_network(path), Path(path).name.removesuffix(".onnx")
    if (found / "inference.onnx").is_file():
        return read_onnx(found / "inference.onnx", name)
    if found.suffix == ".onnx":
        return read_onnx(found, name)
    if (found / "config.json").is_file():
        return read_transformers(found, name)
    raise ValueError(
        f"{path} is no text recogniser: give an .onnx file of PP-OCR, a folder with "
        "inference.onnx, or a folder of transformers with config.json"
    )
