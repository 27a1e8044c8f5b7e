"""All-reduces by pairs over real gloo: who is slow or dead is named, and nobody else."""

import sys
from dataclasses import replace
from pathlib import Path

from cluster.exit_codes import ExitCode
from cluster.preflight.reducers import PROGRAM
from cluster.run_folder import RunFolder
from tests.unit.cluster.preflight.test_preflight import checks, meet, participants

BAD = (sys.executable, "-m", "tests.integration.slow_all_reduce")
DEAD, SLOW = 1, 2


def test_of_six_nodes_the_dead_and_the_slow_one_are_named_to_all(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    attempt = run.attempt(run.begin_attempt())
    programs = {DEAD: (*BAD, "dead"), SLOW: (*BAD, "slow")}
    nodes = participants(attempt, 6)
    told = meet(
        [replace(node, program=programs.get(number, PROGRAM)) for number, node in enumerate(nodes)]
    )
    failed = told["n0"]
    assert failed is not None
    assert (failed.name, failed.code) == ("all-reduce", ExitCode.RETRY_ELSEWHERE)
    assert failed.hosts == ("n1", "n2")
    assert (
        "n1: no all-reduce with it came to an end; n2: an all-reduce with it takes" in failed.line
    )
    assert set(told.values()) == {failed}
    assert len(told) == 6
    assert checks(attempt)["nodes"]["verdict"] == "ok"
