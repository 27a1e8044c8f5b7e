"""python -m benchmarks.throughput [MODEL]: pictures per second of one rank, technique by technique.

The trainer's own engine, learner and objective, on random weights of the shape of Stable Diffusion
1.5 (sd15) or XL (sdxl) at their own resolution; without a GPU on a tiny model (tiny) in seconds of
one core's time, which says nothing about a GPU. Each line is a process of its own and has all that
the lines above it have. Given latents and embeddings stand for an encoded data set; with online
encoding the autoencoder and the text encoder run at every step, as in the peer, `plain loop`
(benchmarks/plain_loop.py).

MFU is operations over what the GPU could do in bf16 in that time. Operations are counted by torch's
FlopCounterMode on meta tensors, forward and backward, without what gradient checkpointing repeats
and without encoding.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import trainer.engine
from benchmarks.machine import machine
from benchmarks.models import SHAPES, TOKENS, new_networks, write_model
from benchmarks.plain_loop import PlainLoop
from benchmarks.ranks import Training, on_ranks, random_batch, start_training, train_config
from trainer import distributed
from trainer.config import LoraConfig
from trainer.data.loader import Batch
from trainer.models.family import Conditioning, TokenIds
from trainer.models.lora import add_lora
from trainer.models.pipeline import load_family
from trainer.objectives.denoising import Denoising

HERE = Path(__file__).parent
ROUNDS = 5
# Dense bf16 TFLOP/s by NVIDIA's data sheets.
PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0}
NO_GPU = "not measured: no GPU"
Case = dict[str, Any]


def main(model: str | None = None) -> None:
    """Measure every line, print them, and write them beside this file."""
    measured_on = machine()
    on_gpu = torch.cuda.is_available()
    model = model or ("sd15" if on_gpu else "tiny")
    if model not in SHAPES:
        raise SystemExit(f"error: {model!r} is no model: choose from {', '.join(SHAPES)}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(model, Path(folder), "cuda" if on_gpu else "cpu")
        for name, case in lines(model, on_gpu):
            case["train"]["model"] = folder
            rows.append({"line": name, **measure(case)})
            print(show(rows[-1]), flush=True)
    report = {
        "command": f"python -m benchmarks.throughput {model}",
        "unit": f"pictures per second of one rank, median of {ROUNDS} rounds"
        + ("" if on_gpu else "; seconds of one core's time"),
        "machine": measured_on,
        "versions": {name: version(name) for name in ("torch", "deepspeed", "diffusers", "peft")},
        "model": model,
        "resolution": SHAPES[model].resolution,
        "cases": rows,
        "targets": targets(rows, on_gpu),
    }
    for target in report["targets"]:
        print(f"{target['target']}: {target['measured']}")
    path = HERE / "results" / f"throughput-{model}-{'gpu' if on_gpu else 'cpu'}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")


def lines(model: str, on_gpu: bool) -> list[tuple[str, Case]]:
    """What is measured, by name: each with all that stands above it, but for the last ones."""
    small, large = (4, 16) if model == "sdxl" else (8, 32)
    if not on_gpu:
        small, large = 2, 4
    case: Case = {
        "model": model,
        "resolution": SHAPES[model].resolution,
        "attention": "math",
        "fused": False,
        "cached": True,
        "train": {"precision": "fp32", "device": "cuda" if on_gpu else "cpu", "zero": {"stage": 0}},
    }
    _set_batch(case, small)
    found: list[tuple[str, Case]] = []

    def add(name: str, change: Callable[[Case], object], *, keep: bool = True) -> None:
        nonlocal case
        changed = json.loads(json.dumps(case))
        change(changed)
        found.append((name, changed))
        case = changed if keep else case

    def speed(key: str) -> Callable[[Case], object]:
        return lambda c: c["train"].setdefault("speed", {}).update({key: True})

    # A CPU takes minutes for a convolution's backward pass in bf16, and has its one attention.
    add("full, fp32, attention spelled out" if on_gpu else "full, fp32", lambda c: None)
    if on_gpu:
        add("+ bf16", lambda c: c["train"].update(precision="bf16"))
        add("+ fused attention kernels", lambda c: c.update(attention="fused"))
    add("+ channels_last", speed("channels_last"))
    if on_gpu:
        add("+ compiled blocks", speed("compile"))
        add("+ fused AdamW", lambda c: c.update(fused=True))
    add(f"+ {large} pictures at a time", lambda c: _set_batch(c, large))
    add("+ running average", lambda c: c["train"].update(ema={}))
    add("the same with gradient checkpointing", speed("gradient_checkpointing"), keep=False)
    add("the same with online encoding", lambda c: c.update(cached=False), keep=False)
    add("lora, given latents and embeddings", _to_lora)
    add("lora, online encoding", lambda c: c.update(cached=False))
    add("lora, plain loop with online encoding", lambda c: c.update(plain=True))
    return found


def _set_batch(case: Case, pictures: int) -> None:
    case["train"].update(micro_batch=pictures, global_batch=pictures)


def _to_lora(case: Case) -> None:
    case["train"].update(unet="lora", ema=None)


def measure(case: Case) -> dict[str, Any]:
    """One line in a process of its own; what it died of, if it did."""
    try:
        (measured,) = on_ranks("benchmarks.throughput", case, 1)
    except RuntimeError as error:
        return {"error": str(error).strip().rpartition("\n")[2]}
    return measured


def measure_rank(case: Case) -> dict[str, Any]:
    """Pictures per second, operations, memory."""
    pictures = case["train"]["global_batch"]
    _set_kernels(case)
    step = _plain_step(case) if case.get("plain") else _our_step(case)
    on_gpu = case["train"]["device"] == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)
    steps = 10 if on_gpu else 2
    _timed(step, 4, on_gpu)  # compilation, the choice of kernels, AdamW's state
    rates = [steps * pictures / _timed(step, steps, on_gpu) for _ in range(ROUNDS)]
    rate = statistics.median(rates)
    flop = picture_flop(case)
    peak = _peak_tflops() if on_gpu else None
    return {
        "pictures_per_s": round(rate, 3),
        "spread": round((max(rates) - min(rates)) / rate, 3),
        "pictures_at_a_time": pictures,
        "tflop_per_picture": round(flop / 1e12, 4),
        "tflops": round(rate * flop / 1e12, 2),
        "mfu": round(rate * flop / 1e12 / peak, 4) if peak else None,
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
    }


class Given(Denoising):
    """The trainer's objective on latents and embeddings that are there already."""

    def __init__(self, of: Denoising, batch: Batch) -> None:
        self.__dict__.update(of.__dict__)
        channels, height, width = of.latent_shape(batch)
        shape = (len(batch.captions), channels, height, width)
        self._latents = torch.randn(shape, device=of.family.device)
        with torch.no_grad():
            self._told = of.captions(batch.captions)

    def latents(self, batch: Batch, posterior: Tensor) -> Tensor:
        """Of the batch, scaled."""
        return self._latents

    def captions(self, captions: Any) -> TokenIds | Conditioning:
        """Their embeddings."""
        return self._told


def _our_step(case: Case) -> Callable[[], None]:
    training = start_training(train_config(case["train"]), case["resolution"])
    if not case["cached"]:
        return training.step
    assert isinstance(training.objective, Denoising), "no case here has rewards"
    given = Given(training.objective, training.batch)
    return Training(training.config, training.world, given, training.learner, training.batch).step


def _plain_step(case: Case) -> Callable[[], None]:
    config = train_config(case["train"])
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    family = load_family(config.model, device=torch.device(config.device), dtype_of=lambda _: dtype)
    batch = random_batch(config.micro_batch, case["resolution"])
    return PlainLoop(family, batch, rank=8, clip_norm=config.optim.clip_norm).step


def _set_kernels(case: Case) -> None:
    """Attention spelled out or by fused kernels, AdamW as torch chooses or in one kernel."""
    fused = case["attention"] == "fused"
    torch.backends.cuda.enable_flash_sdp(fused)
    torch.backends.cuda.enable_mem_efficient_sdp(fused)
    torch.backends.cuda.enable_cudnn_sdp(fused)
    make = trainer.engine.new_optimizer

    def new_optimizer(*arguments: Any) -> torch.optim.Optimizer:
        optimizer = make(*arguments)
        for group in optimizer.param_groups:
            group["fused"] = group["fused"] if case["fused"] else None  # torch's own choice
        return optimizer

    trainer.engine.new_optimizer = new_optimizer


def picture_flop(case: Case) -> float:
    """Operations to learn one picture, forward and backward, counted on tensors without values."""
    config = train_config(case["train"])
    with torch.device("meta"):
        unet = new_networks(case["model"])["unet"]
        side = case["resolution"] // 8
        noised = torch.empty(1, unet.config.in_channels, side, side)
        context = torch.empty(1, TOKENS, unet.config.cross_attention_dim)
        told = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        timesteps = torch.empty(1, dtype=torch.long)
    if config.unet == "lora":
        unet.requires_grad_(False)
        with torch.device("meta"):
            add_lora(unet, LoraConfig(), LoraConfig().target_modules)
    with FlopCounterMode(display=False) as counter:
        unet(noised, timesteps, context, added_cond_kwargs=told).sample.sum().backward()
    return float(counter.get_total_flops())


def _timed(step: Callable[[], None], steps: int, on_gpu: bool) -> float:
    """Seconds; on a CPU of the processor's time, whatever else it does."""
    clock = time.perf_counter if on_gpu else time.process_time
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    wait()
    start = clock()
    for _ in range(steps):
        step()
    wait()
    return clock() - start


def _peak_tflops() -> float | None:
    name = torch.cuda.get_device_name()
    return next((peak for gpu, peak in PEAK_TFLOPS.items() if gpu in name), None)


def targets(rows: list[dict[str, Any]], on_gpu: bool) -> list[dict[str, Any]]:
    """What was set out to reach on a GPU, and whether it is."""
    by_line = {row["line"]: row for row in rows}
    peer = by_line["lora, plain loop with online encoding"].get("pictures_per_s")
    measured = {
        "lora, online encoding / plain loop >= 1.5": (
            _over(by_line["lora, online encoding"].get("pictures_per_s"), peer),
            1.5,
        ),
        "lora, given latents / plain loop >= 2": (
            _over(by_line["lora, given latents and embeddings"].get("pictures_per_s"), peer),
            2.0,
        ),
        "MFU of full fine-tuning with a running average >= 0.4": (
            by_line["+ running average"].get("mfu"),
            0.4,
        ),
    }
    return [
        {
            "target": name,
            "measured": value if on_gpu else NO_GPU,
            "met": value is not None and value >= wanted if on_gpu else None,
        }
        for name, (value, wanted) in measured.items()
    ]


def _over(ours: float | None, theirs: float | None) -> float | None:
    return round(ours / theirs, 3) if ours and theirs else None


def show(row: dict[str, Any]) -> str:
    """One line of the table."""
    if "error" in row:
        return f"{row['line']:52} {row['error']}"
    mfu = f"  MFU {row['mfu']:.1%}" if row["mfu"] else ""
    memory = f"  {row['memory_gib']:6.1f} GiB" if row["memory_gib"] else ""
    return f"{row['line']:52} {row['pictures_per_s']:9.2f} pictures/s{mfu}{memory}"


if __name__ == "__main__":
    if len(sys.argv) == 3:
        case, out = sys.argv[1:]
        Path(out).write_text(json.dumps(measure_rank(json.loads(case))))
        if torch.distributed.is_initialized():  # not by the plain loop
            distributed.finish()
    else:
        main(*sys.argv[1:])
