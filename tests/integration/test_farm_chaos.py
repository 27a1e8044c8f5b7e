"""Twenty kills of a farm on a Ray of three nodes: its ledger is that of a farm nobody touched."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
from ray.cluster_utils import Cluster

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import kill_session
from cluster.ray.session import until_up
from cluster.run_folder import RunFolder
from evalfarm.farm.pool import AHEAD
from tests.conftest import CHECKOUT, PATIENCE_S, publish_lora_export
from tests.integration.test_farm import log, rows

ROUNDS, SEED = 20, 0
WORKERS = 2  # of each pool
BATCH = 2
STEPS = (0, 10, 20)
PROMPTS = [f"'{word}' in {ink}" for word in ("eel", "few", "gem", "net") for ink in "abcd"]
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}


class Farm:
    """A farm's driver on a Ray of a head and two nodes for its actors."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
        self.cluster = until_up(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.nodes = [self._add_node(), self._add_node()]
        self.driver = self._start_driver()

    def kill_actor(self, kind: str) -> bool:
        """Kill a process of that actor class, if there is one."""
        found = [
            process.pid
            for process in psutil.Process().children(recursive=True)
            if _command(process).startswith(f"ray::{kind}")
        ]
        if found:
            os.kill(found[0], signal.SIGKILL)
        return bool(found)

    def kill_node(self, which: int) -> bool:
        """Kill a raylet, whose actors die with it; another one joins."""
        self.cluster.remove_node(self.nodes[which], allow_graceful=False)
        self.nodes[which] = self._add_node()
        return True

    def kill_driver(self) -> bool:
        """Kill the driver; its successor starts."""
        kill_session(self.driver.pid)
        self.driver.wait()
        self.driver = self._start_driver()
        return True

    def close(self) -> None:
        """End all that was started."""
        kill_session(self.driver.pid)
        self.driver.wait()
        self.cluster.shutdown()

    def _add_node(self) -> Any:
        return until_up(lambda: self.cluster.add_node(num_cpus=WORKERS))

    def _start_driver(self) -> subprocess.Popen[str]:
        with (self.run.root / "farm.log").open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "evalfarm", "watch", "--run", str(self.run.root)],
                cwd=CHECKOUT,
                env={**os.environ, "RAY_ADDRESS": self.cluster.address},
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


@pytest.fixture
def make_run(tiny_model: Path, tmp_path: Path) -> Callable[[str], RunFolder]:
    """Makes a run folder of three exports, to be scored by two pools of two."""
    suite = {
        "name": "quick",
        "prompts": PROMPTS,
        "metrics": ["ocr", "clip_score"],
        "sampler_steps": 2,
        "height": 32,
        "width": 96,
    }
    (tmp_path / "quick.yaml").write_text(json.dumps(suite))
    exports = tmp_path / "exports"
    for step in STEPS:
        final = step == STEPS[-1]
        folder = exports / f"step-{step:08d}"
        publish_lora_export(folder, tiny_model, step, final=final, strength=step / 20)

    def make(name: str) -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.root.mkdir()
        run.exports.symlink_to(exports)
        section = {
            "suites": [str(tmp_path / "quick.yaml")],
            "networks": {"clip": str(tiny_model / "clip")},
            "device": "cpu",
            "precision": "fp32",
            "generators": WORKERS,
            "scorers": WORKERS,
            "batch": BATCH,
            "max_tries": ROUNDS,
        }
        run.recipe.write_text(json.dumps({"name": name, "eval": section}))
        return run

    return make


@pytest.fixture
def start() -> Iterator[Callable[[RunFolder], Farm]]:
    """Starts a farm; all of it is gone when the test ends."""
    farms: list[Farm] = []

    def start_farm(run: RunFolder) -> Farm:
        farms.append(Farm(run))
        return farms[-1]

    yield start_farm
    for farm in farms:
        farm.close()


def count_rows(run: RunFolder) -> int:
    """Pictures and scores in the ledger so far."""
    path = run.evaluation("quick") / "ledger.sqlite"
    if not path.exists():
        return 0
    ledger = sqlite3.connect(path, timeout=30)
    try:
        (pictures,), (scores,) = (
            ledger.execute(f"SELECT count(*) FROM {table}").fetchone()
            for table in ("pictures", "scores")
        )
    except sqlite3.OperationalError:  # the tables are not there yet
        return 0
    finally:
        ledger.close()
    return int(pictures + scores)


def test_twenty_kills_change_no_row_and_make_no_picture_that_they_do_not_explain(
    make_run: Callable[[str], RunFolder], start: Callable[[RunFolder], Farm]
) -> None:
    calm = start(make_run("calm"))
    assert calm.driver.wait(PATIENCE_S) == ExitCode.DONE, log(calm.run)
    undisturbed = rows(calm.run)
    total = len(undisturbed["pictures"]) + len(undisturbed["scores"])
    assert total == len(STEPS) * len(PROMPTS) * 3
    calm.close()

    farm = start(make_run("chaos"))
    chance = random.Random(SEED)
    moments = sorted(chance.randrange(total * 9 // 10) for _ in range(ROUNDS))
    killed: Counter[str] = Counter()
    for moment in moments:
        deadline_s = time.monotonic() + PATIENCE_S
        while count_rows(farm.run) < moment:
            assert time.monotonic() < deadline_s, log(farm.run)
            assert farm.driver.poll() is None, log(farm.run)
            time.sleep(0.02)
        time.sleep(chance.random() / 2)
        kills = {
            "Generator": lambda: farm.kill_actor("Generator"),
            "Scorer": lambda: farm.kill_actor("Scorer"),
            "node": lambda: farm.kill_node(chance.randrange(2)),
            "driver": farm.kill_driver,
        }
        names = chance.sample(list(kills), len(kills))
        killed[next(name for name in names if kills[name]())] += 1
    assert farm.driver.wait(PATIENCE_S) == ExitCode.DONE, log(farm.run)
    assert killed.total() == ROUNDS
    assert rows(farm.run) == undisturbed

    lines = (farm.run.evaluations / "work.jsonl").read_text().splitlines()
    leases = [json.loads(line) for line in lines if '"event": "leased' in line]
    made = sum(lease["pool"] == "generators" for lease in leases)
    # What a dead process may have had: a generator its units, a node or the driver two generators.
    lost = AHEAD * (killed["Generator"] + WORKERS * (killed["node"] + killed["driver"]))
    assert made <= len(STEPS) * len(PROMPTS) // BATCH + lost
