"""Whether the run folder can be written to from this node: room, files, speed."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cluster.storage import rename_s, room_in, write_s

PROBE_BYTES = 4 << 20  # enough to show a disk's speed, too little to wait for
RENAMES = 2


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
    """Write and rename a file or two in a folder below `folder`, whose name bears the host's."""
    try:
        free_bytes, free_files = room_in(folder)
        with tempfile.TemporaryDirectory(prefix=f".preflight-{host}-", dir=folder) as inside:
            return Storage(
                free_bytes=free_bytes,
                free_files=free_files,
                write_s=write_s(Path(inside) / "written", PROBE_BYTES),
                rename_s=rename_s(Path(inside), RENAMES),
            )
    except OSError as error:
        return Storage(error=error.strerror or str(error))
