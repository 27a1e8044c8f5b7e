"""What tuning by rewards computes and holds: which pictures, how many calls of the UNet, judges."""

from math import prod
from pathlib import Path

from launcher.blocks import below
from launcher.headers import Shapes, read_network
from launcher.hub import snapshots
from launcher.terms import FP32, LINES, Judges, recogniser
from trainer.objectives.reward_config import RewardConfig

# The CLIPs of Transformers that see the pictures, by reward and key in `NetworksConfig`; those of
# HPS are pickles, which plan does not open.
CLIPS = {"clip": "clip", "aesthetic": "clip_l14", "pick_score": "pick_score"}
LINEAR = ("proj.weight", "fc1.weight", "fc2.weight")


def rows_of(reward: RewardConfig) -> int:
    """That the UNet is asked for a picture: under guidance also that of the empty caption."""
    return 2 if reward.guidance > 1 else 1


def mean_calls(reward: RewardConfig) -> tuple[float, float]:
    """Of the UNet in an optimizer step, as they are drawn: without a gradient, and with one."""
    first, last = reward.predict_at or (reward.sampler_steps, reward.sampler_steps)
    learnt = ((reward.least_grad_steps or reward.grad_steps) + reward.grad_steps) / 2
    return (first + last) / 2 - learnt, learnt


def reward_judges(reward: RewardConfig) -> Judges:
    """Those of a recipe's rewards; what is only watched keeps nothing."""
    judges = Judges()
    for name in (*reward.rewards, *reward.watched):
        found = _ocr(reward) if name == "ocr" else _clip(name, reward)
        if name in reward.watched:
            found = Judges(weights=found.weights, flop=found.flop / 2, assumed=found.assumed)
        judges += found
    return judges


def _ocr(reward: RewardConfig) -> Judges:
    return recogniser(1 if reward.line == "whole" else LINES, readings=1)


def _clip(name: str, reward: RewardConfig) -> Judges:
    if name not in CLIPS:
        return _not_counted(name, "its network is no CLIP of Transformers")
    given = getattr(reward.networks, CLIPS[name])
    if given is None:
        return _not_counted(name, f"train.reward.networks.{CLIPS[name]} is not set")
    folder = next((f for f in (Path(given), *snapshots(given)) if f.is_dir()), None)
    if folder is None:
        return _not_counted(name, f"{given} is not on this machine")
    try:
        shapes = read_network(folder)
    except ValueError as error:
        return _not_counted(name, str(error))
    return _seen_by(shapes)


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
