"""What trades memory for time changes nothing that is learnt."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder
from tests.conftest import PATIENCE_S
from tests.integration.forked_agent import fork_agent

MODES: dict[str, dict[str, Any]] = {
    "plain": {"zero": {"stage": 0}},
    "checkpointing": {"zero": {"stage": 2}, "speed": {"gradient_checkpointing": True}},
    "checkpointing at stage 3": {
        "zero": {"stage": 3},
        "speed": {"gradient_checkpointing": True},
    },
    "channels last": {"zero": {"stage": 1}, "speed": {"channels_last": True}},
    "optimizer on the host": {"zero": {"stage": 2, "offload_optimizer": True}},
    "all on the host": {"zero": {"stage": 3, "offload_optimizer": True, "offload_weights": True}},
    "compiled": {"zero": {"stage": 2}, "speed": {"compile": True}},
}


def test_no_mode_of_memory_or_speed_changes_the_losses(
    train_keys: dict[str, Any], tmp_path: Path
) -> None:
    recipe = train_keys | {"global_batch": 4, "text_encoder": "full", "steps": 3}
    (tmp_path / "modes.json").write_text(json.dumps([recipe, MODES]))
    run = RunFolder(tmp_path)
    number = run.begin_attempt()
    command = [sys.executable, "-m", "tests.integration.speed_on_ranks"]
    agent = fork_agent(run, number, 2, [*command, str(tmp_path / "modes.json")])
    code = agent.wait(PATIENCE_S)
    log = run.attempt(number).rank_log(0).read_text()
    assert code == ExitCode.DONE, log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith('{"mode"')]
    losses = {line["mode"]: line["losses"] for line in lines}
    assert list(losses) == list(MODES)
    for mode, values in losses.items():
        assert values == pytest.approx(losses["plain"], rel=1e-4), mode
