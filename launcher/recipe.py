"""A recipe: everything about a run in one YAML file, checked without torch."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cluster.config import absolute_paths, build, read_yaml, set_keys
from evalfarm.config import EvalConfig
from launcher.slurm.site import SlurmConfig, site_file, site_keys
from trainer.config import TrainConfig, split_batch

Config = TypeVar("Config")
# Of a folder, whose name may have 255 with what is added while it is made.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{,199}")


@dataclass(frozen=True, kw_only=True)
class RanksConfig:
    """How many processes train."""

    nodes: int = 1
    """Machines. On SLURM the job's own number counts."""
    per_node: int = 1
    """Ranks on each: one per GPU. On SLURM the job's GPUs count."""

    def __post_init__(self) -> None:
        if min(self.nodes, self.per_node) < 1:
            raise ValueError(f"nodes and per_node must be at least 1, got {self}")


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """What kind of Ray the run is for (`submit --on ray`)."""

    grows: bool = False
    """Whether it starts nodes when they are asked for; then the run waits for what is not there."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: what is trained, on how many ranks, and how its checkpoints are scored."""

    name: str
    """Of the run: its folder below runs/."""
    train: TrainConfig
    ranks: RanksConfig = field(default_factory=RanksConfig)
    eval: EvalConfig | None = None
    """Scoring while it trains; null: none."""
    slurm: SlurmConfig | None = None
    """How SLURM is asked for nodes (`submit --on slurm`); null: as the site's file says."""
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name!r} must be letters, digits, '.', '_' and '-', at most 200, and "
                "begin with a letter or digit"
            )


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and `key=value` overrides; ValueError in one line for any mistake in it.

    Its paths are made absolute, so that it means the same wherever it is read.
    """
    data = read_yaml(path)
    set_keys(data, overrides)
    return _resolved(data)


def load_slurm_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """As `load_recipe`, with what the site says of its SLURM below what the recipe says."""
    data = read_yaml(path)
    set_keys(data, overrides)
    asked = data.get("slurm") or {}
    if not isinstance(asked, dict):
        raise ValueError(f"slurm takes keys of its own, got {asked!r}")
    return _resolved(data | {"slurm": site_keys(site_file()) | asked})


def check_ranks(recipe: Recipe) -> None:
    """ValueError if the global batch cannot be split over the recipe's ranks."""
    split_batch(recipe.train, recipe.ranks.nodes * recipe.ranks.per_node)


def _resolved(data: dict[str, Any]) -> Recipe:
    recipe = absolute_paths(build(Recipe, data))
    train, evaluation = _absolute_models(recipe.train), recipe.eval
    if evaluation:
        suites = (str(Path(s).absolute()) if Path(s).suffix else s for s in evaluation.suites)
        networks = _absolute_names(evaluation.networks, vars(evaluation.networks))
        evaluation = replace(evaluation, suites=tuple(suites), networks=networks)
    return replace(recipe, train=train, eval=evaluation)


def _absolute_models(train: TrainConfig) -> TrainConfig:
    train = _absolute_names(train, ("model", "model_config"))
    if ocr := train.objective.ocr:
        ocr = _absolute_names(ocr, ("recogniser",))
        train = replace(train, objective=replace(train.objective, ocr=ocr))
    if reward := train.reward:
        networks = _absolute_names(reward.networks, vars(reward.networks))
        reward = replace(_absolute_names(reward, ("recogniser",)), networks=networks)
        train = replace(train, reward=reward)
    return train


def _absolute_names(config: Config, keys: Iterable[str]) -> Config:
    """The config with what these keys name absolute, where that is a path."""
    changes = {key: _absolute(getattr(config, key)) for key in keys}
    return replace(config, **changes)  # type: ignore[type-var]


def _absolute(model: str | None) -> Any:
    """A path from the root; a hub name as it is."""
    if model is None:
        return None
    path = Path(model).expanduser()
    is_path = path.exists() or model.startswith((".", "/", "~"))
    return str(path.absolute()) if is_path else model
