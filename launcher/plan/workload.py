"""What a step computes with: weights, forward passes that a gradient goes back through, pictures.

From the recipe and the shapes of the weights, in elements.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from launcher.plan.blocks import Block, Kept, below, blocks_of, decoder_blocks, text_encoder_kept
from launcher.plan.headers import Shapes
from launcher.plan.rewards import reward_judges, rows_of
from launcher.plan.terms import Decoding, Judges, decoding_of, term_judges
from trainer.config import LoraConfig, TrainConfig

# Of a block's width, where a residual block adds up: what came into the block, into this layer, the
# convolution's answer, the sum, and the sum once more, scaled.
ENCODER_TENSORS = 5


class Call(NamedTuple):
    """A forward pass that the gradient goes back through."""

    passes: tuple[tuple[Kept, int], ...]
    """What a row leaves of each block, and how many weights get their gradients there; in order."""
    rows: int = 1
    """For a picture."""
    again: bool = False
    """Computed again as a whole in the backward pass: nothing stays until then."""

    @property
    def stays(self) -> int:
        """Elements of a picture."""
        return self.rows * sum(kept.stays for kept, _ in self.passes)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a step has to compute with: counted in elements, not bytes."""

    trained: int
    """Weights that learn: of adapters, theirs."""
    base: int
    """Frozen weights of networks that have adapters."""
    frozen: int
    """Weights of networks that are only used."""
    calls: tuple[Call, ...]
    """Of the networks that learn, in order."""
    encoding: int
    """What the autoencoder holds at once for a picture."""
    decoding: Decoding | None
    """Of what the UNet has answered; None if nothing looks at pictures of it."""
    judges: Judges


def workload_of(
    config: TrainConfig, networks: Mapping[str, Shapes], height: int, width: int
) -> Workload:
    """Count what `config` makes of a model's networks, with pictures of so many pixels."""
    frozen = trained = base = 0
    for name, shapes in networks.items():
        how = config.how(name)
        numel = sum(map(prod, shapes.values()))
        frozen += numel if how == "frozen" else 0
        base += numel if how == "lora" else 0
        trained += trained_numel(config, name, shapes)
    encoder = blocks_of(below(networks["vae"], "encoder."), height, width)
    widest = max(block.positions * _widest(block) for block in encoder)
    return Workload(
        trained=trained,
        base=base,
        frozen=frozen,
        calls=tuple(_calls(config, networks, height, width)),
        encoding=0 if config.data.cache or config.reward else ENCODER_TENSORS * widest,
        decoding=_decoding(config, networks, height, width),
        judges=_judges(config, networks, height, width),
    )


def trained_numel(config: TrainConfig, name: str, shapes: Shapes) -> int:
    """How many weights of a network learn; of adapters, theirs."""
    if config.how(name) == "full":
        return sum(map(prod, shapes.values()))
    if config.how(name) == "frozen":
        return 0
    rank = (config.lora or LoraConfig()).rank
    layers = [shape for weight, shape in shapes.items() if learns(config, name, weight)]
    return sum(rank * (shape[0] + prod(shape[1:])) for shape in layers if len(shape) > 1)


def learns(config: TrainConfig, name: str, weight: str) -> bool:
    """Whether a network's weight is trained or has an adapter."""
    if config.how(name) != "lora":
        return config.how(name) == "full"
    lora = config.lora or LoraConfig()
    targets = lora.target_modules if name == "unet" else lora.text_encoder_target_modules
    layer = weight.removesuffix(".weight")
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


def latent_scale(networks: Mapping[str, Shapes]) -> int:
    """Pixels per latent, each way."""
    halvings = {n.split(".")[2] for n in networks["vae"] if n.startswith("encoder.down_blocks.")}
    return int(2 ** (len(halvings) - 1))


def caption_tokens(networks: Mapping[str, Shapes]) -> int:
    """Tokens of a caption."""
    tables = [shape for n, shape in networks["text_encoder"].items() if "position_embedding" in n]
    return tables[0][0]


def unet_blocks(networks: Mapping[str, Shapes], height: int, width: int) -> list[Block]:
    """The UNet's blocks for pictures of so many pixels."""
    scale = latent_scale(networks)
    return blocks_of(networks["unet"], height // scale, width // scale, caption_tokens(networks))


def bytes_per_element(config: TrainConfig) -> int:
    """Of what is trained, and of frozen networks beside it."""
    return 2 if config.precision == "bf16" else 4


def _calls(
    config: TrainConfig, networks: Mapping[str, Shapes], height: int, width: int
) -> Iterator[Call]:
    checkpointing, reward = config.speed.gradient_checkpointing, config.reward
    for name, shapes in networks.items():
        if name.startswith("text_encoder") and config.how(name) != "frozen":
            kept = text_encoder_kept(shapes, caption_tokens(networks), checkpointing=checkpointing)
            yield Call(((kept, trained_numel(config, name, shapes)),))
    passes = tuple(_unet_passes(config, networks, height, width))
    if reward is None:
        yield Call(passes)
    else:  # the first that the gradient reaches is the last: there the weights' gradients come
        reached = tuple((kept, 0) for kept, _ in passes)
        for number in range(1, reward.grad_steps + 1):
            here = passes if number == reward.grad_steps else reached
            yield Call(here, rows=rows_of(config), again=reward.checkpoint)


def _unet_passes(
    config: TrainConfig, networks: Mapping[str, Shapes], height: int, width: int
) -> Iterator[tuple[Kept, int]]:
    for block in unet_blocks(networks, height, width):
        kept = block.kept(
            lambda layer: learns(config, "unet", f"{layer}.weight"),
            checkpointing=config.speed.gradient_checkpointing,
        )
        yield kept, trained_numel(config, "unet", block.weights)


def _decoding(
    config: TrainConfig, networks: Mapping[str, Shapes], height: int, width: int
) -> Decoding | None:
    if not config.reward and not config.objective.ocr:
        return None
    scale = latent_scale(networks)
    return decoding_of(decoder_blocks(networks, height // scale, width // scale), height, width)


def _judges(config: TrainConfig, networks: Mapping[str, Shapes], height: int, width: int) -> Judges:
    scale = latent_scale(networks)
    if config.reward is None:
        return term_judges(config, (height // scale, width // scale))
    copied = sum(
        sum(map(prod, shapes.values()))
        for name, shapes in networks.items()
        if name.startswith("text_encoder") and config.text_encoder != "frozen"
    )  # as they were, for the steps that are not learnt through
    return reward_judges(config) + Judges(weights=bytes_per_element(config) * copied)


def _widest(block: Block) -> int:
    return max(shape[0] for shape in block.weights.values())
