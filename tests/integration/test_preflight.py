"""All-reduces by pairs over real gloo: who is slow or dead is named, and nobody else."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from cluster.preflight import leader
from cluster.preflight.check import Check
from cluster.preflight.participant import Participant
from cluster.preflight.reducers import PROGRAM
from cluster.run_folder import RunFolder
from tests.unit.cluster.preflight.test_preflight import checks, meet, participants

BAD = (sys.executable, "-m", "tests.integration.slow_all_reduce")


def of_four_nodes(tmp_path: Path, bad: int, how: str) -> dict[str, Check | None]:
    """What each of four nodes is told where one's link is `slow` or `dead`."""
    run = RunFolder(tmp_path)
    attempt = run.attempt(run.begin_attempt())
    nodes: list[Participant] = []
    for number, node in enumerate(participants(attempt, 4)):
        nodes.append(replace(node, program=(*BAD, how) if number == bad else PROGRAM))
    told = meet(nodes)
    assert checks(attempt)["nodes"]["verdict"] == "ok"
    return told


@pytest.mark.parametrize(("bad", "how"), [(2, "slow"), (1, "dead")])
def test_the_bad_one_of_four_nodes_is_named_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int, how: str
) -> None:
    monkeypatch.setattr(leader, "ROUND_S", 6.0)
    told = of_four_nodes(tmp_path, bad, how)
    assert len(told) == 4
    for failed in told.values():
        assert failed is not None
        assert (failed.name, failed.hosts) == ("all-reduce", (f"n{bad}",))
        assert failed.code == ExitCode.RETRY_ELSEWHERE
