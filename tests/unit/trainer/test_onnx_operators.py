"""Each operator against onnxruntime, in a graph of nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from trainer.models.onnx_graph import OnnxNetwork, read_graph
from trainer.models.onnx_operators import OPERATORS

SHAPE = (2, 4, 6, 9)
FLOATS = np.random.default_rng(0).normal(size=(64,)).astype(np.float32)
CASES: list[tuple[str, int, dict[str, Any], list[Any]]] = [
    ("Add", 12, {}, [FLOATS[:9]]),
    ("AveragePool", 12, {"kernel_shape": [3, 2], "strides": [3, 2], "pads": [1, 0, 1, 0]}, []),
    ("AveragePool", 12, {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}, []),
    ("AveragePool", 12, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, []),
    ("BatchNormalization", 12, {"epsilon": 0.1}, [*FLOATS[:12].reshape(3, 4), FLOATS[:4] ** 2]),
    ("Cast", 12, {"to": TensorProto.FLOAT}, []),
    ("Clip", 12, {}, [np.float32(-0.5), np.float32(0.7)]),
    ("Clip", 12, {}, [None, np.float32(0.7)]),
    ("Clip", 7, {"min": -0.5, "max": 0.7}, []),
    ("Concat", 12, {"axis": 1}, [np.ones((2, 1, 6, 9), np.float32)]),
    (
        "Conv",
        12,
        {"group": 2, "strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 1, 2]},
        [(3, 3)],
    ),
    ("Conv", 12, {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2]}, [(3, 2), FLOATS[:4]]),
    ("Conv", 12, {"group": 2, "auto_pad": "SAME_LOWER"}, [(2, 2)]),
    ("Conv", 12, {"group": 2, "auto_pad": "VALID"}, [(1, 3)]),
    ("Conv", 12, {"group": 2, "pads": [0, 1, 2, 3]}, [(2, 2)]),
    ("Div", 12, {}, [np.float32(1.4)]),
    ("Erf", 12, {}, []),
    ("Gather", 12, {"axis": -2}, [np.array([[5, 0], [-1, 2]])]),
    ("Gather", 12, {"axis": 1}, [np.array(3)]),
    ("GlobalAveragePool", 12, {}, []),
    ("HardSigmoid", 12, {"alpha": 1 / 6}, []),
    ("HardSigmoid", 12, {}, []),
    ("HardSwish", 14, {}, []),
    ("Identity", 12, {}, []),
    ("LayerNormalization", 17, {"epsilon": 0.1}, [FLOATS[:9], FLOATS[9:18]]),
    ("LayerNormalization", 17, {"axis": 2}, [FLOATS[:54].reshape(6, 9)]),
    ("MatMul", 12, {}, [FLOATS[:63].reshape(9, 7)]),
    ("MaxPool", 12, {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, []),
    ("MaxPool", 12, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, []),
    ("Mul", 12, {}, [FLOATS[:54].reshape(6, 9)]),
    ("Pow", 12, {}, [np.float32(2)]),
    ("ReduceMean", 12, {"axes": [2, 3]}, []),
    ("ReduceMean", 18, {"keepdims": 0}, [np.array([-1])]),
    ("ReduceMean", 12, {}, []),
    ("Relu", 12, {}, []),
    ("Reshape", 12, {}, [np.array([0, -1, 3])]),
    ("Sigmoid", 12, {}, []),
    ("Slice", 12, {}, [np.array([1, -4]), np.array([2**31 - 1, -1]), np.array([3, 1])]),
    ("Slice", 12, {}, [np.array([0]), np.array([9]), np.array([-1]), np.array([2])]),
    ("Slice", 7, {"axes": [0, 3], "starts": [1, 2], "ends": [2, 8]}, []),
    ("Slice", 7, {"starts": [1, 2], "ends": [2, 3]}, []),
    ("Softmax", 12, {"axis": 3}, []),
    ("Softmax", 13, {}, []),
    ("Sub", 12, {}, [FLOATS[:9]]),
    ("Transpose", 12, {"perm": [2, 0, 3, 1]}, []),
    ("Transpose", 12, {}, []),
    ("Unsqueeze", 12, {"axes": [0, 5]}, []),
    ("Unsqueeze", 13, {}, [np.array([-1, 1])]),
]


def write(path: Path, opset: int, nodes: list[onnx.NodeProto], given: dict[str, Any]) -> Path:
    """A network from x to y."""
    shown = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * 4)
    made = onnx.ValueInfoProto(name="y")
    constants = [numpy_helper.from_array(np.asarray(one), name) for name, one in given.items()]
    graph = helper.make_graph(nodes, "graph", [shown], [made], constants)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def assert_equal(path: Path, pictures: NDArray[np.float32]) -> None:
    """Torch says what onnxruntime says."""
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": pictures})
    (found,) = OnnxNetwork(read_graph(path), ["y"])(torch.from_numpy(pictures))
    assert tuple(found.shape) == expected.shape
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "opset", "attributes", "given"), CASES)
def test_an_operator_is_onnxruntimes(
    kind: str, opset: int, attributes: dict[str, Any], given: list[Any], tmp_path: Path
) -> None:
    if kind == "Conv":  # 4 channels out of 4 in 2 groups, by a window
        window = given[0]
        weight = np.resize(FLOATS, (4, 2, *window))
        given = [weight, *given[1:]]
    constants = {f"c{place}": one for place, one in enumerate(given) if one is not None}
    names = [f"c{place}" if one is not None else "" for place, one in enumerate(given)]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    pictures = np.random.default_rng(1).normal(scale=3, size=SHAPE).astype(np.float32)
    assert_equal(write(tmp_path / "one.onnx", opset, [node], constants), pictures)


def test_sizes_are_computed_as_onnxruntime_computes_them(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Slice", ["sizes", "two", "four"], ["ends"]),
        helper.make_node("Div", ["ends", "minus_two"], ["halves"]),
        helper.make_node("Cast", ["halves"], ["halves32"], to=TensorProto.INT32),
        helper.make_node("Cast", ["halves32"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats"], ["row"], axes=[0]),
        helper.make_node("Squeeze", ["row"], ["line"], axes=[0]),
        helper.make_node("Squeeze", ["row"], ["same"]),
        helper.make_node("Add", ["line", "same"], ["y"]),
    ]
    given = {"two": np.array([2]), "four": np.array([4]), "minus_two": np.array([-2])}
    path = write(tmp_path / "sizes.onnx", 12, nodes, given)
    assert_equal(path, np.zeros((1, 3, 48, 101), np.float32))


def test_a_root_and_a_constant_are_onnxruntimes(tmp_path: Path) -> None:
    half = numpy_helper.from_array(np.float32(0.5))
    nodes = [
        helper.make_node("Constant", [], ["half"], value=half),
        helper.make_node("Constant", [], ["third"], value_float=0.25),
        helper.make_node("Mul", ["half", "third"], ["eighth"]),
        helper.make_node("Pow", ["x", "two"], ["squares"]),
        helper.make_node("Add", ["squares", "eighth"], ["sum"]),
        helper.make_node("Sqrt", ["sum"], ["y"]),
    ]
    path = write(tmp_path / "root.onnx", 12, nodes, {"two": np.float32(2)})
    assert_equal(path, np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))


def test_every_operator_is_compared() -> None:
    elsewhere = {"Shape", "Squeeze", "Sqrt"}
    assert {case[0] for case in CASES} | elsewhere == set(OPERATORS)


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("AveragePool", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, "one side than on"),
        ("Softmax", {"axis": 1}, "a Softmax over axis 1 of 4 is not known"),
        ("Softmax", {}, "a Softmax over axis 1 of 4 is not known"),  # the default before opset 13
    ],
)
def test_what_would_be_wrong_is_refused(
    kind: str, attributes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    node = helper.make_node(kind, ["x"], ["y"], **attributes)
    graph = read_graph(write(tmp_path / "one.onnx", 12, [node], {}))
    with pytest.raises(ValueError, match=message):
        OnnxNetwork(graph, ["y"])(torch.zeros(SHAPE))
