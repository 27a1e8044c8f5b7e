"""One process at a time where several want the same: the runs of a sweep start at once."""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What storage answers that has no locks, such as Lustre mounted without `flock`."""


@contextmanager
def alone_at(folder: Path) -> Iterator[None]:
    """Wait until nobody else makes this folder, on any node; nobody waits for a killed one.

    Where the storage has no locks a line says that nothing is waited for.
    """
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            _lock(file, folder)
            if not _is_at(path, file):  # who held it before us has removed it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # without locks somebody else may have
            return


def _lock(file: TextIO, folder: Path) -> None:
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another process makes {folder}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _say(f"{folder.parent} has no locks: let no other process make {folder} meanwhile")


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
