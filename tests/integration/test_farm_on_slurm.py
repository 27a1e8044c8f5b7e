"""slurm/evalfarm.sh as typed: a farm on a Ray over three nodes, one of which is lost half-way."""

import contextlib
import json
import sqlite3
from pathlib import Path

import psutil
import pytest

from cluster.run_folder import RunFolder
from tests.conftest import CHECKOUT, publish_lora_export, wait_until
from tests.integration.test_slurm import START_TIMEOUT_S, Cluster, cluster, pytestmark

__all__ = ["cluster", "pytestmark"]  # the fixture, and where it is skipped

PROMPTS = [f"'{word}' in {ink}" for word in ("eel", "few", "gem", "net") for ink in "abcdefghij"]
QUICK_TO_NOTICE = {  # that a node is gone; Ray takes 15 s as it comes
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> RunFolder:
    """A run folder whose only export is its last."""
    suite = {
        "name": "quick",
        "prompts": PROMPTS,
        "metrics": ["clip_score"],
        "sampler_steps": 2,
        "height": 32,
        "width": 96,
    }
    (tmp_path / "quick.yaml").write_text(json.dumps(suite))
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.code.symlink_to(CHECKOUT)
    section = {
        "suites": [str(tmp_path / "quick.yaml")],
        "networks": {"clip": str(tiny_model / "clip")},
        "device": "cpu",
        "precision": "fp32",
        "batch": 2,
    }
    run.recipe.write_text(json.dumps({"name": "run", "eval": section}))
    publish_lora_export(run.export(8), tiny_model, 8, final=True, strength=0.5)
    return run


def test_a_farm_over_three_nodes_goes_on_when_one_is_lost(cluster: Cluster, run: RunFolder) -> None:
    cluster.environment |= QUICK_TO_NOTICE
    number = cluster.sbatch(
        *("--nodes=3", "--gpus-per-node=0", "--cpus-per-task=1"),  # an actor takes a core
        *("slurm/evalfarm.sh", str(run.root)),
    )
    output = cluster.checkout / f"slurm-{number}.out"
    wait_until(lambda: scored(run) >= 4, START_TIMEOUT_S)
    assert output.read_text().count(" has joined") == 3
    head = cluster.job(number)["BatchHost"]
    lost, *_ = nodes_at_work(cluster) - {head}
    cluster.type("slurm/testbed", "crash", lost)
    cluster.type("scontrol", "update", f"nodename={lost}", "state=down", "reason=power")
    assert scored(run) < len(PROMPTS)
    wait_until(lambda: (run.evaluation("quick") / "results.json").exists(), START_TIMEOUT_S)
    job = cluster.wait(number, 60)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "0"), output.read_text()
    assert scored(run) == len(PROMPTS)
    assert '"event": "lost"' in (run.evaluations / "work.jsonl").read_text()
    wait_until(lambda: not nodes_at_work(cluster), 30)  # no Ray is left behind


def scored(run: RunFolder) -> int:
    """Pictures that have their score in the ledger."""
    path = run.evaluation("quick") / "ledger.sqlite"
    if not path.exists():
        return 0
    ledger = sqlite3.connect(path, timeout=30)
    try:
        query = "SELECT count(*) FROM scores WHERE status = 'ok'"
        return int(ledger.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # the table is not there yet
        return 0
    finally:
        ledger.close()


def nodes_at_work(cluster: Cluster) -> set[str]:
    """Where the farm's actors are that make and score pictures."""
    nodes = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended
            if " ".join(process.cmdline()).startswith(("ray::Generator", "ray::Scorer")):
                # Its raylet's: Ray writes an actor's title over the environment that one can see.
                variables = process.parent().environ()  # type: ignore[union-attr]
                if variables.get("SLURM_CONF") == cluster.environment["SLURM_CONF"]:
                    nodes.add(variables["SLURMD_NODENAME"])
    return nodes
