"""SLURM loses a node and starts the job anew, while the node's ranks go on."""

import os
import signal
import sys
from pathlib import Path

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import is_alive
from cluster.run_folder import RunFolder, published_steps, read_json, verify, write_json
from cluster.state import new_state
from tests.conftest import CHECKOUT, wait_until
from tests.integration.test_slurm import Cluster, cluster, pytestmark

__all__ = ["cluster", "pytestmark"]  # the fixture, and where it is skipped

JOB = f"""#!/bin/bash
#SBATCH --nodes=1 --gpus-per-node=a100:1 --requeue
set -euo pipefail
cd {CHECKOUT}
ATTEMPT=$({sys.executable} -m launcher begin "$1")
exec srun {sys.executable} -m cluster.agent --run "$1" --attempt "$ATTEMPT" --slurm -- \\
    {sys.executable} -m tests.integration.ranks_that_publish "$1" --attempt "$ATTEMPT"
"""


def test_ranks_on_a_node_that_slurm_has_lost_publish_nothing_beside_their_successors(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.recipe.write_text("name: run\n")
    write_json(run.state, new_state({}))
    script = tmp_path / "job.sh"
    script.write_text(JOB)
    number = cluster.sbatch(f"--output={tmp_path}/job.out", str(script), str(run.root))
    wait_until(lambda: len(published_steps(run.checkpoints)) > 3, 120)
    host = cluster.job(number)["BatchHost"]
    kill_slurmd(cluster, host)
    cluster.type("scontrol", "update", f"nodename={host}", "state=down", "reason=lost")

    wait_until(lambda: attempt_of_newest(run) == 1, 120)
    lost = run.attempt(0).node_record(host)
    wait_until(lost.exists)  # its agent lived on, and found out by itself
    record = read_json(lost)
    assert (record["superseded"], record["exit_code"]) == (True, ExitCode.DO_NOT_RESTART)
    (successor,) = {"127.0.0.11", "127.0.0.12"} - {host}
    wait_until(lambda: cluster.job(number).get("BatchHost") == successor)

    begun = read_json(run.state)["attempts"][1]["started"]
    for _, folder in published_steps(run.checkpoints):
        manifest = verify(folder)
        assert manifest["attempt"] == int(manifest["time"] > begun)
    cluster.type("scancel", number)


def attempt_of_newest(run: RunFolder) -> int:
    """The attempt that has published last."""
    return int(verify(published_steps(run.checkpoints)[-1][1])["attempt"])


def kill_slurmd(cluster: Cluster, host: str) -> None:
    """SIGKILL a node's daemon; the jobs on it do not notice."""
    conf = cluster.environment["SLURM_CONF"].encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            ours = conf in (entry / "environ").read_bytes()
        except OSError:
            continue
        if ours and words[0].endswith(b"slurmd") and host.encode() in words:
            os.kill(int(entry.name), signal.SIGKILL)
            wait_until(lambda pid=int(entry.name): not is_alive(pid))  # type: ignore[misc]
            return
    raise AssertionError(f"no slurmd of {host} runs")
