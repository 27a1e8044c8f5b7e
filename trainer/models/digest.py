"""Which weights a model has, in a few letters."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from cluster.run_folder import MANIFEST, files_below, fingerprint, read_manifest

SHORT = 8
PREVIEWS = "preview/"


def weights_digest(folder: Path) -> str:
    """SHA-256 over the files of a model folder; of an export, its base's included.

    Pictures that lie beside the weights do not count.
    """
    if not (folder / MANIFEST).is_file():
        return _folder_digest(folder)
    manifest = read_manifest(folder)
    files = [(name, facts["sha256"]) for name, facts in manifest["files"].items()]
    if manifest.get("base"):
        files.append(("base", weights_digest(Path(manifest["base"]))))
    return _digest(files)


@cache  # gigabytes, asked for again with every export that they are the base of
def _folder_digest(folder: Path) -> str:
    names = files_below(folder)
    return _digest((name, fingerprint(folder / name)["sha256"]) for name in names)


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over single files, by name and content."""
    return _digest((path.name, fingerprint(path)["sha256"]) for path in paths)


def _digest(files: Iterable[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for name, sha256 in sorted(files):
        if not name.startswith(PREVIEWS):
            digest.update(f"{name} {sha256}\n".encode())
    return digest.hexdigest()
