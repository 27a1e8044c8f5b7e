"""Reward tuning on real DeepSpeed ranks: killed and resumed, on one rank and on two."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, verify
from tests.conftest import Ranks, kill_and_resume

MakeRun = Callable[..., RunFolder]
StartRanks = Callable[..., Ranks]

KINDS: dict[str, dict[str, Any]] = {
    "zero2": {"unet": "lora", "text_encoder": "full", "zero": {"stage": 2}, "precision": "bf16"},
    "zero3": {"unet": "full", "text_encoder": "lora", "zero": {"stage": 3}},
}
REWARDS = {"zero2": {"clip": 1.0, "ocr": 0.1}, "zero3": {"clip": 1.0}}


@pytest.fixture
def tuning(tiny_model: Path) -> dict[str, Any]:
    """What makes a run of the conftest's recipe one by rewards."""
    return {
        "reward": {
            "rewards": {"clip": 1.0},
            "watched": ["pick_score"],
            "pull": 0.1,
            "sampler_steps": 2,
            "least_grad_steps": 1,
            "grad_steps": 2,
            "height": 32,
            "width": 96,
            "line": "whole",
            "networks": {"clip": str(tiny_model / "clip"), "pick_score": str(tiny_model / "clip")},
        },
        "lora": {"rank": 2, "dropout": 0.1},
        "steps": 3,
        "global_batch": 4,
        "save_every": 1,
    }


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_killed_run_goes_on_to_the_digit(
    kind: str, tuning: dict[str, Any], make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    tuning["reward"]["rewards"] = REWARDS[kind]
    whole = fork_ranks(make_run("whole", **tuning, **KINDS[kind]))
    assert whole.wait() == ExitCode.DONE, whole.log()
    steps = whole.events("step")
    assert len(steps) == 3
    assert all(step[f"reward_{name}"] for step in steps for name in REWARDS[kind])
    assert steps[0]["distance"] == 0 < steps[-1]["distance"]

    run = make_run("killed", **tuning, **KINDS[kind])
    killed, resumed = kill_and_resume(fork_ranks, run, after=1)
    assert killed.losses() | resumed.losses() == whole.losses()
    assert verify(run.export(3))["kind"] == "mixed"


def test_one_rank_and_two_at_any_stage_climb_alike(
    tuning: dict[str, Any], make_run: MakeRun, start_ranks: StartRanks, fork_ranks: StartRanks
) -> None:
    tuning["lora"]["dropout"] = 0.0
    losses = []
    for ranks, stage, micro_batch in ((1, 0, 4), (2, 2, 1), (2, 3, 2)):
        changes = {"zero": {"stage": stage}, "micro_batch": micro_batch, "text_encoder": "lora"}
        run = make_run(f"zero{stage}", **tuning | changes | {"steps": 2})
        start = start_ranks if ranks == 1 else fork_ranks  # one by the command that users have
        started = start(run, ranks)
        assert started.wait() == ExitCode.DONE, started.log()
        losses.append(list(started.losses().values()))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)
