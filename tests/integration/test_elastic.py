"""A run goes on with another number of ranks, and at another ZeRO stage, as if nothing were."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, verify
from tests.conftest import Ranks
from trainer import export
from trainer.checkpoint import Checkpoint
from trainer.ema import EMA

LORA_FILE = "pytorch_lora_weights.safetensors"
MakeRun = Callable[..., RunFolder]
StartRanks = Callable[..., Ranks]

LORA = {"unet": "lora", "text_encoder": "lora", "optim": {"lr": 1e-3, "text_encoder_lr": 1e-4}}
VALIDATION = {"samples": 5, "timesteps": 3, "every": 3}
STEPS = {"steps": 6, "save_every": 3, "ema": {"decay": 0.9}, "validation": VALIDATION, **LORA}
WHOLE: list[tuple[RunFolder, dict[int, float]]] = []


@pytest.fixture
def whole(make_run: MakeRun, fork_ranks: StartRanks) -> tuple[RunFolder, dict[int, float]]:
    """A run of two ranks at stage 2 that nothing disturbs, and its losses; made once."""
    if not WHOLE:
        run = make_run("whole", zero={"stage": 2}, **STEPS)
        ranks = fork_ranks(run)
        assert ranks.wait() == ExitCode.DONE, ranks.log()
        WHOLE.append((run, ranks.losses()))
    return WHOLE[0]


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [(1, {"zero": {"stage": 0}}), (4, {"zero": {"stage": 3}})],
)
def test_another_number_of_ranks_goes_on_with_the_same_losses_weights_and_average(
    ranks: int,
    changes: dict[str, Any],
    whole: tuple[RunFolder, dict[int, float]],
    make_run: MakeRun,
    fork_ranks: StartRanks,
) -> None:
    before, losses = whole
    run = make_run("other", **STEPS | changes)
    shutil.copytree(before.checkpoint(3), run.checkpoint(3))
    other = fork_ranks(run, ranks=ranks)
    assert other.wait() == ExitCode.DONE, other.log()
    assert f"{ranks} ranks go on after step 3 of 6, which 2 ranks saved" in other.log()
    expected = {step: losses[step] for step in (4, 5, 6)}
    assert other.losses() == pytest.approx(expected, abs=1e-5)
    validations = other.events("validation")
    assert [event["step"] for event in validations] == [6]  # that of step 3 is known

    one, two = Checkpoint(before.checkpoint(6)), Checkpoint(run.checkpoint(6))
    assert one.shapes == two.shapes
    assert sorted(two.history["validation_loss"]) == [0, 3, 6]
    for name, values in one.history.items():
        assert two.history[name] == pytest.approx(values, abs=1e-5)
    for kind in ("master", "exp_avg", "exp_avg_sq", EMA):
        for name in one.shapes:
            np.testing.assert_allclose(one.weight(kind, name), two.weight(kind, name), atol=1e-5)


def test_a_recipe_that_trains_other_weights_is_refused_before_it_trains(
    whole: tuple[RunFolder, dict[int, float]], make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    before, _ = whole
    run = make_run("other", **STEPS | {"lora": {"rank": 2}})
    shutil.copytree(before.checkpoint(3), run.checkpoint(3))
    ranks = fork_ranks(run, ranks=1)
    assert ranks.wait() == ExitCode.BAD_INPUT
    assert "holds other weights than this recipe trains, such as text_encoder." in ranks.log()


def test_any_checkpoint_is_exported_on_demand_as_its_average_or_as_it_was(
    whole: tuple[RunFolder, dict[int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = whole
    for weights in ("master", "ema"):
        command = ["export", "--run", str(run.root), "--step", "6", "--weights", weights]
        monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / weights)])
        assert export.main() == ExitCode.DONE
    exported = [load_file(tmp_path / w / LORA_FILE) for w in ("master", "ema")]
    assert any(not torch.equal(exported[0][name], exported[1][name]) for name in exported[0])
    published = load_file(run.export(6) / LORA_FILE)  # the recipe has an average
    assert all(torch.equal(exported[1][name], published[name]) for name in published)
    assert verify(tmp_path / "ema")["weights"] == "ema"
