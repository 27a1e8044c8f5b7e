"""Killed twenty times at random moments, runs end as one that nothing disturbs, bit for bit."""

import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess

import numpy as np
from safetensors.numpy import load_file

from cluster.agent import POLL_S
from cluster.run_folder import (
    LATEST,
    RunFolder,
    newest_complete,
    published_steps,
    step_of,
    verify,
)
from tests.conftest import PATIENCE_S, read_events
from tests.integration.forked_ranks import Place, fork_ranks
from tests.integration.forkserver import start_forkserver

SEED = 0
LAST = 8
CHANGES = {
    "steps": LAST,
    "save_every": 2,
    "global_batch": 4,
    "unet": "lora",
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    "ema": {"decay": 0.9},
    "zero": {"stage": 2},
    "keep": {"newest": 1},
}
STAGED = r"/\.step-\d+\.attempt-\d+\.tmp"
# The rank that dies, what it is about to do, and within how many seconds of that.
PLACES = {
    "a part is begun": (1, f"os.mkdir checkpoints{STAGED}$", 0.01),
    "a part is hashed": (1, f"open checkpoints{STAGED}/rank-0001", 0.0),
    "the other part is begun": (0, f"os.mkdir checkpoints{STAGED}$", 0.01),
    "the other part is hashed": (0, f"open checkpoints{STAGED}/rank-0000", 0.0),
    "a checkpoint's manifest is written": (0, f"os.rename checkpoints{STAGED}/", 0.0),
    "a checkpoint is published": (0, f"os.rename checkpoints{STAGED}$", 0.0),
    "it becomes the latest": (0, r"os.rename checkpoints/\.LATEST", 0.0),
    "an export is begun": (0, f"os.mkdir exports{STAGED}$", 0.01),
    "an export is hashed": (0, f"open exports{STAGED}/pytorch_lora", 0.0),
    "an export is published": (0, f"os.rename exports{STAGED}$", 0.0),
    "the export becomes the latest": (0, r"os.rename exports/\.LATEST", 0.0),
    "an old checkpoint is removed": (0, r"os.remove checkpoints/\.step-\d+\.removed", 0.0),
    "a checkpoint is read": (0, r"open checkpoints/step-\d+/rank-", 0.05),
    "a rank says what it does": (1, r"os.rename attempts/", 0.3),
}
BY_TIME = 6


def test_twenty_kills_at_random_moments_change_nothing(make_run: Callable[..., RunFolder]) -> None:
    context = start_forkserver()
    rng = random.Random(SEED)
    whole = make_run("whole", **CHANGES)
    began_s = time.monotonic()
    assert not killed(fork_ranks(context, whole), rng)
    attempt_s = time.monotonic() - began_s
    moments: list[Place | None] = [None] * BY_TIME
    for rank, pattern, within_s in PLACES.values():
        moments.append(Place(rank, pattern, rng.randrange(2), rng.uniform(0, within_s)))
    rng.shuffle(moments)

    runs = [make_run("killed-0", **CHANGES)]
    left: set[str] = set()
    newest = 0
    while moments:
        run, place = runs[-1], moments[-1]
        after_s = None if place else rng.uniform(0, attempt_s)
        if killed(fork_ranks(context, run, place), rng, after_s):
            moments.pop()
            assert newest <= (newest := newest_step(run))
            left |= what_is_left(run)
        else:  # it had come to its end before that moment, which another attempt may come to
            moments.insert(0, moments.pop())
            runs.append(make_run(f"killed-{len(runs)}", **CHANGES))
            newest = 0
        assert len(runs) < 20, f"no rank ever comes to {moments}"
    assert not killed(fork_ranks(context, runs[-1]), rng)
    for run in runs:
        assert_the_same(run, whole)
    # The kills did come amid what they must not break.
    assert left >= {"half a checkpoint", "half an export", "half a removal", "LATEST behind"}


def killed(
    ranks: list[ForkServerProcess], rng: random.Random, after_s: float | None = None
) -> bool:
    """Wait until all ranks have ended well, or one is killed; then all are, as an agent does it.

    `after_s`: it is killed here, so many seconds from now, and not by itself.
    """
    while alive := [rank for rank in ranks if rank.exitcode is None]:
        ended = wait([rank.sentinel for rank in alive], PATIENCE_S if after_s is None else after_s)
        if not ended:
            assert after_s is not None, "a rank hangs"
            rng.choice(alive).kill()
        elif any(rank.exitcode for rank in ranks):
            time.sleep(rng.uniform(0, POLL_S))
            assert -signal.SIGKILL in [rank.exitcode for rank in ranks], "a rank failed by itself"
            for rank in alive:
                rank.kill()
                rank.join()
    return any(rank.exitcode for rank in ranks)


def newest_step(run: RunFolder) -> int:
    """The step that the run would go on from; everything published must be whole."""
    for parent in (run.checkpoints, run.exports):
        for _, folder in published_steps(parent):
            verify(folder)
        latest = parent / LATEST
        assert not latest.exists() or (parent / latest.read_text().strip()).is_dir()
    newest, _ = newest_complete(run.checkpoints)
    return step_of(newest) if newest else 0


def what_is_left(run: RunFolder) -> set[str]:
    """What a kill has left half done."""
    left = set()
    for what, parent in {"a checkpoint": run.checkpoints, "an export": run.exports}.items():
        names = {path.name for path in parent.glob(".step-*")}
        left |= {f"half {what}" for name in names if ".attempt-" in name}
        left |= {"half a removal" for name in names if ".removed." in name}
        steps = published_steps(parent)
        latest = parent / LATEST
        if steps and not (latest.exists() and latest.read_text().strip() == steps[-1][1].name):
            left.add("LATEST behind")
    return left


def assert_the_same(run: RunFolder, whole: RunFolder) -> None:
    """Equal losses at every step, and equal weights, moments and averages wherever they are."""
    assert losses_of(run) == losses_of(whole)
    for parent, undisturbed in ((run.checkpoints, whole.checkpoints), (run.exports, whole.exports)):
        assert {path.name for path in parent.iterdir()} == {p.name for p in undisturbed.iterdir()}
        assert (parent / LATEST).read_text() == (undisturbed / LATEST).read_text()
    for step, folder in published_steps(run.exports):
        names = verify(folder)["files"].keys()
        assert names == verify(whole.export(step))["files"].keys()
        for name in names:  # not byte by byte: safetensors shuffles the lines of its metadata
            weights, expected = load_file(folder / name), load_file(whole.export(step) / name)
            assert weights.keys() == expected.keys()
            assert all(np.array_equal(weights[key], expected[key]) for key in expected), folder
    manifest, expected = (verify(one.checkpoint(LAST)) for one in (run, whole))
    assert manifest["files"] == expected["files"]  # the same bytes
    assert manifest["history"] == expected["history"]


def losses_of(run: RunFolder) -> dict[int, float]:
    """The loss of each step, which must be the same in each attempt that came to it."""
    losses: dict[int, float] = {}
    for number in range((run.last_attempt() or 0) + 1):
        for event in read_events(run.attempt(number), "step"):
            assert losses.setdefault(event["step"], event["loss"]) == event["loss"]
    assert sorted(losses) == list(range(1, LAST + 1))
    return losses
