"""Where a network lies that scores or teaches: a path, or its name in the local caches."""

import os
from pathlib import Path

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError


class MissingNetwork(ValueError):
    """A network is not on this machine; the message says where it may be put."""


def find_network(name: str) -> Path:
    """The folder or file of a network; nothing is downloaded.

    `name` is a path; or `owner/name` of a repository in the Hugging Face cache; or
    `owner/name/file` of a file in one; or a bare file name in torch's cache. MissingNetwork
    otherwise.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    parts = name.split("/")
    if len(parts) == 1 and path.suffix:
        found = torch_cache() / name
        if found.is_file():
            return found
        raise MissingNetwork(f"{name} is neither a path nor in {torch_cache()}")
    if len(parts) < 2 or "" in parts:
        raise MissingNetwork(f"{name} does not exist")
    cached = _cached_file(parts) if len(parts) > 2 else cached_folder(name)
    if cached is None:
        cache = constants.HF_HUB_CACHE
        raise MissingNetwork(f"{name} is neither a path nor in the Hugging Face cache ({cache})")
    return cached


def torch_cache() -> Path:
    """Where torch.hub keeps files of weights; the same rule, without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"


def _cached_file(parts: list[str]) -> Path | None:
    try:
        found = try_to_load_from_cache("/".join(parts[:2]), "/".join(parts[2:]))
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def cached_folder(name: str) -> Path | None:
    """The snapshot of a repository `owner/name` in the Hugging Face cache, if it is there."""
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
