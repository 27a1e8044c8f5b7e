"""A model as a user names it: an export, a whole model, or adapters and what they stand on.

    exports/step-00000160               an export of ours, whatever is in it
    models/sd15                         a diffusers folder, or owner/name in the hub's cache
    model.safetensors                   a single file
    model.safetensors@models/sd15       … and the folder of its configs, if need be
    adapters.safetensors@models/sd15    adapters of kohya, diffusers or PEFT, and their base
    exports/step-00000160*0.7+models/sd15*0.3
                                        the first, its text encoders mixed with those of others

What follows an @ is what the files before it stand on; after a * stands how much a model counts.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cluster.run_folder import MANIFEST, read_manifest
from trainer.models.adapter_files import adapters_in
from trainer.models.digest import blend_digest, model_digest, weights_digest
from trainer.models.lora import LORA_FILE
from trainer.models.shares import shares_in, spelt
from trainer.models.source import Source, find_model


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """What pictures can be made with."""

    path: str
    """The same for any program on any machine that sees its files."""
    name: str
    """For tables."""
    source: Source
    """The whole model."""
    adapters: Path | None = None
    """A file of adapters upon it, or a folder of PEFT's."""
    exports: tuple[Path, ...] = ()
    """What a trainer published of it: to be held against its manifest before it is loaded."""
    blend: tuple["Share", ...] = ()
    """Whose text encoders are mixed when a picture is made, its own first; none: its own alone."""


class Share(NamedTuple):
    """A model in a blend."""

    model: NamedModel
    weight: float


def find_named(named: str) -> NamedModel:
    """What is meant by a name; ValueError says in one line what is missing."""
    shares = [Share(_find_one(name), weight) for name, weight in shares_in(named)]
    return _blended(shares) if shares else _find_one(named)


def _find_one(named: str) -> NamedModel:
    weights, under = _split(named)
    path = Path(weights)
    if (path / MANIFEST).is_file():
        _check_alone(weights, under)
        return _export(path.absolute())
    adapters = adapters_in(path)
    if adapters:
        return _with_base(path, adapters, under)
    source = find_model(weights, under or None) if path.is_file() else find_model(weights)
    if not source.is_file:
        _check_alone(weights, under)
    parts = [source.weights, *([source.config] if source.is_file else [])]
    name = path.name if path.exists() else weights
    return NamedModel(path=_joined(parts), name=name, source=source)


def named_digest(named: str) -> str:
    """SHA-256 over the weights that are meant, and all that they stand on or are mixed with."""
    if shares := shares_in(named):
        return blend_digest((named_digest(name), weight) for name, weight in shares)
    if (Path(named) / MANIFEST).is_file():
        return weights_digest(Path(named))
    found = find_named(named)
    facts = found.source.facts
    return model_digest(Path(str(facts["base"])), facts["base_config"], found.adapters)


def weights_of(named: str) -> str:
    """The path that a name begins with, without what its weights stand on or are mixed with."""
    shares = shares_in(named)
    return _split(shares[0][0] if shares else named)[0]


def short_name(named: str) -> str:
    """A name without the folders of its weights, and without what they stand on."""
    if shares := shares_in(named):
        return spelt((short_name(name), weight) for name, weight in shares)
    return Path(weights_of(named)).name


def _split(named: str) -> tuple[str, str]:
    """Weights, and what they stand on."""
    if Path(named).exists():
        return named, ""
    # An @ may be part of a path too.
    for place in re.finditer("@", named):
        if Path(named[: place.start()]).exists():
            return named[: place.start()], named[place.end() :]
    weights, _, under = named.partition("@")
    return weights, under


def _export(folder: Path) -> NamedModel:
    facts = read_manifest(folder)
    base = facts.get("base")
    source = find_model(str(base), facts.get("base_config")) if base else Source(folder, folder)
    adapters = folder / LORA_FILE if facts.get("kind") in ("lora", "mixed") else None
    if adapters and not adapters.is_file():
        raise ValueError(
            f"export {folder} holds no {LORA_FILE}, and adapters are read from nothing else"
        )
    return NamedModel(
        path=_joined([folder]),
        name=folder.name,
        source=source,
        adapters=adapters,
        exports=(folder,),
    )


def _blended(shares: Sequence[Share]) -> NamedModel:
    first = shares[0].model
    for other, _ in shares[1:]:
        ours, theirs = _encoders(first.source), _encoders(other.source)
        if ours != theirs:
            raise ValueError(
                f"{other.path} cannot be mixed with {first.path}: it has {theirs}, not {ours}"
            )
    return NamedModel(
        path=spelt((share.model.path, share.weight) for share in shares),
        name=spelt((share.model.name, share.weight) for share in shares),
        source=first.source,
        adapters=first.adapters,
        exports=tuple(export for share in shares for export in share.model.exports),
        blend=tuple(shares),
    )


def _encoders(source: Source) -> str:
    """What has to be the same of text encoders whose answers are to be added up."""
    configs = source.text_encoder_configs.items()
    return " and ".join(
        f"a {name} of {facts['max_position_embeddings']} tokens x {facts['hidden_size']}"
        for name, facts in configs
    )


def _with_base(path: Path, adapters: Path, under: str) -> NamedModel:
    if not under:
        raise ValueError(f"{path} holds adapters alone: name their base after an @, {path}@BASE")
    base = find_named(under)
    if base.adapters:
        raise ValueError(f"{path} cannot stand on {under}: it holds adapters too")
    return NamedModel(
        path=f"{_joined([adapters])}@{base.path}",
        name=f"{path.name} on {base.name}",
        source=base.source,
        adapters=adapters,
    )


def _check_alone(weights: str, under: str) -> None:
    if under:
        raise ValueError(
            f"{weights}@{under}: only adapters and single files stand on something else, and "
            f"{weights} is neither"
        )


def _joined(paths: Iterable[Path]) -> str:
    return "@".join(str(path.absolute()) for path in paths)
