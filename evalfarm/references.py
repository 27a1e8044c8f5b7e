"""Real pictures, in folders or a tar, that a distance is measured to."""

import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trainer.models.digest import files_digest, weights_digest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class RealPictures:
    """A set of real pictures."""

    path: Path
    """A tar, or a folder."""
    parts: tuple[str, ...] = ()
    """The files and folders in that folder that belong to the set; none: all do."""

    @property
    def missing(self) -> Path | None:
        """What of it does not exist."""
        whole = [self.path / part for part in self.parts] or [self.path]
        return next((path for path in whole if not path.exists()), None)

    def names(self) -> list[str]:
        """The pictures, below `path`, in order."""
        if not self.parts:
            return picture_names(self.path)
        return [name for part in self.parts for name in self._names_in(part)]

    def digest(self) -> str:
        """SHA-256 over the pictures."""
        if not self.parts:
            return weights_digest(self.path) if self.path.is_dir() else files_digest([self.path])
        return files_digest(self.path / name for name in self.names())

    def _names_in(self, part: str) -> list[str]:
        if (self.path / part).is_dir():
            return [f"{part}/{name}" for name in picture_names(self.path / part)]
        return [part]


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


@lru_cache(maxsize=4)
def _members(tar_file: Path) -> dict[str, tuple[int, int]]:
    with tarfile.open(tar_file) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}
