"""Whether the run folder can be written to from this node: room, files, speed."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

PROBE_BYTES = 4 << 20  # enough to show a disk's speed, too little to wait for


@dataclass(frozen=True, kw_only=True)
class Storage:
    """What was measured in a folder."""

    error: str | None = None
    """Why it cannot be written to; then the rest is unknown."""
    free_bytes: int = 0
    free_files: int | None = None
    """None: this file system does not count them."""
    write_s: float = 0.0
    """For PROBE_BYTES, until they are on the disk for good."""
    rename_s: float = 0.0


def measure(folder: Path, host: str) -> Storage:
    """Write, rename and remove a file in `folder`; its name bears the host's."""
    written = folder / f".preflight-{host}.tmp"
    renamed = folder / f".preflight-{host}.renamed.tmp"
    try:
        started_s = time.monotonic()
        with written.open("wb") as file:
            file.write(os.urandom(PROBE_BYTES))  # some file systems would compress zeros
            file.flush()
            os.fsync(file.fileno())
        written_s = time.monotonic()
        written.replace(renamed)
        renamed_s = time.monotonic()
        room = os.statvfs(folder)
    except OSError as error:
        return Storage(error=error.strerror or str(error))
    finally:
        _remove(written, renamed)
    return Storage(
        free_bytes=room.f_bavail * room.f_frsize,
        free_files=room.f_favail if room.f_files else None,
        write_s=written_s - started_s,
        rename_s=renamed_s - written_s,
    )


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            path.unlink()
