"""The running average that each rank keeps of its part is the average of the whole."""

import json
import sys
from pathlib import Path

from cluster.agent import run_node
from cluster.exit_codes import ExitCode
from cluster.rendezvous import local_node
from cluster.run_folder import RunFolder


def test_averages_of_parts_are_exact_at_every_stage_and_precision(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    number = run.begin_attempt()
    command = [sys.executable, "-m", "tests.integration.averages_on_ranks", str(tmp_path)]
    code = run_node(run, number, local_node(2), command)
    log = run.attempt(number).rank_log(0).read_text()
    assert code == ExitCode.DONE, log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith('{"stage"')]
    assert [(line["stage"], line["precision"], line["error"]) for line in lines] == [
        (stage, precision, 0.0) for stage in range(4) for precision in ("fp32", "bf16")
    ]
