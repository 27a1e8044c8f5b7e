"""What a recipe names and is not there, or is something else, said before anything starts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.run_folder import BrokenFolder, read_manifest
from launcher.hub import cached_folder, hub_cache, network_is_here, torch_cache
from launcher.recipe import Recipe
from trainer.config import TrainConfig


def missing_files(recipe: Recipe) -> list[str]:
    """A line for each model, file or folder that is not there, and what to do about it."""
    train = recipe.train
    return [
        *_missing_models(train),
        *_missing_data(train),
        *_missing_networks(train),
        *_missing_eval(recipe),
    ]


def _missing_models(train: TrainConfig) -> Iterator[str]:
    for key, model in (("model", train.model), ("model_config", train.model_config)):
        if model is None or Path(model).exists() or cached_folder(model):
            continue
        cure = "give the path of a diffusers folder"
        if _is_hub_name(model):
            cure = f"`hf download {model}` puts it there, or {cure}"
        yield (
            f"train.{key} {model!r} is neither a folder nor a file nor in the Hugging Face cache "
            f"({hub_cache()}): {cure}"
        )


def _missing_data(train: TrainConfig) -> Iterator[str]:
    data = train.data
    manifest = _manifest(data.path)
    built = manifest is not None
    # What the recipe says of them; whether the sources' files have changed, the run finds out.
    differences = data.differences(manifest.get("source", {})) if manifest and data.sources else []
    if differences:
        yield f"train.data.path {data.refusal(differences)}"
    if not built and not data.sources:
        yield (
            f"train.data.path {data.path} holds no indexed shards, and train.data names no source "
            "to build them from: `letterpress keys train.data` shows those there are"
        )
    for key, path in data.needs(built=built).items():
        if not path.exists():
            group = key.partition(".")[0]
            yield (
                f"train.data.{key} {path} does not exist: `letterpress keys train.data.{group}` "
                "says what it is"
            )
    if train.validation and train.validation.path:
        path = train.validation.path
        if _manifest(path) is None:
            yield (
                f"train.validation.path {path} holds no indexed shards: build them with a recipe "
                f"whose train.data.path it is, `python -m trainer.data build --config …`"
            )


def _manifest(folder: Path) -> dict[str, Any] | None:
    """That of a folder of shards; None if there are none."""
    try:
        return read_manifest(folder)
    except BrokenFolder:
        return None


def _missing_networks(train: TrainConfig) -> Iterator[str]:
    """Those that judge, by path or by name in a cache."""
    rewards = train.reward.asked if train.reward else {}
    named = {f"train.reward.{key}": name for key, name in rewards.items()}
    characters, ocr = train.objective.characters, train.objective.ocr
    if characters:
        named["train.objective.characters.segmenter"] = str(characters.segmenter)
    if ocr and ocr.recogniser:
        named["train.objective.ocr.recogniser"] = ocr.recogniser
    yield from _not_here(named)


def _missing_eval(recipe: Recipe) -> Iterator[str]:
    if recipe.eval is None:
        return
    suites = [Path(suite) for suite in recipe.eval.suites if Path(suite).suffix]
    for key, path in (("references", recipe.eval.references), *(("suites", s) for s in suites)):
        if path is not None and not path.exists():
            yield f"eval.{key} {path} does not exist: `letterpress keys eval.{key}` says what it is"
    # What nobody has named is no mistake: the farm says in its tables which metric lacks it.
    given = vars(recipe.eval.networks).items() - vars(type(recipe.eval.networks)()).items()
    yield from _not_here({f"eval.networks.{key}": name for key, name in sorted(given) if name})


def _not_here(networks: Mapping[str, str]) -> Iterator[str]:
    """A line for each network, by its key, that is neither a file nor in a cache."""
    for key, name in networks.items():
        if not network_is_here(name):
            yield f"{key} {name} {_where_it_is_not(key, name)}"


def _where_it_is_not(key: str, name: str) -> str:
    owner, *rest = name.split("/", 2)
    if rest and owner:
        named = " ".join([f"{owner}/{rest[0]}", *rest[1:]])
        return (
            f"is neither a path nor in the Hugging Face cache ({hub_cache()}): `hf download "
            f"{named}` puts it there"
        )
    if Path(name).suffix and not rest:
        return f"is neither a path nor in {torch_cache()}: put it there, or set {key}"
    return f"does not exist: `letterpress keys {key}` says what it is"


def _is_hub_name(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~"))
