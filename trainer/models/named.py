"""A model as a user names it: an export, a whole model, or adapters and what they stand on.

    exports/step-00000160               an export of ours, whatever is in it
    models/sd15                         a diffusers folder, or owner/name in the hub's cache
    model.safetensors                   a single file
    model.safetensors@models/sd15       … and the folder of its configs, if need be
    adapters.safetensors@models/sd15    adapters of kohya, diffusers or PEFT, and their base

What follows an @ is what the files before it stand on.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.run_folder import MANIFEST, read_manifest
from trainer.models.digest import model_digest, weights_digest
from trainer.models.lora import LORA_FILE
from trainer.models.source import INDEX, Source, find_model
from trainer.models.untrusted import tensors_of

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# How the first half of a pair of adapter matrices ends, in all three layouts and older ones.
ADAPTER = re.compile(r"lora(_A|_down|\.down|_linear_layer\.down)\.")


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
    is_export: bool = False


def find_named(named: str) -> NamedModel:
    """What is meant by a name; ValueError says in one line what is missing."""
    weights, under = _split(named)
    path = Path(weights)
    if (path / MANIFEST).is_file():
        _check_alone(weights, under)
        return _export(path)
    adapters = _adapters_in(path)
    if adapters:
        return _with_base(path, adapters, under)
    source = find_model(weights, under or None) if path.is_file() else find_model(weights)
    if not source.is_file:
        _check_alone(weights, under)
    parts = [source.weights, *([source.config] if source.is_file else [])]
    name = path.name if path.exists() else weights
    return NamedModel(path=_joined(parts), name=name, source=source)


def named_digest(named: str) -> str:
    """SHA-256 over the weights that are meant, and over all that they stand on."""
    if (Path(named) / MANIFEST).is_file():
        return weights_digest(Path(named))
    found = find_named(named)
    facts = found.source.facts
    return model_digest(Path(str(facts["base"])), facts["base_config"], found.adapters)


def weights_of(named: str) -> str:
    """The path that a name begins with, without what its weights stand on."""
    return _split(named)[0]


def adapter_layers_in(tensors: Iterable[str]) -> int:
    """How many layers the adapters of these names change."""
    return sum(bool(ADAPTER.search(name)) for name in tensors)


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
        path=_joined([folder]), name=folder.name, source=source, adapters=adapters, is_export=True
    )


def _adapters_in(path: Path) -> Path | None:
    """The file or PEFT folder of adapters that a path is, if it is one."""
    if (path / PEFT_CONFIG).is_file():
        if not (path / PEFT_WEIGHTS).is_file():
            raise ValueError(
                f"{path} holds no {PEFT_WEIGHTS}, and adapters are read from nothing else"
            )
        return path
    if (path / LORA_FILE).is_file() and not (path / INDEX).is_file():
        path = path / LORA_FILE
    if not path.is_file() or not adapter_layers_in(tensors_of(path)):
        return None
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} holds adapters as a pickle: convert them to .safetensors")
    return path


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
