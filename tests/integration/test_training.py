"""Real DeepSpeed ranks over gloo: killed, stopped, resumed, exported."""

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, published_steps, read_json, verify
from tests.conftest import Ranks, kill_and_resume

MakeRun = Callable[..., RunFolder]
StartRanks = Callable[..., Ranks]

LORA = {"unet": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
PREVIEW = {"prompts": ["'moon' in red on white, sans"] * 3, "sampler_steps": 2, "seed": 5}


# One run of each kind that nothing disturbs, for all tests that compare with it.
_undisturbed: dict[str, dict[int, float]] = {}
KINDS: dict[str, dict[str, Any]] = {
    "zero0-full": {"zero": {"stage": 0}},
    "zero2-lora": {"zero": {"stage": 2}, **LORA},
    "zero3-full": {"zero": {"stage": 3}},
}
STEPS = {"steps": 10, "save_every": 2}


@pytest.fixture
def undisturbed(make_run: MakeRun, fork_ranks: StartRanks) -> Callable[[str], dict[int, float]]:
    """The losses of a run of this kind that nothing disturbs."""

    def losses(kind: str) -> dict[int, float]:
        if kind not in _undisturbed:
            ranks = fork_ranks(make_run(f"undisturbed-{kind}", **STEPS, **KINDS[kind]))
            assert ranks.wait() == ExitCode.DONE, ranks.log()
            _undisturbed[kind] = ranks.losses()
        return _undisturbed[kind]

    return losses


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_killed_run_goes_on_with_the_losses_of_one_that_was_not(
    kind: str,
    undisturbed: Callable[[str], dict[int, float]],
    make_run: MakeRun,
    fork_ranks: StartRanks,
) -> None:
    run = make_run("killed", **STEPS, **KINDS[kind])
    killed, resumed = kill_and_resume(fork_ranks, run, after=2)
    (record,) = killed.attempt.node_records()
    assert record["first_failed_rank"] == 1
    assert record["ranks"][1]["signal"] == "SIGKILL"
    expected = undisturbed(kind)
    assert sorted(expected) == list(range(1, 11))
    assert killed.losses() | resumed.losses() == expected
    assert all(expected[step] == loss for step, loss in killed.losses().items())


def test_zero_stages_and_batch_splits_compute_the_same_losses(
    undisturbed: Callable[[str], dict[int, float]], make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    whole = fork_ranks(make_run("whole", steps=5, micro_batch=4, zero={"stage": 1}))
    assert whole.wait() == ExitCode.DONE, whole.log()
    by_kind = [list(undisturbed(kind).values())[:5] for kind in ("zero0-full", "zero3-full")]
    np.testing.assert_allclose(by_kind[0], by_kind[1], rtol=1e-5)
    np.testing.assert_allclose(list(whole.losses().values()), by_kind[0], rtol=1e-5)


@pytest.mark.parametrize(("stage", "lora"), [(0, {}), (2, LORA), (3, {})])
def test_bf16_trains_with_and_without_zero(
    stage: int, lora: dict[str, Any], make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    ranks = fork_ranks(make_run(steps=2, precision="bf16", **lora, zero={"stage": stage}))
    assert ranks.wait() == ExitCode.DONE, ranks.log()
    assert all(math.isfinite(loss) for loss in ranks.losses().values())
    assert len(ranks.losses()) == 2


def test_a_stop_is_saved_at_the_next_step_and_resumed_from_there(
    make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    run = make_run(steps=500, save_every=500)
    ranks = fork_ranks(run)
    ranks.wait_for_step(3)
    run.request_stop("the test")
    assert ranks.wait() == ExitCode.STOPPED
    ((stopped_at, folder),) = published_steps(run.checkpoints)
    assert stopped_at == max(ranks.losses())
    assert verify(folder)["step"] == stopped_at

    run.clear_stop_request()
    resumed = fork_ranks(run)
    resumed.wait_for_step(stopped_at + 1)
    assert min(resumed.losses()) == stopped_at + 1


def test_a_spoilt_checkpoint_is_passed_over_and_named_and_never_started_over(
    make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    run = make_run()
    whole = fork_ranks(run)
    assert whole.wait() == ExitCode.DONE
    spoilt = run.checkpoint(4) / "rank-0001.safetensors"
    spoilt.write_bytes(spoilt.read_bytes()[:-1])

    resumed = fork_ranks(run)
    assert resumed.wait() == ExitCode.DONE
    assert resumed.losses() == {step: whole.losses()[step] for step in (3, 4)}
    (start,) = resumed.events("start")
    assert str(spoilt) in start["passed_over"][0]
    verify(run.checkpoint(4))  # published anew

    for _, folder in published_steps(run.checkpoints):
        (folder / "rank-0000.safetensors").unlink()
    refused = fork_ranks(run)
    assert refused.wait() == ExitCode.BAD_INPUT
    assert "error: no checkpoint in" in refused.log()
    assert "Traceback" not in refused.log()


def test_a_full_export_is_a_diffusers_folder_that_gives_the_trainers_pictures(
    make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    run = make_run(zero={"stage": 3}, preview=PREVIEW, objective={"prediction": "epsilon"})
    ranks = fork_ranks(run)
    assert ranks.wait() == ExitCode.DONE, ranks.log()

    pipeline = StableDiffusionPipeline.from_pretrained(run.export(4), safety_checker=None)
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    _assert_previews_equal(run.export(4), pipeline)


def test_a_lora_export_loads_with_its_alpha_and_gives_the_trainers_pictures_and_curves(
    tiny_model: Path, make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    run = make_run(zero={"stage": 3}, **LORA, preview=PREVIEW, optim={"lr": 0.05})
    ranks = fork_ranks(run)
    assert ranks.wait() == ExitCode.DONE, ranks.log()

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    _assert_previews_equal(run.export(0), pipeline)  # the base, before it has learnt
    pipeline.load_lora_weights(run.export(4))
    _assert_previews_equal(run.export(4), pipeline)
    first, last = (run.export(step) / "preview" / "0000.png" for step in (0, 4))
    assert np.abs(_pixels(first) - _pixels(last)).max() > 5  # it has learnt something to tell

    board = EventAccumulator(str(run.tensorboard / "train")).Reload()
    curve = {point.step: point.value for point in board.Scalars("train/loss")}
    assert curve == pytest.approx(ranks.losses(), rel=1e-6)
    scalars = {"lr", "grad_norm", "images_per_s", "save_stall_s"}
    assert {f"train/{name}" for name in scalars} <= set(board.Tags()["scalars"])
    assert [image.step for image in board.Images("preview/0")] == [0, 2, 4]


def test_an_unreadable_sample_is_passed_over_counted_and_named(
    shards: Path, tmp_path: Path, make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(shards, broken)
    index = np.load(broken / "index.npy")
    offset, size = (int(value) for value in index[17]["png"])
    with (broken / "00000.tar").open("r+b") as shard:
        shard.seek(offset)
        shard.write(b"\0" * size)
    run = make_run(data={"path": str(broken)}, steps=8)  # the whole epoch
    ranks = fork_ranks(run)
    assert ranks.wait() == ExitCode.DONE, ranks.log()
    logs = ranks.log(0) + ranks.log(1)
    assert logs.count("passed over a sample that cannot be read: broken/00000.tar:000000017") == 1
    beats = [read_json(ranks.attempt.heartbeat(rank)) for rank in (0, 1)]
    assert sum(beat.get("broken_samples", 0) for beat in beats) == 1


def _assert_previews_equal(export: Path, pipeline: Any) -> None:
    for number, prompt in enumerate(PREVIEW["prompts"]):
        made = pipeline(
            prompt,
            num_inference_steps=PREVIEW["sampler_steps"],
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(5 + number),
        ).images[0]
        shown = _pixels(export / "preview" / f"{number:04d}.png")
        # A level of grey may round the other way.
        assert np.abs(np.asarray(made).astype(int) - shown).max() <= 1, export


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(Image.open(path)).astype(int)


def test_a_run_ends_early_once_its_validation_loss_no_longer_falls(
    make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    nothing_learnt = {"lr": 1e-12}
    run = make_run(
        steps=50,
        optim=nothing_learnt,
        zero={"stage": 3},
        validation={"samples": 4, "timesteps": 2, "every": 2},
        early_stop={"patience": 2},
    )
    ranks = fork_ranks(run)
    assert ranks.wait() == ExitCode.DONE, ranks.log()
    assert max(ranks.losses()) == 4  # measured after steps 0, 2 and 4
    (event,) = ranks.events("early_stop")
    assert event["best_step"] == 0
    assert "ends early: validation_loss was best after step 0" in ranks.log()
    assert verify(run.export(4))["final"] is True
    board = EventAccumulator(str(run.tensorboard / "train")).Reload()
    assert {"validation/loss", "validation/loss_t0250"} <= set(board.Tags()["scalars"])

    again = fork_ranks(run)
    assert again.wait() == ExitCode.DONE
    assert again.losses() == {}  # it stays ended


def test_a_loss_that_is_not_finite_names_its_step_its_samples_and_what_to_go_on_from(
    make_run: MakeRun, fork_ranks: StartRanks
) -> None:
    run = make_run(steps=50, save_every=1, optim={"lr": 1e30, "clip_norm": 0})
    ranks = fork_ranks(run, ranks=1)
    assert ranks.wait() == ExitCode.DO_NOT_RESTART
    (line,) = [line for line in ranks.log().splitlines() if line.startswith("error: ")]
    assert re.search(r"the loss of step 2 is (nan|inf); its samples: words/0000\d\.tar:0", line)
    assert "the last good checkpoint is step-00000001" in line
    assert published_steps(run.checkpoints)[-1][0] == 1
    assert "Traceback" not in ranks.log()
