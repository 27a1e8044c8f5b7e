"""What tuning by rewards computes and holds: which pictures, how many calls of the UNet, judges."""

from functools import cache
from math import prod
from pathlib import Path

from launcher.hub import main_snapshot
from launcher.plan.blocks import below
from launcher.plan.headers import Shapes, read_network
from launcher.plan.terms import (
    CROP_WIDTH_PX,
    FP32,
    LINES,
    Judges,
    crop_width_px,
    recogniser,
)
from trainer.config import TrainConfig

# The CLIPs of Transformers that see the pictures, by reward and key in `NetworksConfig`; those of
# HPS are pickles, which plan does not open.
CLIPS = {"clip": "clip", "aesthetic": "clip_l14", "pick_score": "pick_score"}
LINEAR = ("proj.weight", "fc1.weight", "fc2.weight")


def rows_of(config: TrainConfig) -> int:
    """That the UNet is asked for a picture: under guidance also that of the empty caption."""
    return 2 if config.reward and config.reward.guidance > 1 else 1


def mean_calls(config: TrainConfig) -> tuple[float, float]:
    """Of the UNet in an optimizer step, as they are drawn: without a gradient, and with one."""
    reward = config.reward
    if reward is None:
        return 0.0, 1.0
    first, last = reward.predict_at or (reward.sampler_steps, reward.sampler_steps)
    learnt = ((reward.least_grad_steps or reward.grad_steps) + reward.grad_steps) / 2
    return (first + last) / 2 - learnt, learnt


def reward_judges(config: TrainConfig) -> Judges:
    """Those of a recipe's rewards; what is only watched keeps nothing."""
    reward, judges = config.reward, Judges()
    if reward is None:
        return judges
    for name in (*reward.rewards, *reward.watched):
        if name == "ocr":
            found = _read(config)
        elif name in CLIPS:
            found = _clip(name, getattr(reward.networks, CLIPS[name]))
        else:
            found = _not_counted(name, "its network is no CLIP of Transformers")
        if name in reward.watched:
            found = Judges(weights=found.weights, flop=found.flop / 2, assumed=found.assumed)
        judges += found
    return judges


def _read(config: TrainConfig) -> Judges:
    reward = config.reward
    if reward and reward.line == "whole":
        return recogniser(1, crop_width_px(reward.height, reward.width), readings=1)
    return recogniser(LINES, CROP_WIDTH_PX, readings=1)


def _clip(name: str, given: str | None) -> Judges:
    if given is None:
        return _not_counted(name, f"train.reward.networks.{CLIPS[name]} is not set")
    folder = Path(given) if Path(given).is_dir() else main_snapshot(given)
    if folder is None or not folder.is_dir():
        return _not_counted(name, f"{given} is not on this machine")
    try:
        shapes = _shapes_in(folder)
    except ValueError as error:
        return _not_counted(name, str(error))
    return _seen_by(shapes)


@cache  # a page counts its work again and again
def _shapes_in(folder: Path) -> Shapes:
    return read_network(folder)


def _not_counted(name: str, why: str) -> Judges:
    return Judges(assumed=(f"the reward {name} is not counted: {why}",))


def _seen_by(shapes: Shapes) -> Judges:
    """A CLIP's whole weights, and one pass of its vision tower.

    Frozen: of each layer two normalizations' inputs, attention's four, and the activation's two;
    before them the pixels and a normalization's input.
    """
    tower = below(shapes, "vision_model.")
    tokens = tower["embeddings.position_embedding.weight"][0]
    widths = [shape for name, shape in tower.items() if name.endswith("fc1.weight")]
    patch = tower["embeddings.patch_embedding.weight"]
    kept = (tokens - 1) * prod(patch[1:]) + tokens * patch[0]
    kept += tokens * sum(6 * width + 2 * wide for wide, width in widths)
    matrices = sum(prod(shape) for name, shape in tower.items() if name.endswith(LINEAR))
    attention = 4 * tokens**2 * sum(width for _, width in widths)
    return Judges(
        weights=FP32 * sum(map(prod, shapes.values())),
        kept=FP32 * kept,
        flop=2.0 * (2 * tokens * matrices + attention),
    )
