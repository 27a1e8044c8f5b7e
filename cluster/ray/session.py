"""A Ray to work on: the one that is there, or one of our own on this machine."""

import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from cluster.exit_codes import MachineFault

CONNECT_TIMEOUT_S = 10.0
STARTS = 3
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
# No word to anybody outside; and what asks for no GPU sees those that the node has.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
Part = TypeVar("Part")


def prepare_environment() -> None:
    """Set what Ray reads when it is imported; so call it before anything imports Ray.

    A Ray of our own carries a token of its own: no other user of the machine can join it.
    """
    assert "ray" not in sys.modules, "too late: Ray is imported"
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("RAY_ADDRESS"):
        os.environ |= token_variables(secrets.token_hex(32))


def token_variables(token: str) -> dict[str, str]:
    """What a program reads to be let into a Ray, or to let nobody else in."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


@contextmanager
def ray_cluster(*, cpus: int, gpus: int) -> Iterator[str]:
    """Be connected to Ray; yields where it is.

    With RAY_ADDRESS set (`ray job submit` sets it) that cluster is used and left running. Without,
    one is started on this machine: without a dashboard, and ended with us. MachineFault if there
    is none to be had.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address:
        check_reachable(address)
    # A short path: sockets lie below it, and their names may have 107 letters.
    folder = None if address else tempfile.mkdtemp(prefix="letterpress-ray-")
    import ray

    try:
        if folder:
            _start_here(folder, cpus=cpus, gpus=gpus)
        else:
            ray.init(address=address, **QUIET)
    except Exception as error:  # Ray raises what it pleases when it cannot start
        where = f"at RAY_ADDRESS {address}" if address else f"here; its logs are in {folder}"
        raise MachineFault(f"no Ray {where}: {_line(error)}") from error
    try:
        yield address or "this machine"
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def until_up(start: Callable[[], Part]) -> Part:
    """What starts a part of Ray and gives it, called again if need be, three times in all.

    Ray takes a node for broken whose own agent takes over 15 s to start (ray 2.60, nothing changes
    that), as on a busy machine or from a cold share.
    """
    for tries_left in reversed(range(STARTS)):
        try:
            return start()
        except Exception as error:  # Ray raises what it pleases
            if not tries_left:
                raise
            print(f"{_line(error)}: starting it again", file=sys.stderr, flush=True)
    raise AssertionError("the last try returns or raises")


def _start_here(folder: str, *, cpus: int, gpus: int) -> None:
    import ray

    ours = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False, "_temp_dir": folder}

    def start() -> None:
        try:
            ray.init(address="local", **ours, **QUIET)
        except Exception:
            ray.shutdown()  # what it has left would be in the way of the next try
            raise

    until_up(start)


def check_reachable(address: str) -> None:
    """MachineFault if nobody listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto" and the like: Ray finds out at once
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise MachineFault(f"no Ray at RAY_ADDRESS {address}: {error}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
