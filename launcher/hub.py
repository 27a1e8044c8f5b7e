"""The local Hugging Face cache: where models lie that were once downloaded. Nothing is, here."""

import os
from pathlib import Path

INDEX = "model_index.json"


def hub_cache() -> Path:
    """Where huggingface_hub keeps models; the same rule, without importing it."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def cached_folder(model: str) -> Path | None:
    """The diffusers folder of a hub name; None if it is not in the cache.

    A download that was begun is not enough: the file that lists the parts is there.
    """
    return next((path for path in snapshots(model) if (path / INDEX).is_file()), None)


def snapshots(model: str) -> list[Path]:
    """What is in the cache of a hub name, that of its main branch first."""
    folder = hub_cache() / f"models--{model.replace('/', '--')}"
    main = folder / "refs" / "main"
    named = [folder / "snapshots" / main.read_text().strip()] if main.is_file() else []
    return [*named, *sorted(folder.glob("snapshots/*"))]
