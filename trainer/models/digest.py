"""Which weights a model has, in a few letters."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from cluster.run_folder import MANIFEST, files_below, fingerprint, read_manifest

SHORT = 8
PREVIEWS = "preview/"
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".msgpack", ".onnx", ".h5")
LEGACY_HASH_OFFSET, LEGACY_HASH_BYTES = 0x100000, 0x10000


def weights_digest(model: Path) -> str:
    """SHA-256 over a model: a single file, or the files of a folder; of an export, its base's too.

    The export of a base is its base. Pictures that lie beside the weights do not count.
    """
    if model.is_file():
        return _file_digest(model)
    if not (model / MANIFEST).is_file():
        return _folder_digest(model)
    manifest = read_manifest(model)
    base = _base_digests(manifest.get("base"), manifest.get("base_config"))
    if manifest.get("kind") == "base" and len(base) == 1:
        return base[0][1]
    files = [(name, facts["sha256"]) for name, facts in manifest["files"].items()]
    return _digest([*files, *base])


def model_digest(base: Path, config: str | None, adapters: Path | None) -> str:
    """SHA-256 over a whole model, the configs of a single file, and adapters upon it."""
    below = _base_digests(str(base), config)
    if adapters is None and len(below) == 1:
        return below[0][1]
    above = [("adapters", weights_digest(adapters))] if adapters else []
    return _digest([*above, *below])


def blend_digest(shares: Iterable[tuple[str, float]]) -> str:
    """SHA-256 over the digests of models and how much each counts, the first of them first."""
    return _digest(
        (f"share {place} {weight!r}", sha256) for place, (sha256, weight) in enumerate(shares)
    )


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over single files, by name and content."""
    return _digest((path.name, fingerprint(path)["sha256"]) for path in paths)


def web_ui_hash(path: Path) -> str:
    """The hash that A1111 shows for a whole model in one file: 10 digits of its SHA-256."""
    return str(fingerprint(path)["sha256"])[:10]


def web_ui_lora_hash(path: Path) -> str:
    """The hash that A1111 shows for adapters: 12 digits of the SHA-256 of their values."""
    return tensors_sha256(path.read_bytes())[:12]


def tensors_sha256(safetensors: bytes) -> str:
    """SHA-256 of what follows the header of a safetensors file, which 8 bytes tell the size of."""
    header = int.from_bytes(safetensors[:8], "little")
    return hashlib.sha256(safetensors[8 + header :]).hexdigest()


def _base_digests(base: str | None, config: str | None) -> list[tuple[str, str]]:
    digests = []
    if base:
        digests.append(("base", weights_digest(Path(base))))
    if config:  # it decides how a single file is sampled
        digests.append(("base_config", _config_digest(Path(config))))
    return digests


@cache  # gigabytes, asked for again with every export that they are the base of
def _folder_digest(folder: Path) -> str:
    names = files_below(folder)
    return _digest((name, fingerprint(folder / name)["sha256"]) for name in names)


@cache
def _file_digest(path: Path) -> str:
    return str(fingerprint(path)["sha256"])


@cache
def _config_digest(folder: Path) -> str:
    names = [name for name in files_below(folder) if not name.endswith(WEIGHTS)]
    return _digest((name, fingerprint(folder / name)["sha256"]) for name in names)


def _digest(files: Iterable[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for name, sha256 in sorted(files):
        if not name.startswith(PREVIEWS):
            digest.update(f"{name} {sha256}\n".encode())
    return digest.hexdigest()
