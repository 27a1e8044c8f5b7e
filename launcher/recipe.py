"""A recipe: everything about a run in one YAML file, checked without torch."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from cluster.config import build, read_yaml, set_key
from evalfarm.config import EvalConfig
from trainer.config import TrainConfig, split_batch

Config = TypeVar("Config")


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
class Recipe:
    """A run: what is trained, on how many ranks, and how its checkpoints are scored."""

    name: str
    """Of the run: its folder below runs/."""
    train: TrainConfig
    ranks: RanksConfig = field(default_factory=RanksConfig)
    eval: EvalConfig | None = None
    """Scoring while it trains; null: none."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name {self.name!r} must be letters, digits, '.', '_' and '-'")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and `key=value` overrides; ValueError in one line for any mistake in it.

    Its paths are made absolute, so that it means the same wherever it is read.
    """
    data = read_yaml(path)
    for assignment in overrides:
        set_key(data, assignment)
    return absolute_paths(build(Recipe, data))


def check_ranks(recipe: Recipe) -> None:
    """ValueError if the global batch cannot be split over the recipe's ranks."""
    split_batch(recipe.train, recipe.ranks.nodes * recipe.ranks.per_node)


def check_files(recipe: Recipe) -> None:
    """ValueError if a model or data that the recipe names is not there; before anything starts."""
    model = recipe.train.model
    if not Path(model).is_dir() and not _in_hub_cache(model):
        raise ValueError(
            f"train.model {model!r} is neither a folder nor in the Hugging Face cache "
            f"({_hub_cache()}): give the path of a diffusers folder, or fill the cache"
        )
    if recipe.train.data.words is None and not recipe.train.data.path.is_dir():
        raise ValueError(f"train.data.path {recipe.train.data.path} does not exist")


def absolute_paths(config: Config) -> Config:
    """The config with every path absolute; a model's name that is no folder stays a name."""
    changes: dict[str, Any] = {}
    assert is_dataclass(config)
    for entry in fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, Path):
            changes[entry.name] = value.absolute()
        elif entry.name == "model" and _is_path(value):
            changes[entry.name] = str(Path(value).absolute())
        elif entry.name == "suites":
            changes[entry.name] = tuple(
                str(Path(suite).absolute()) if Path(suite).suffix else suite for suite in value
            )
        elif is_dataclass(value):
            changes[entry.name] = absolute_paths(value)
    return replace(config, **changes)  # type: ignore[type-var]


def _is_path(model: str) -> bool:
    return Path(model).exists() or model.startswith((".", "/", "~"))


def _hub_cache() -> Path:
    """Where huggingface_hub keeps models; the same rule, without importing it."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def _in_hub_cache(model: str) -> bool:
    return (_hub_cache() / f"models--{model.replace('/', '--')}").is_dir()
