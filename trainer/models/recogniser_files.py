"""What a text recogniser is made of, and PP-OCR's as they lie on the disk: ONNX and characters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cluster.config import read_yaml
from trainer.models.digest import SHORT, files_digest
from trainer.models.networks import MissingNetwork
from trainer.models.onnx_graph import Graph, Node, OnnxNetwork, read_graph

HEIGHT_PX = 48
HALF = (0.5, 0.5, 0.5)


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


def read_onnx(path: Path, name: str) -> RecogniserFiles:
    """A recogniser of PP-OCR, its characters in its metadata or beside it."""
    graph = read_graph(path)
    logits, head = _head(graph)
    characters, files = _listed_by(graph, graph.constants[head.inputs[1]].shape[1])
    return RecogniserFiles(
        network=OnnxNetwork(graph, (logits, head.inputs[0])),
        characters=characters,
        name=f"{name}@{files_digest(files)[:SHORT]}",
        height_px=graph.height_px or HEIGHT_PX,
    )


def _head(graph: Graph) -> tuple[str, Node]:
    """The name of the logits, and the MatMul of features and a weight that makes them."""
    softmax = graph.maker(graph.output)
    if softmax is None or softmax.kind != "Softmax":
        kind = softmax.kind if softmax else "its input"
        raise ValueError(
            f"{graph.path} is no text recogniser: it ends in {kind}, not in a Softmax of characters"
        )
    node = graph.maker(softmax.inputs[0])
    if node is not None and node.kind == "Add":  # of the bias
        (made,) = (name for name in node.inputs if name not in graph.constants)
        node = graph.maker(made)
    if node is None or node.kind != "MatMul" or node.inputs[1] not in graph.constants:
        raise ValueError(f"{graph.path} is no text recogniser: no MatMul makes its classes")
    return softmax.inputs[0], node


def _listed_by(graph: Graph, classes: int) -> tuple[tuple[str, ...], list[Path]]:
    """The characters, and the files that all was read from."""
    path = graph.path
    if "character" in graph.metadata:
        return characters_of(graph.metadata["character"].split("\n"), classes, path), [path]
    settings = path.with_name("inference.yml")
    if settings.is_file():
        listed = (read_yaml(settings).get("PostProcess") or {}).get("character_dict") or ()
        return characters_of([str(one) for one in listed], classes, settings), [path, settings]
    dictionary = _dictionary(path)
    listed = dictionary.read_text("utf-8").removesuffix("\n").split("\n")
    return characters_of(listed, classes, dictionary), [path, dictionary]


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


def characters_of(listed: Sequence[str], classes: int, source: Path) -> tuple[str, ...]:
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
