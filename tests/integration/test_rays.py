"""Several Rays that start at once on one machine, as farms and demos do: each is its own."""

import os
import subprocess
import sys

from cluster.exit_codes import ExitCode
from tests.conftest import CHECKOUT, PATIENCE_S

AT_ONCE = 3
WORK = """
from cluster.ray.session import prepare_environment, ray_cluster
prepare_environment()
with ray_cluster(cpus=1, gpus=0):
    import ray
    who = ray.remote(num_cpus=1)(lambda: __import__("os").environ["STARTED_BY"])
    print(len(ray.nodes()), ray.get(who.remote()))
"""


def test_rays_that_start_at_once_do_not_meet() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORK],
            cwd=CHECKOUT,
            env={**environment, "STARTED_BY": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(AT_ONCE)
    ]
    for number, process in enumerate(started):
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == ExitCode.DONE, errors
        assert output.split() == ["1", str(number)]  # one node, and workers of its own
