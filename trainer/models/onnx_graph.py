"""A network out of an ONNX file, run by torch: gradients pass to what it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn

from trainer.models.onnx_operators import OPERATORS

OLDEST_OPSET = 7


class Node(NamedTuple):
    """A step of a graph."""

    kind: str
    """ONNX's name of the operator."""
    inputs: tuple[str, ...]
    """Names of values; empty for one that is left out."""
    output: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """What an ONNX file holds: a network that is shown pictures."""

    path: Path
    nodes: Sequence[Node]
    constants: Mapping[str, Tensor]
    input: str
    height_px: int | None
    """Of the pictures, batch 3 height width; None if any will do."""
    output: str
    metadata: Mapping[str, str]

    def maker(self, name: str) -> Node | None:
        """The node that makes a value, past those that only hand it on; None: an input."""
        makers = {node.output: node for node in self.nodes}
        node = makers.get(name)
        while node is not None and node.kind == "Identity":
            node = makers.get(node.inputs[0])
        return node


class OnnxNetwork(nn.Module):
    """A graph that computes some of its values, its weights frozen.

    ValueError if that takes operators that are not known.
    """

    def __init__(self, graph: Graph, outputs: Sequence[str]) -> None:
        super().__init__()
        self.steps = _steps(graph, outputs)
        if unknown := sorted({node.kind for node, _ in self.steps} - set(OPERATORS)):
            raise ValueError(f"{graph.path} has operators not known here: {', '.join(unknown)}")
        self.input, self.outputs = graph.input, tuple(outputs)
        weights = {name: value for name, value in graph.constants.items() if _is_float(value)}
        self.names = tuple(weights)
        self.weights = nn.ParameterList(nn.Parameter(w, False) for w in weights.values())
        self.integers = {name: v for name, v in graph.constants.items() if name not in weights}

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The values of `outputs`, in the precision of `inputs`."""
        weights = (weight.to(inputs.dtype) for weight in self.weights)
        values = {**dict(zip(self.names, weights, strict=True)), **self.integers}
        values[self.input] = inputs
        for node, done_with in self.steps:
            given = [values[name] if name else None for name in node.inputs]
            values[node.output] = OPERATORS[node.kind](node.attributes, *given)
            for name in done_with:
                del values[name]
        return tuple(values[name] for name in self.outputs)


def read_graph(path: Path) -> Graph:
    """What is in an ONNX file; ValueError if it is none, or is not shown pictures."""
    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise ValueError(f"{path} is no whole ONNX file ({error}): fetch it again") from None
    if not model.graph.node:
        raise ValueError(f"{path} is no whole ONNX file (it has no nodes): fetch it again")
    opset = max((one.version for one in model.opset_import if not one.domain), default=0)
    if opset < OLDEST_OPSET:
        raise ValueError(f"{path} is of ONNX opset {opset}: {OLDEST_OPSET} is the oldest known")
    nodes = [_node(node) for node in model.graph.node]
    if opset < 13:  # where Softmax had another default
        nodes = [_with_axis(node) if node.kind == "Softmax" else node for node in nodes]
    constants = {one.name: _tensor(numpy_helper.to_array(one)) for one in model.graph.initializer}
    constants.update({node.output: _constant(node) for node in nodes if node.kind == "Constant"})
    inputs = [one for one in model.graph.input if one.name not in constants]
    sizes = [size.dim_value for one in inputs for size in one.type.tensor_type.shape.dim]
    if len(inputs) != 1 or len(sizes) != 4:
        raise ValueError(f"{path} is not shown pictures alone: it has {len(inputs)} inputs")
    return Graph(
        path=path,
        nodes=[node for node in nodes if node.kind != "Constant"],
        constants=constants,
        input=inputs[0].name,
        height_px=sizes[2] if sizes[2] > 0 else None,
        output=model.graph.output[0].name,
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _node(node: onnx.NodeProto) -> Node:
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            attributes[name] = value.decode()
    return Node(node.op_type, tuple(node.input), node.output[0], attributes)


def _with_axis(node: Node) -> Node:
    return node._replace(attributes={"axis": 1, **node.attributes})


def _constant(node: Node) -> Tensor:
    ((kind, value),) = node.attributes.items()
    return _tensor(numpy_helper.to_array(value)) if kind == "value" else torch.tensor(value)


def _tensor(array: Any) -> Tensor:
    tensor = torch.from_numpy(array.copy())  # ONNX's own is read-only
    return tensor.float() if _is_float(tensor) else tensor


def _is_float(value: Tensor) -> bool:
    return value.is_floating_point()


def _steps(graph: Graph, outputs: Sequence[str]) -> list[tuple[Node, list[str]]]:
    """The nodes that the outputs need, each with the values that nobody wants after it."""
    needed, steps = set(outputs), []
    for node in reversed(graph.nodes):
        if node.output in needed:
            last_of = set(node.inputs) - needed - set(graph.constants) - {""}
            steps.append((node, sorted(last_of)))
            needed.update(node.inputs)
    return steps[::-1]
