"""What was once downloaded, in the local caches of Hugging Face and torch. Nothing is, here."""

import os
from pathlib import Path

INDEX = "model_index.json"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".onnx")


def hub_cache() -> Path:
    """Where huggingface_hub keeps models; the same rule, without importing it."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def torch_cache() -> Path:
    """Where torch.hub keeps files of weights; the same rule, without importing it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"


def network_is_here(name: str) -> bool:
    """Whether the trainer would find a network that scores or teaches, by its path or name.

    A name is `owner/name`, `owner/name/file`, or that of a file in torch's cache. A download that
    was begun is not enough: there are weights.
    """
    if Path(name).exists():
        return True
    owner, *rest = name.split("/", 2)
    if not rest:
        return bool(Path(name).suffix) and (torch_cache() / name).is_file()
    if "" in (owner, *rest):
        return False
    snapshot = main_snapshot(f"{owner}/{rest[0]}")
    if snapshot is None:
        return False
    if len(rest) > 1:
        return (snapshot / rest[1]).is_file()
    return any(path.suffix in WEIGHTS and path.is_file() for path in snapshot.rglob("*"))


def cached_folder(model: str) -> Path | None:
    """The diffusers folder of a hub name; None if it is not in the cache.

    A download that was begun is not enough: the file that lists the parts is there.
    """
    snapshot = main_snapshot(model)
    return snapshot if snapshot and (snapshot / INDEX).is_file() else None


def main_snapshot(name: str) -> Path | None:
    """What is in the cache of a hub name's main branch, the only one that the trainer takes."""
    repository = hub_cache() / f"models--{name.replace('/', '--')}"
    main = repository / "refs" / "main"
    return repository / "snapshots" / main.read_text().strip() if main.is_file() else None
