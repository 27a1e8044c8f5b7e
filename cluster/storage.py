"""What a folder's storage can do, measured with a few files that are gone again at the end.

    python -m cluster.storage FOLDER        one line of JSON

A program of its own, so that storage that hangs can be left to hang.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

WRITTEN_BYTES = 64 * 2**20
RENAMES = 50


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def measure(folder: Path) -> dict[str, float | None]:
    """Free bytes and inodes, bytes written a second, seconds a rename, its clock's lead on ours.

    The last three are measured in a new folder inside. Free inodes are null where the file system
    makes them as it needs them. OSError where nothing can be written.
    """
    free_bytes, free_inodes = room_in(folder)
    with tempfile.TemporaryDirectory(prefix=".letterpress-doctor-", dir=folder) as inside:
        return {
            "free_bytes": free_bytes,
            "free_inodes": free_inodes,
            "write_bytes_per_s": WRITTEN_BYTES / write_s(Path(inside) / "written", WRITTEN_BYTES),
            "rename_s": rename_s(Path(inside), RENAMES),
            "clock_lead_s": _clock_lead_s(Path(inside) / "touched"),
        }


def room_in(folder: Path) -> tuple[int, int | None]:
    """Free bytes, and how many files can still be made; None where nobody counts them."""
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize, room.f_favail if room.f_files else None


def write_s(path: Path, size_bytes: int) -> float:
    """Seconds until so many MiB are on the disk; not zeros, which some storage does not store."""
    block = os.urandom(2**20)
    began_s = time.monotonic()
    with path.open("wb") as file:
        for _ in range(size_bytes // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - began_s


def rename_s(folder: Path, renames: int) -> float:
    """Seconds of a rename, the mean of so many, an even number."""
    first, second = folder / "first", folder / "second"
    first.touch()
    began_s = time.monotonic()
    for _ in range(renames // 2):
        first.rename(second)
        second.rename(first)
    return (time.monotonic() - began_s) / renames


def _clock_lead_s(path: Path) -> float:
    """0 within what writing takes: a file server stamps files with its own time."""
    before_s = time.time()
    path.write_text("now")
    after_s, stamp_s = time.time(), path.stat().st_mtime
    # Linux stamps with the last tick, up to 10 ms ago.
    return max(0.0, stamp_s - after_s) + min(0.0, stamp_s - before_s + 0.01)


if __name__ == "__main__":
    try:
        print(json.dumps(measure(existing_parent(Path(sys.argv[1])))))
    except OSError as error:
        sys.exit(f"{error.strerror}: {error.filename}")
