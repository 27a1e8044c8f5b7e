"""ONNX's operators over torch: those that text recognisers are made of.

Each is called with a node's attributes and its inputs, None for one that is left out, and follows
onnx.ai/onnx/operators from opset 7 on: what is an attribute there became an input later. Integers
are sizes and places, and stay on the CPU wherever the pictures are.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attributes = Mapping[str, Any]
KINDS = {
    1: torch.float32,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}
"""Of numbers, as ONNX counts them."""


def _average_pool(attributes: Attributes, maps: Tensor) -> Tensor:
    window, strides = attributes["kernel_shape"], _strides(attributes, 2)
    maps, padding = _pad(attributes, maps, window)
    if padding is None:
        raise ValueError("an AveragePool that pads more on one side than on the other is not known")
    ceil_mode, counted = attributes.get("ceil_mode", 0), attributes.get("count_include_pad", 0)
    return F.avg_pool2d(maps, window, strides, padding, bool(ceil_mode), bool(counted))


def _batch_normalization(
    attributes: Attributes, maps: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    return F.batch_norm(maps, mean, var, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _cast(attributes: Attributes, value: Tensor) -> Tensor:
    kind = KINDS[attributes["to"]]
    # The precision is that of the pictures, which the file does not know.
    is_precision = kind.is_floating_point and value.is_floating_point()
    return value if is_precision else value.to(kind)


def _clip(
    attributes: Attributes, value: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    if low is None and high is None:
        return value.clamp(attributes.get("min"), attributes.get("max"))
    return value.clamp(low, high)


def _convolution(
    attributes: Attributes, maps: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    window = weight.shape[2:]
    maps, padding = _pad(attributes, maps, window)
    convolve = {1: F.conv1d, 2: F.conv2d}[len(window)]
    strides, dilations = _strides(attributes, len(window)), _dilations(attributes, len(window))
    groups = attributes.get("group", 1)
    return convolve(maps, weight, bias, strides, padding or 0, dilations, groups)


def _divide(_: Attributes, one: Tensor, other: Tensor) -> Tensor:
    return one / other if one.is_floating_point() else one.div(other, rounding_mode="trunc")


def _gather(attributes: Attributes, value: Tensor, places: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % value.ndim
    rows = (places.flatten() % value.shape[axis]).to(value.device)
    shape = (*value.shape[:axis], *places.shape, *value.shape[axis + 1 :])
    return value.index_select(axis, rows).reshape(shape)


def _hard_sigmoid(attributes: Attributes, value: Tensor) -> Tensor:
    line: Tensor = attributes.get("alpha", 0.2) * value + attributes.get("beta", 0.5)
    return line.clamp(0, 1)


def _layer_normalization(
    attributes: Attributes, value: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    shape = value.shape[attributes.get("axis", -1) :]
    return F.layer_norm(value, shape, scale, bias, attributes.get("epsilon", 1e-5))


def _max_pool(attributes: Attributes, maps: Tensor) -> Tensor:
    window, strides = attributes["kernel_shape"], _strides(attributes, 2)
    maps, padding = _pad(attributes, maps, window, float("-inf"))
    ceil_mode = bool(attributes.get("ceil_mode", 0))
    return F.max_pool2d(maps, window, strides, padding or 0, _dilations(attributes, 2), ceil_mode)


def _reduce_mean(attributes: Attributes, value: Tensor, axes: Tensor | None = None) -> Tensor:
    over = _integers(attributes, "axes", axes)
    return value.mean(over or tuple(range(value.ndim)), bool(attributes.get("keepdims", 1)))


def _reshape(_: Attributes, value: Tensor, shape: Tensor) -> Tensor:
    # 0 is the size that was there.
    return value.reshape([size or value.shape[axis] for axis, size in enumerate(shape.tolist())])


def _shape(attributes: Attributes, value: Tensor) -> Tensor:
    return torch.tensor(value.shape[attributes.get("start", 0) : attributes.get("end")])


def _slice(attributes: Attributes, value: Tensor, *given: Tensor) -> Tensor:
    starts, ends, axes, steps = (
        _integers(attributes, name, given[place] if place < len(given) else None)
        for place, name in enumerate(("starts", "ends", "axes", "steps"))
    )
    parts = [slice(None)] * value.ndim
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[place] if steps else 1
        parts[axes[place] if axes else place] = slice(start, end, step)
    return value[tuple(parts)]


def _softmax(attributes: Attributes, value: Tensor) -> Tensor:
    axis = attributes.get("axis", -1) % value.ndim
    if axis != value.ndim - 1:  # before opset 13 this meant all axes from there on
        raise ValueError(f"a Softmax over axis {axis} of {value.ndim} is not known: only the last")
    return value.softmax(axis)


def _squeeze(attributes: Attributes, value: Tensor, axes: Tensor | None = None) -> Tensor:
    gone = _integers(attributes, "axes", axes)
    return value.squeeze(gone) if gone else value.squeeze()


def _transpose(attributes: Attributes, value: Tensor) -> Tensor:
    return value.permute(attributes.get("perm", tuple(reversed(range(value.ndim)))))


def _unsqueeze(attributes: Attributes, value: Tensor, axes: Tensor | None = None) -> Tensor:
    new = _integers(attributes, "axes", axes)
    for axis in sorted(axis % (value.ndim + len(new)) for axis in new):
        value = value.unsqueeze(axis)
    return value


OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "Add": lambda _, one, other: one + other,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda attributes, *values: torch.cat(values, attributes["axis"]),
    "Conv": _convolution,
    "Div": _divide,
    "Erf": lambda _, value: value.erf(),
    "Gather": _gather,
    "GlobalAveragePool": lambda _, maps: maps.mean(tuple(range(2, maps.ndim)), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda _, value: F.hardswish(value),
    "Identity": lambda _, value: value,
    "LayerNormalization": _layer_normalization,
    "MatMul": lambda _, one, other: one @ other,
    "MaxPool": _max_pool,
    "Mul": lambda _, one, other: one * other,
    "Pow": lambda _, base, exponent: base**exponent,
    "ReduceMean": _reduce_mean,
    "Relu": lambda _, value: value.relu(),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": lambda _, value: value.sigmoid(),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sqrt": lambda _, value: value.sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda _, one, other: one - other,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def _integers(attributes: Attributes, name: str, given: Tensor | None) -> tuple[int, ...]:
    return tuple(attributes.get(name, ()) if given is None else given.tolist())


def _strides(attributes: Attributes, axes: int) -> list[int]:
    return list(attributes.get("strides", [1] * axes))


def _dilations(attributes: Attributes, axes: int) -> list[int]:
    return list(attributes.get("dilations", [1] * axes))


def _pad(
    attributes: Attributes, maps: Tensor, window: torch.Size | list[int], value: float = 0
) -> tuple[Tensor, list[int] | None]:
    """Padding that the operator may do itself; None where it is uneven and done here."""
    before, after = _paddings(attributes, maps.shape[2:], window)
    if before == after:
        return maps, before
    # F.pad begins with the last axis.
    pairs = [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
    return F.pad(maps, pairs, value=value), None


def _paddings(
    attributes: Attributes, sizes: torch.Size, window: torch.Size | list[int]
) -> tuple[list[int], list[int]]:
    """What is added before and after each axis."""
    axes, automatic = len(window), attributes.get("auto_pad", "NOTSET")
    if automatic in ("NOTSET", "VALID"):
        pads = attributes.get("pads", [0] * 2 * axes) if automatic == "NOTSET" else [0] * 2 * axes
        return list(pads[:axes]), list(pads[axes:])
    strides, dilations = _strides(attributes, axes), _dilations(attributes, axes)
    totals = [
        max((ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        for size, stride, width, dilation in zip(sizes, strides, window, dilations, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if automatic == "SAME_UPPER" else (more, less)
