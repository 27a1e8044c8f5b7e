"""What a pass through a network costs, from the shapes of its weights: operations, activations.

The names that diffusers gives the weights of UNets and autoencoders tell their order and at what
resolution each of them runs; their shapes tell the rest. Everything is counted for one picture.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import NamedTuple

from launcher.plan.headers import Shapes

Trains = Callable[[str], bool]
"""Whether a layer is trained or has an adapter, by its name."""

# The parts of a UNet or of half an autoencoder, in the order in which they run; "time" is what runs
# once for a picture, whatever its size.
STAGES = ("time", "conv_in", "down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out")
PARTS = ("resnets", "attentions", "downsamplers", "upsamplers")
BLOCK_NAME = re.compile(rf"(?:(?:down|up)_blocks\.\d+|mid_block)\.(?:{'|'.join(PARTS)})\.\d+")
LAYER_NAME = re.compile(r".*\.transformer_blocks\.\d+(?=\.norm1\.weight)")


class Kept(NamedTuple):
    """Elements that autograd keeps of a forward pass."""

    stays: int
    """Until the backward pass is there."""
    again: int
    """What is computed again then, at once; 0 without gradient checkpointing."""


class Unit(NamedTuple):
    """What gradient checkpointing computes again as one, in channels."""

    input: int
    """Kept in any case."""
    rest: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some layers that run at one resolution."""

    name: str
    weights: Shapes
    inputs: int
    """Pixels or latents of what comes in."""
    positions: int
    """Pixels or latents of what goes out: others, where it samples up or down."""
    tokens: int
    """Of the caption; 0 if there is none."""

    @property
    def numel(self) -> int:
        """Its weights."""
        return sum(map(prod, self.weights.values()))

    @property
    def flop(self) -> int:
        """Operations of a forward pass, two for a multiplication and its addition."""
        return sum(
            2 * prod(shape) * self._uses(name) + self._attention(name, shape)
            for name, shape in self.weights.items()
            if len(shape) > 1
        )

    def kept(self, trains: Trains, *, checkpointing: bool) -> Kept:
        """What the backward pass needs.

        A normalization, a SiLU and a GELU keep their input, a product both factors, attention its
        queries, keys, values and answer (never the scores: no kernel that is used keeps them). A
        convolution keeps its input, a linear layer if it `trains`. What two keep is counted once.
        """
        around, units = self._around(trains), list(self._units(trains))
        if not checkpointing:
            return Kept(around + self.positions * sum(map(sum, units)), 0)
        stays = self.positions * sum(unit.input for unit in units)
        return Kept(around + stays, self.positions * max((unit.rest for unit in units), default=0))

    def _around(self, trains: Trains) -> int:
        """Elements that are kept of what checkpointing leaves alone."""
        if ".resnets." in self.name:
            return 0
        # An autoencoder's attention: the normalization's input, and attention's four.
        if f"{self.name}.group_norm.weight" in self.weights:
            return self.positions * self._width("group_norm") * (1 + 4)
        if ".attentions." in self.name:  # the normalization's input, and two layers'
            width = self._width("norm")
            ends = [f"{self.name}.{name}" for name in ("proj_in", "proj_out")]
            kept = sum(len(self.weights[f"{n}.weight"]) == 4 or trains(n) for n in ends)
            return self.positions * width * (1 + kept)
        if self.name == "conv_norm_out":  # and the SiLU behind it
            return 2 * self.positions * self._width("conv_norm_out")
        # An upsampler enlarges before its convolution.
        positions = self.positions if "upsamplers" in self.name else self.inputs
        return sum(positions * shape[1] for shape in self.weights.values() if len(shape) == 4)

    def _units(self, trains: Trains) -> Iterator[Unit]:
        if ".resnets." in self.name:  # norm1, SiLU, conv1, norm2, SiLU, conv2
            width, inner = (self.weights[f"{self.name}.{n}.weight"][1] for n in ("conv1", "conv2"))
            yield Unit(width, 2 * width + 3 * inner)
        for layer in filter(None, map(LAYER_NAME.match, self.weights)):
            yield self._transformer_layer(layer.group(), trains)

    def _transformer_layer(self, name: str, trains: Trains) -> Unit:
        """Three times a normalization and self-attention, cross-attention, or GEGLU."""
        (width,) = self.weights[f"{name}.norm1.weight"]
        gated = self.weights[f"{name}.ff.net.0.proj.weight"][0]
        rest = 3 * width + width  # self-attention's queries, keys, values, answer
        rest += 2 * width + width  # cross-attention's input, queries, answer; its keys are few
        rest += width + gated + gated // 2  # GEGLU: both halves, and the GELU of one
        rest += width * any(trains(f"{name}.attn1.{layer}") for layer in ("to_q", "to_k", "to_v"))
        rest += width * trains(f"{name}.attn2.to_q") + width * trains(f"{name}.ff.net.0.proj")
        rest += gated // 2 * trains(f"{name}.ff.net.2")
        return Unit(width, rest)

    def _width(self, norm: str) -> int:
        name = norm if norm in STAGES else f"{self.name}.{norm}"
        return self.weights[f"{name}.weight"][0]

    def _uses(self, name: str) -> int:
        """How often a weight is used."""
        if "time_emb_proj" in name or self.name == "time":
            return 1
        return self.tokens if re.search(r"attn2\.to_[kv]\.", name) else self.positions

    def _attention(self, name: str, shape: tuple[int, ...]) -> int:
        """Operations of queries times keys, and scores times values."""
        if not name.endswith("to_q.weight"):
            return 0
        keys = self.tokens if "attn2." in name else self.positions
        return 4 * shape[0] * self.positions * keys


def blocks_of(shapes: Shapes, height: int, width: int, tokens: int = 0) -> list[Block]:
    """The blocks of a UNet, or of one half of an autoencoder, in the order in which they run.

    `height` and `width` are of its input: latents of a UNet, pixels of an encoder.
    """
    groups: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, shape in shapes.items():
        groups[_block_name(name)][name] = shape
    blocks, level = [], 0
    for name in sorted(groups, key=_order):
        before, level = level, level + ("downsamplers" in name) - ("upsamplers" in name)
        inputs, positions = (ceil(height / 2**n) * ceil(width / 2**n) for n in (before, level))
        blocks.append(
            Block(
                name=name, weights=groups[name], inputs=inputs, positions=positions, tokens=tokens
            )
        )
    return blocks


def decoder_blocks(networks: Mapping[str, Shapes], height: int, width: int) -> list[Block]:
    """The blocks that make a picture of so many latents of them, of a model's autoencoder."""
    return blocks_of(below(networks["vae"], "decoder."), height, width)


def text_encoder_flop(shapes: Shapes, tokens: int) -> int:
    """Operations of a CLIP text encoder's forward pass over one caption."""
    matrices = [s for n, s in shapes.items() if len(s) == 2 and "embedding" not in n]
    queries = [s[0] for n, s in shapes.items() if n.endswith("q_proj.weight")]
    return sum(2 * prod(shape) * tokens for shape in matrices) + 4 * tokens**2 * sum(queries)


def text_encoder_kept(shapes: Shapes, tokens: int, *, checkpointing: bool) -> Kept:
    """What autograd keeps of a text encoder that is trained, in the same way.

    Of each layer two normalizations' and four layers' inputs, attention's four, and the activation
    between the widest two.
    """
    widths = [s for n, s in shapes.items() if n.endswith("fc1.weight")]
    units = [Unit(width, 8 * width + 3 * wide) for wide, width in widths]
    if not checkpointing:
        return Kept(tokens * sum(map(sum, units)), 0)
    return Kept(
        tokens * sum(unit.input for unit in units), tokens * max(unit.rest for unit in units)
    )


def below(shapes: Shapes, prefix: str) -> Shapes:
    """The weights whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}


def _block_name(name: str) -> str:
    found = BLOCK_NAME.match(name)
    if found:
        return found.group()
    first = name.partition(".")[0]
    return first if first in STAGES else "time"


def _order(name: str) -> tuple[int, int, bool, int, int]:
    """Residual block, attention, residual block …, then what samples up or down."""
    stage, _, rest = name.partition(".")
    numbers = [int(number) for number in re.findall(r"\d+", rest)]
    part = next((n for n, part in enumerate(PARTS) if part in name), 0)
    block = numbers[0] if len(numbers) == 2 else 0
    return STAGES.index(stage), block, part > 1, numbers[-1] if numbers else 0, part
