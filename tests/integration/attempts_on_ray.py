"""What test_ray_nodes.py runs as a driver: that of launcher.ray.driver, but with ranks of its own.

python -m tests.integration.attempts_on_ray RUN
"""

import sys

import ray

from cluster.config import build, read_yaml
from cluster.run_folder import RunFolder
from launcher.ray.driver import attempt_until_it_ends
from launcher.recipe import Recipe

RANK = [sys.executable, "-m", "tests.integration.ranks_that_publish"]

if __name__ == "__main__":
    run = RunFolder(sys.argv[1])
    ray.init(logging_level="error")
    recipe = build(Recipe, read_yaml(run.recipe))
    sys.exit(attempt_until_it_ends(recipe, run, [*RANK, str(run.root)]))
