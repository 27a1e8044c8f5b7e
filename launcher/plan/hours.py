"""The second half of a plan: hours, saves and what they cost, on each kind of GPU."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from cluster.table import align
from launcher.plan.failures import FAILURES, Failing, between_failures_s
from launcher.plan.model import Model, work_of
from launcher.plan.speed import (
    GPUS,
    LINK_SHARE,
    MFU,
    Machines,
    computing_s,
    picture_flop,
    sending_s,
    sent_bytes,
)
from trainer.config import TrainConfig

COPY_GB_PER_S = 10  # from a GPU to host memory, for which the steps wait
LEAST_SAVE_S = 1.0  # the ranks agree, and one of them publishes


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user knows that a plan does not."""

    images_per_s: float | None = None
    """Of one GPU, measured among as many as there will be."""
    price: float | None = None
    """Of a GPU for an hour."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast steps are on a kind of GPU: a column of the table."""

    name: str
    step_s: float
    computing_s: float | None = None
    """Null where only the whole is known."""
    sending_s: float | None = None


def hours_lines(
    config: TrainConfig, model: Model, machines: Machines, asked: Asked
) -> Iterator[str]:
    """Operations and bytes, the table, and what is assumed in it."""
    flop, pictures = picture_flop(config, model), config.steps * config.global_batch
    judged = f", {flop['judge'] / 1e12:.3g} to judge it" if flop["judge"] else ""
    yield (
        f"time:   {flop['train'] / 1e12:.3g} TFLOP to learn a picture and "
        f"{flop['encode'] / 1e12:.3g} to encode it{judged}, {pictures:,} pictures in "
        f"{config.steps:,} steps"
    )
    size, export = checkpoint_bytes(config, model)
    saves = -(-config.steps // config.save_every)
    yield (
        f"saves:  {_size(size)} for a checkpoint and {_size(export)} for its export, {saves} times "
        f"in the run (train.save_every {config.save_every})"
    )
    speeds = speeds_of(config, model, machines, asked.images_per_s)
    if not speeds:
        yield "        hours are unknown on a CPU: --images-per-s says what one rank does"
        return
    failing = failing_of(config, model, machines)
    yield from ["", *_table(config, machines, speeds, failing, asked.price)]
    if failing:
        yield ""
        if asked.images_per_s is None:
            yield from _assumed_speed(config, model, machines)
        yield from _assumed_failures(failing)


def checkpoint_bytes(config: TrainConfig, model: Model) -> tuple[float, float]:
    """Of a checkpoint, fp32 masters, moments and average; and of the export beside it."""
    work = work_of(config, model)
    checkpoint = 4 * (4 if config.ema else 3) * work.trained
    if "full" not in (config.unet, config.text_encoder):
        return checkpoint, 4 * work.trained  # the adapters
    size = 2 if config.precision == "bf16" else 4
    return checkpoint, size * (work.trained + work.base + work.frozen)  # a whole diffusers folder


def speeds_of(
    config: TrainConfig, model: Model, machines: Machines, images_per_s: float | None
) -> list[Speed]:
    """A column for each kind of GPU, or the one that was measured; none for an unmeasured CPU."""
    if images_per_s is not None:
        step_s = config.global_batch / (images_per_s * machines.ranks)
        return [Speed(name=f"{images_per_s:g} pictures/s", step_s=step_s)]
    if config.device == "cpu":
        return []
    computing = [computing_s(config, model, machines.ranks, gpu) for gpu in GPUS]
    sending = [sending_s(config, model, machines, gpu) for gpu in GPUS]
    return [
        Speed(name=gpu.name, step_s=there + sent, computing_s=there, sending_s=sent)
        for gpu, there, sent in zip(GPUS, computing, sending, strict=True)
    ]


def failing_of(config: TrainConfig, model: Model, machines: Machines) -> Failing | None:
    """What saves and failures cost; null on CPUs, of which nobody has counted failures."""
    if config.device == "cpu":
        return None
    copy_s = checkpoint_bytes(config, model)[0] / machines.ranks / (COPY_GB_PER_S * 1e9)
    between_s = between_failures_s(machines.ranks)
    return Failing(between_s=between_s, save_s=max(LEAST_SAVE_S, copy_s))


def _table(
    config: TrainConfig,
    machines: Machines,
    speeds: Sequence[Speed],
    failing: Failing | None,
    price: float | None,
) -> list[str]:
    rows = [["", *(speed.name for speed in speeds)]]

    def row(title: str, number: Callable[[Speed], float], form: str) -> None:
        rows.append([title, *(format(number(speed), form) for speed in speeds)])

    def goodput(speed: Speed) -> float:
        return failing.goodput(config.save_every * speed.step_s) if failing else 1.0

    def hours(speed: Speed) -> float:
        share = goodput(speed)  # 0: it never ends
        return config.steps * speed.step_s / share / 3600 if share else inf

    if speeds[0].computing_s is not None:
        row("computing, s a step", lambda speed: speed.computing_s or 0.0, ".3f")
        row("sending, s a step", lambda speed: speed.sending_s or 0.0, ".3f")
    if failing:
        row(f"goodput, saving every {config.save_every:,} steps", goodput, ".2%")
    row("hours", hours, ",.2f")
    if config.device == "cuda":
        row("GPU-hours", lambda speed: machines.ranks * hours(speed), ",.1f")
    if price is not None:
        row(f"cost, at {price:g}", lambda speed: price * machines.ranks * hours(speed), ",.2f")
    if failing:
        rows += _saves(config, speeds, failing)
    return align(rows)


def _saves(config: TrainConfig, speeds: Sequence[Speed], failing: Failing) -> Iterator[list[str]]:
    """The recipe's saves beside those that lose least."""
    best = [best_save_every(config, speed.step_s, failing) for speed in speeds]
    minutes = [f"{config.save_every * speed.step_s / 60:,.1f}" for speed in speeds]
    yield ["minutes between two saves", *minutes]
    yield ["least is lost by saving every … steps", *(f"{steps:,}" for steps in best)]
    then = [failing.goodput(n * s.step_s) for n, s in zip(best, speeds, strict=True)]
    yield ["goodput then", *(f"{share:.2%}" for share in then)]


def best_save_every(config: TrainConfig, step_s: float, failing: Failing) -> int:
    """Steps between saves that lose least; the last step is saved anyway."""
    return min(config.steps, max(1, round(failing.best_interval_s / step_s)))


def _assumed_speed(config: TrainConfig, model: Model, machines: Machines) -> Iterator[str]:
    halved = 1 if config.precision == "bf16" else 2
    peaks = " and ".join(f"{gpu.peak_tflops / halved:g}" for gpu in GPUS)
    yield f"speed:  {MFU:.0%} of {peaks} TFLOP/s; samples come as fast as they are learnt"
    if machines.ranks > 1:
        links = " and ".join(f"{gpu.link_gb_per_s:g}" for gpu in GPUS)
        between = f", of {machines.gbit_per_s:g} Gbit/s between nodes"
        yield (
            f"        a rank sends {_size(sent_bytes(config, model, machines.ranks))} a step, at "
            f"{LINK_SHARE:.0%} of NVLink's {links} GB/s{between if machines.nodes > 1 else ''}"
        )


def _assumed_failures(failing: Failing) -> Iterator[str]:
    yield (
        f"losses: a save stops the steps for {failing.save_s:.1f} s (to host memory, at "
        f"{COPY_GB_PER_S} GB/s); a failure every {failing.between_s / 86400:,.0f} days, for "
        f"{FAILURES:.2f} in"
    )
    yield (
        f"        1000 days of 8 GPUs (Llama 3), and {failing.restart_s:.0f} s until it computes "
        "again; more where jobs are preempted"
    )


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
