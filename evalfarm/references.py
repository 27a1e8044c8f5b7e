"""Real pictures, in a folder or a tar, that a distance is measured to."""

import tarfile
from functools import lru_cache
from pathlib import Path

from trainer.models.digest import files_digest, weights_digest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def picture_names(source: Path) -> list[str]:
    """The pictures in a tar or below a folder, in order; masks that lie beside them are none."""
    if source.is_dir():
        names = [path.relative_to(source).as_posix() for path in source.rglob("*")]
    else:
        names = list(_members(source))
    return sorted(
        name for name in names if name.lower().endswith(SUFFIXES) and ".mask." not in name
    )


def read_picture(source: Path, name: str) -> bytes:
    """The file of one picture."""
    if source.is_dir():
        return (source / name).read_bytes()
    offset, size = _members(source)[name]
    with source.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def references_digest(source: Path) -> str:
    """SHA-256 over the pictures."""
    return weights_digest(source) if source.is_dir() else files_digest([source])


@lru_cache(maxsize=4)
def _members(tar_file: Path) -> dict[str, tuple[int, int]]:
    with tarfile.open(tar_file) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}
