"""The rewards that a recipe names, their networks loaded."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from trainer.models.networks import MissingNetwork, find_network
from trainer.models.recogniser import load_recogniser
from trainer.objectives.reward_config import RewardConfig
from trainer.objectives.rewards.lines import DetectedLines
from trainer.objectives.rewards.ocr import OcrReward
from trainer.objectives.rewards.reward import Reward
from trainer.objectives.rewards.scorers import (
    Find,
    open_aesthetic,
    open_clip_score,
    open_hps,
    open_pick_score,
)

OPENED_BY: Mapping[str, Callable[[Find, str], Reward]] = {
    "clip": open_clip_score,
    "aesthetic": open_aesthetic,
    "pick_score": open_pick_score,
    "hps_v2": partial(open_hps, network="hps_v2"),
    "hps_v2_1": partial(open_hps, network="hps_v2_1"),
}
"""Those that the farm measures too, by the key in `RewardConfig`."""


def open_rewards(config: RewardConfig, device: torch.device) -> dict[str, Reward]:
    """What a recipe climbs and what it watches, by name; MissingNetwork says what is not there."""
    return {name: _open(name, config, device) for name in (*config.rewards, *config.watched)}


def _open(name: str, config: RewardConfig, device: torch.device) -> Reward:
    if name == "ocr":
        return _open_ocr(config, device)

    def find(network: str) -> Path:
        key = f"train.reward.networks.{network}"
        given = getattr(config.networks, network)
        assert given is not None, key  # the settings refuse that
        with _told_of(name, key):
            return find_network(given)

    return OPENED_BY[name](find, str(device))


def _open_ocr(config: RewardConfig, device: torch.device) -> Reward:
    with _told_of("ocr", "train.reward.recogniser"):
        recogniser = load_recogniser(config.recogniser).to(device)
    return OcrReward(recogniser, DetectedLines() if config.line == "detected" else None)


@contextmanager
def _told_of(reward: str, key: str) -> Iterator[None]:
    """A network that is missing is told with the reward that needs it and the key that names it."""
    try:
        yield
    except MissingNetwork as error:
        raise MissingNetwork(
            f"the reward {reward} needs a network, and {error}: put it there, or set {key}"
        ) from None
