"""Terms of the loss on real DeepSpeed ranks: at each ZeRO stage, resumed to the digit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder
from tests.conftest import Ranks, kill_and_resume
from trainer.models.segmenter import Segmenter, save_segmenter

MakeRun = Callable[..., RunFolder]
StartRanks = Callable[..., Ranks]

LORA = {"unet": "lora", "text_encoder": "lora", "lora": {"rank": 2, "dropout": 0.1}}
TERMS = ("denoising", "characters", "ocr")


@pytest.fixture
def objective(tmp_path: Path) -> dict[str, Any]:
    """All terms at once; OCR counts from the second step on."""
    torch.manual_seed(0)
    segmenter = tmp_path / "segmenter.safetensors"
    save_segmenter(Segmenter(4, (8,)), segmenter)
    return {
        "caption_dropout": 0.5,
        "mask_weight": 3.0,
        "denoising": {"weight": 0.8},
        "characters": {"segmenter": str(segmenter), "weigh_by_signal": True},
        "ocr": {"weight": 0.2, "ramp_steps": 2, "ctc": 1.0},
        "gradient_shares_every": 2,
    }


def numbers(ranks: Ranks) -> dict[int, dict[str, float]]:
    """What a run has written of each step, but for its speed."""
    return {
        event["step"]: {
            name: value
            for name, value in event.items()
            if name not in ("event", "time", "step", "images_per_s")
        }
        for event in ranks.events("step")
    }


@pytest.mark.parametrize(
    "how", [{"zero": {"stage": 2}, **LORA, "precision": "bf16"}, {"zero": {"stage": 3}}]
)
def test_a_killed_run_goes_on_with_every_term_to_the_digit(
    how: dict[str, Any], objective: dict[str, Any], make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    changes = {"objective": objective, "save_every": 1, **how}
    whole = fork_ranks(make_run("whole", **changes))
    assert whole.wait() == ExitCode.DONE, whole.log()
    expected = numbers(whole)
    assert sorted(expected) == [1, 2, 3, 4]
    assert "loss_ocr" not in expected[1]
    for step, written in expected.items():
        told = {f"loss_{name}" for name in TERMS if step > 1 or name != "ocr"}
        assert told <= written.keys()
        assert all(math.isfinite(written[name]) and written[name] for name in told)
    shares = [expected[3][f"gradient_share_{name}"] for name in TERMS]
    assert sum(shares) == pytest.approx(1, rel=1e-5)
    assert min(shares) > 0

    run = make_run("killed", **changes)
    killed, resumed = kill_and_resume(fork_ranks, run, after=1)
    assert numbers(killed) | numbers(resumed) == expected


def test_zero_stages_and_batch_splits_compute_the_same_of_every_term(
    objective: dict[str, Any], make_run: MakeRun, start_ranks: StartRanks, fork_ranks: StartRanks
) -> None:
    objective["gradient_shares_every"] = 0
    found = []
    for stage, ranks, micro_batch in ((0, 1, 8), (1, 2, 4), (3, 2, 1)):
        run = make_run(
            f"zero{stage}",
            objective=objective,
            steps=2,
            zero={"stage": stage},
            micro_batch=micro_batch,
        )
        start = start_ranks if ranks == 1 else fork_ranks  # one by the command that users have
        started = start(run, ranks)
        assert started.wait() == ExitCode.DONE, started.log()
        steps = numbers(started)
        found.append([[steps[step][f"loss_{name}"] for name in TERMS[:step]] for step in (1, 2)])
        found[-1][1].append(steps[2]["loss_ocr"])
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4)
