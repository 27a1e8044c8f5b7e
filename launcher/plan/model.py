"""A model as a plan sees it: the shapes of its weights, and the pictures that it learns."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.plan.headers import Shapes, find_folder, network_shapes
from launcher.plan.workload import Workload, latent_scale, workload_of
from trainer.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's networks and the pictures that it is trained on."""

    networks: Mapping[str, Shapes]
    height: int
    width: int
    size_from: str
    """Where the size of the pictures was found."""


def open_model(config: TrainConfig) -> Model:
    """The shapes of the recipe's model, and the size of the pictures that it will see."""
    networks = network_shapes(config.model)
    data, own = config.data, _own_size(config.model) * latent_scale(networks)
    if config.reward:
        size, where = (config.reward.height, config.reward.width), "train.reward"
    elif data.resolution:
        size, where = (data.resolution, data.resolution), "train.data.resolution"
    elif data.words:
        size, where = (data.words.height, data.words.width), "train.data.words"
    else:
        size, where = (own, own), "the model's own; train.data.resolution is not set"
    return Model(networks=networks, height=size[0], width=size[1], size_from=where)


def work_of(config: TrainConfig, model: Model) -> Workload:
    """What a step computes with."""
    return workload_of(config, model.networks, model.height, model.width)


def _own_size(model: str) -> int:
    config = json.loads((find_folder(model) / "unet" / "config.json").read_text())
    size = config["sample_size"]
    return int(max(size) if isinstance(size, list) else size)
