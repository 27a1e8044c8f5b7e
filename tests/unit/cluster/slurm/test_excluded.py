"""Nodes that a run keeps away from come back."""

import time
from pathlib import Path

import pytest

from cluster.run_folder import RunFolder, read_json, write_json
from cluster.slurm.excluded import exclude, excluded_nodes, leave_enough
from cluster.state import new_state


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    write_json(run.state, new_state({}))
    return run


def test_a_node_is_left_out_until_its_time_is_over(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    exclude(run, "n1", hours=1, why="ECC")
    exclude(run, "n2", hours=24, why="no record")
    exclude(run, "n1", hours=2, why="ECC again")
    assert excluded_nodes(read_json(run.state)).now == ("n2", "n1")
    later = time.time() + 3 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    excluded = excluded_nodes(read_json(run.state))
    assert (excluded.now, excluded.expired) == (("n2",), ("n1",))


def test_so_many_nodes_stay_that_the_job_can_run() -> None:
    there = ["n1", "n2", "n3", "n4"]
    assert leave_enough(["n1", "n2"], there, needed=2) == ["n2", "n1"]
    assert leave_enough(["n1", "n2"], there, needed=3) == ["n2"]  # the newest counts most
    assert leave_enough(["n1"], ["n1"], needed=1) == []
    assert leave_enough(["elsewhere"], there, needed=4) == ["elsewhere"]
