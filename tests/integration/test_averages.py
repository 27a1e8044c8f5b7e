"""The running average that each rank keeps of its part is the average of the whole."""

import json
import sys
from pathlib import Path

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder
from tests.conftest import PATIENCE_S
from tests.integration.forked_agent import fork_agent


def test_averages_of_parts_are_exact_at_every_stage_and_precision(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    number = run.begin_attempt()
    command = [sys.executable, "-m", "tests.integration.averages_on_ranks", str(tmp_path)]
    code = fork_agent(run, number, 2, command).wait(PATIENCE_S)
    log = run.attempt(number).rank_log(0).read_text()
    assert code == ExitCode.DONE, log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith('{"stage"')]
    assert [(line["stage"], line["precision"], line["error"]) for line in lines] == [
        (stage, precision, 0.0) for stage in range(4) for precision in ("fp32", "bf16")
    ]
