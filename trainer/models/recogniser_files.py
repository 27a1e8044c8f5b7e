"""Text recognisers as they lie on the disk: PP-OCR's in ONNX, or transformers'."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cluster.config import read_yaml
from trainer.models.digest import SHORT, files_digest, weights_digest
from trainer.models.networks import MissingNetwork, find_network
from trainer.models.ocr import RECOGNITION, onnx_file
from trainer.models.onnx_graph import Graph, Node, OnnxNetwork, read_graph

HEIGHT_PX = 48
HALF = (0.5, 0.5, 0.5)
TRANSFORMERS_SUFFIX = "_rec"
RGB_FAMILY = "pp_ocrv5"
"""Whose processor in transformers shows red first; that of v6 shows blue first, as PaddleOCR."""


@dataclass(frozen=True, kw_only=True)
class RecogniserFiles:
    """A recogniser as it was read."""

    network: nn.Module
    """Of normalised pictures, batch 3 height width: logits and the features that they are made of,
    batch time classes and batch time dim."""
    characters: tuple[str, ...]
    name: str
    height_px: int = HEIGHT_PX
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    blue_first: bool = True


class TransformersNetwork(nn.Module):
    """A text recogniser of transformers, read at its last layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        *_, self.last = (
            name for name, part in model.named_modules() if isinstance(part, nn.Linear)
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features, in the precision of `inputs`."""
        seen: list[Tensor] = []  # its own output is the softmax, of which small values are lost
        layer = self.model.get_submodule(self.last)
        hook = layer.register_forward_hook(lambda _, given, made: seen.extend((made, *given)))
        floats = {
            name: value.to(inputs.dtype)
            for name, value in self.model.state_dict(keep_vars=True).items()
            if value.is_floating_point()
        }
        try:
            functional_call(self.model, floats, (inputs,))
        finally:
            hook.remove()
        logits, features = seen
        return logits, features


def read_recogniser(path: str | None) -> RecogniserFiles:
    """The recogniser of `load_recogniser`, found and read."""
    if path is None:
        if find_spec("rapidocr") is None:
            raise MissingNetwork(
                "PP-OCRv6's recogniser comes with rapidocr, which is not installed: "
                "pip install rapidocr, or name a recogniser's file or folder"
            )
        path = str(onnx_file(RECOGNITION))
    found = find_network(path)
    if found.is_dir() and (found / "inference.onnx").is_file():
        return _read_onnx(found / "inference.onnx", found.name)
    if found.suffix == ".onnx":
        return _read_onnx(found, found.stem)
    if found.is_dir() and (found / "config.json").is_file():
        return _read_transformers(found, path.rstrip("/").rpartition("/")[2])
    raise ValueError(
        f"{path} is no text recogniser: give an .onnx file of PP-OCR, a folder with "
        "inference.onnx, or a folder of transformers with config.json"
    )


def _read_onnx(path: Path, name: str) -> RecogniserFiles:
    graph = read_graph(path)
    logits, head = _head(graph, path)
    characters, files = _characters_of(graph, path, graph.constants[head.inputs[1]].shape[1])
    return RecogniserFiles(
        network=OnnxNetwork(graph, (logits, head.inputs[0])),
        characters=characters,
        name=f"{name}@{files_digest(files)[:SHORT]}",
        height_px=graph.sizes[2] or HEIGHT_PX,
    )


def _head(graph: Graph, path: Path) -> tuple[str, Node]:
    """The name of the logits, and the MatMul of features and a weight that makes them."""
    softmax = graph.maker(graph.output)
    if softmax is None or softmax.kind != "Softmax":
        kind = softmax.kind if softmax else "its input"
        raise ValueError(
            f"{path} is no text recogniser: it ends in {kind}, not in a Softmax over characters"
        )
    node = graph.maker(softmax.inputs[0])
    if node is not None and node.kind == "Add":  # of the bias
        (made,) = (name for name in node.inputs if name not in graph.constants)
        node = graph.maker(made)
    if node is None or node.kind != "MatMul" or node.inputs[1] not in graph.constants:
        raise ValueError(f"{path} is no text recogniser: no MatMul with a weight makes its classes")
    return softmax.inputs[0], node


def _characters_of(graph: Graph, path: Path, classes: int) -> tuple[tuple[str, ...], list[Path]]:
    """The characters, and the files that all was read from."""
    if "character" in graph.metadata:
        return checked(graph.metadata["character"].split("\n"), classes, path), [path]
    settings = path.with_name("inference.yml")
    if settings.is_file():
        listed = (read_yaml(settings).get("PostProcess") or {}).get("character_dict") or ()
        return checked([str(one) for one in listed], classes, settings), [path, settings]
    dictionary = _dictionary(path)
    listed = dictionary.read_text("utf-8").removesuffix("\n").split("\n")
    return checked(listed, classes, dictionary), [path, dictionary]


def _dictionary(path: Path) -> Path:
    own, texts = path.with_suffix(".txt"), sorted(path.parent.glob("*.txt"))
    if own in texts:
        return own
    if len(texts) == 1:
        return texts[0]
    raise MissingNetwork(
        f"{path} does not say its characters: put its dictionary beside it, as {own.name} or in "
        "inference.yml"
    )


def checked(listed: Sequence[str], classes: int, source: Path) -> tuple[str, ...]:
    """The characters of classes 1 and up.

    PaddleOCR lists them with or without the blank before and the space behind.
    """
    if len(listed) == classes and listed[0] == "blank":
        return tuple(listed[1:])
    if len(listed) == classes - 1:
        return tuple(listed)
    if len(listed) == classes - 2:
        return (*listed, " ")
    raise ValueError(
        f"{source} lists {len(listed)} characters, the network has {classes} classes: it wants "
        f"{classes - 2}, to which the blank and the space come"
    )


def _read_transformers(folder: Path, name: str) -> RecogniserFiles:
    from transformers import AutoConfig, AutoModelForTextRecognition
    from transformers.image_processing_base import ImageProcessingMixin

    kind = AutoConfig.from_pretrained(folder).model_type
    if not kind.endswith(TRANSFORMERS_SUFFIX):
        raise ValueError(f"{folder} is no text recogniser: its config.json says {kind}")
    model = AutoModelForTextRecognition.from_pretrained(folder, dtype=torch.float32)
    settings: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(folder)[0]
    lacking = {"character_list", "image_mean", "image_std"} - set(settings)
    if lacking:
        raise ValueError(f"{folder} does not say {', '.join(sorted(lacking))}: fetch it again")
    return RecogniserFiles(
        network=TransformersNetwork(model),
        characters=checked(settings["character_list"], model.config.head_out_channels, folder),
        name=f"{name}@{weights_digest(folder)[:SHORT]}",
        height_px=settings.get("size", {}).get("height", HEIGHT_PX),
        mean=tuple(settings["image_mean"]),
        std=tuple(settings["image_std"]),
        blue_first=not kind.startswith(RGB_FAMILY),
    )
