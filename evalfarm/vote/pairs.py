"""The pairs of a vote: the key that says which checkpoint's picture is on which side."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import evalfarm.metrics  # noqa: F401  # registers them
from cluster.run_folder import read_json, write_json
from evalfarm.metrics.base import get
from evalfarm.results.record import Scored, labels
from trainer.models.config import NetworksConfig

KEY = "key.json"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two pictures of the same prompt and noise."""

    prompt: int
    sample: int
    text: str
    left: int
    """Number of the checkpoint in the key."""
    right: int
    files: tuple[str, str]
    """Left and right, below the folders of the key."""
    numbers: dict[str, tuple[float, float]]
    """By column, what the metrics say of left and right."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """A vote: its pairs in the order in which they are asked."""

    seed: int
    """Decides which pairs, their order and their sides."""
    suite: str
    checkpoints: list[str]
    """What each is called."""
    folders: list[str]
    """Where each one's pictures are."""
    higher_is_better: dict[str, bool]
    """By column of `numbers`."""
    pairs: list[Pair]

    @property
    def digest(self) -> str:
        """The start of a SHA-256 over it: votes name it, so that no other vote's are counted."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def write(self, folder: Path) -> None:
        """Save it beside the page, for whoever reads the votes."""
        write_json(folder / KEY, asdict(self))


def read_key(folder: Path) -> Key:
    """The key of a vote; ValueError if `folder` holds none."""
    path = folder / KEY
    if not path.is_file():
        raise ValueError(f"{path} does not exist: name the folder that `vote make` wrote")
    found = read_json(path)
    return Key(**{**found, "pairs": [_pair(pair) for pair in found["pairs"]]})


def draw_pairs(sides: Sequence[Scored], *, count: int, seed: int) -> Key:
    """Pairs of pictures that two of the checkpoints both have: `count` of them, or all there are.

    ValueError if the checkpoints were not asked the same, or have no picture in common.
    """
    _check(sides)
    numbers, higher = _numbers(sides)
    pictures = [_pictures(side) for side in sides]
    texts = _texts(sides[0])
    chance = np.random.default_rng(seed)
    places = [
        (place, *order)
        for order in combinations(range(len(sides)), 2)
        for place in sorted(pictures[order[0]].keys() & pictures[order[1]].keys())
    ]
    if not places:
        raise ValueError("the checkpoints have no picture of the same prompt: nothing to vote on")
    pairs = []
    for number in chance.permutation(len(places))[:count]:
        place, *order = places[number]
        left, right = chance.permutation(order).tolist()
        both = numbers[left].get(place, {}), numbers[right].get(place, {})
        pairs.append(
            Pair(
                prompt=place[0],
                sample=place[1],
                text=texts[place[0]],
                left=left,
                right=right,
                files=(pictures[left][place], pictures[right][place]),
                numbers={key: (both[0][key], both[1][key]) for key in both[0] if key in both[1]},
            )
        )
    return Key(
        seed=seed,
        suite=sides[0].record.results["suite"],
        checkpoints=labels(sides),
        folders=[str(side.record.folder.absolute()) for side in sides],
        higher_is_better=higher,
        pairs=pairs,
    )


def _pair(found: dict[str, Any]) -> Pair:
    numbers = {key: tuple(both) for key, both in found["numbers"].items()}
    return Pair(**{**found, "files": tuple(found["files"]), "numbers": numbers})


def _check(sides: Sequence[Scored]) -> None:
    if len({side.row["checkpoint"] for side in sides}) < max(len(sides), 2):
        raise ValueError("name two checkpoints or more, no weights twice")
    for side in sides:
        if side.record.asked != sides[0].record.asked:
            raise ValueError(f"{sides[0].given} and {side.given} were not asked the same")


def _pictures(side: Scored) -> dict[tuple[int, int], str]:
    made = side.record.ledger.pictures(side.row["checkpoint"])
    fillers = side.record.results["filler_prompts"]
    return {(p.prompt, p.sample): p.file for p in made if p.file and p.prompt not in fillers}


def _texts(side: Scored) -> dict[int, str]:
    """By number, what was asked."""
    with (side.record.folder / "pictures.csv").open(newline="") as file:
        return {int(row["prompt_number"]): row["prompt"] for row in csv.DictReader(file)}


def _numbers(
    sides: Sequence[Scored],
) -> tuple[list[dict[tuple[int, int], dict[str, float]]], dict[str, bool]]:
    """By checkpoint and picture its numbers of the columns that are means; their better ends."""
    found: list[dict[tuple[int, int], dict[str, float]]] = [{} for _ in sides]
    higher: dict[str, bool] = {}
    for entry in sides[0].record.results["columns"]:
        columns = get(entry["metric"], NetworksConfig()).columns
        name = next(column.mean_of for column in columns if column.name == entry["column"])
        if not name:
            continue
        higher[entry["key"]] = entry["higher_is_better"]
        for side, numbers in zip(sides, found, strict=True):
            rows = side.rows(entry["rows"])
            values: Any = rows.numbers.get(name, [])
            for prompt, sample, value in zip(rows.prompts, rows.samples, values, strict=True):
                numbers.setdefault((int(prompt), int(sample)), {})[entry["key"]] = float(value)
    return found, higher
