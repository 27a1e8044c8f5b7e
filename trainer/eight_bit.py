"""AdamW's moments in 8 bits, as bitsandbytes keeps them: a code for each value, a scale a block.

A value is `qmap[code] * absmax[block]` (Dettmers et al. 2022). Values that are quantised anew are
not always the codes that they came from, so a checkpoint keeps the codes themselves: ranks that lie
as those that saved it go on to the digit, others within the rounding of 8 bits.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BLOCK = 256  # values that share a scale
NUMBERS = {"exp_avg": "1", "exp_avg_sq": "2"}
"""bitsandbytes' names of the moments end in these."""
PARTS = {"codes": "state", "absmax": "absmax", "qmap": "qmap"}


def is_eight_bit(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is bitsandbytes' AdamW."""
    return type(optimizer).__module__.startswith("bitsandbytes")


def stored(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """What a checkpoint keeps of a moment, by the ending of its kind: .codes, .absmax, .qmap.

    A tensor of few values has no codes, and is kept as it is, without an ending.
    """
    number = NUMBERS[kind]
    if f"absmax{number}" not in state:
        return {"": state[f"state{number}"]}
    return {f".{part}": state[name + number] for part, name in PARTS.items()}


def dequantized(codes: Tensor, absmax: Tensor, qmap: Tensor, first: int) -> Tensor:
    """The values of codes that begin with the `first` one of their tensor: fp32."""
    blocks = torch.arange(first, first + len(codes)) // BLOCK
    return qmap[codes.long()] * absmax[blocks]


def new_state(optimizer: Any, group: int, weight: Tensor, step: int) -> dict[str, Any]:
    """The state that the optimizer makes for a weight, empty, as if after `step` steps."""
    optimizer.init_state(optimizer.param_groups[group], weight, group, 0)
    state: dict[str, Any] = optimizer.state[weight]
    state["step"] = step
    return state


def set_moment(state: dict[str, Any], kind: str, values: Tensor) -> None:
    """Set a moment to fp32 values, quantised anew where there are codes."""
    number = NUMBERS[kind]
    if f"absmax{number}" not in state:
        state[f"state{number}"].view(-1).copy_(values)
        return
    from bitsandbytes.functional import quantize_blockwise

    qmap = state[f"qmap{number}"]
    codes, scales = quantize_blockwise(values.to(qmap.device), code=qmap, blocksize=BLOCK)
    state[f"state{number}"].view(-1).copy_(codes)
    state[f"absmax{number}"].copy_(scales.absmax)


def set_codes(state: dict[str, Any], kind: str, parts: Mapping[str, Tensor]) -> None:
    """Set a moment to what a checkpoint kept of it."""
    for part in ("codes", "absmax"):
        state[PARTS[part] + NUMBERS[kind]].view(-1).copy_(parts[part])
