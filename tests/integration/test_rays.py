"""Rays of our own on one machine, as farms and demos start them: some at once, and a slow one."""

import contextlib
import os
import signal
import subprocess
import sys

import psutil

from cluster.exit_codes import ExitCode
from tests.conftest import CHECKOUT, PATIENCE_S, wait_until

AT_ONCE = 3
WORK = """
from cluster.ray.session import prepare_environment, ray_cluster
prepare_environment()
with ray_cluster(cpus=1, gpus=0):
    import ray
    who = ray.remote(num_cpus=1)(lambda: __import__("os").environ["STARTED_BY"])
    print(len(ray.nodes()), ray.get(who.remote()))
"""


def start(number: int) -> subprocess.Popen[str]:
    """A program that has a Ray do some work."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-c", WORK],
        cwd=CHECKOUT,
        env={**environment, "STARTED_BY": str(number)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_end(process: subprocess.Popen[str], number: int) -> None:
    """It ended well, on one node and with workers of its own."""
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ExitCode.DONE, errors
    assert output.split() == ["1", str(number)]


def test_rays_that_start_at_once_do_not_meet() -> None:
    for number, process in enumerate([start(number) for number in range(AT_ONCE)]):
        check_end(process, number)


def test_a_ray_that_takes_its_own_agent_for_dead_is_started_again() -> None:
    process = start(0)
    wait_until(lambda: bool(agents(process)))
    agent = agents(process)[0]
    agent.send_signal(signal.SIGSTOP)  # as if its files came from a cold share
    try:
        check_end(process, 0)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray has ended it
            agent.kill()


def agents(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """What a raylet waits for, for 15 s."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if [word for word in child.cmdline()[:4] if word.endswith("dashboard/agent.py")]:
                found.append(child)
    return found
