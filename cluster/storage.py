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
    room = os.statvfs(folder)
    with tempfile.TemporaryDirectory(prefix=".letterpress-doctor-", dir=folder) as inside:
        return {
            "free_bytes": room.f_bavail * room.f_frsize,
            "free_inodes": room.f_favail if room.f_files else None,
            "write_bytes_per_s": WRITTEN_BYTES / _write_s(Path(inside) / "written"),
            "rename_s": _rename_s(Path(inside)),
            "clock_lead_s": _clock_lead_s(Path(inside) / "touched"),
        }


def _write_s(path: Path) -> float:
    """Seconds until the bytes are on the disk; not zeros, which some storage does not store."""
    block = os.urandom(2**20)
    began_s = time.monotonic()
    with path.open("wb") as file:
        for _ in range(WRITTEN_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - began_s


def _rename_s(folder: Path) -> float:
    first, second = folder / "first", folder / "second"
    first.touch()
    began_s = time.monotonic()
    for _ in range(RENAMES // 2):
        first.rename(second)
        second.rename(first)
    return (time.monotonic() - began_s) / RENAMES


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
