"""python -m benchmarks.data_loading: pictures a core reads, frames and tokenises in a second.

In turns, a batch at a time, so that whatever else the machine does slows all alike:

    decode         Pillow decodes the same JPEGs and does nothing else
    letterpress    our loader: shard, decode, crop, resize, batch; and the tokenizer
    imagefolder    Hugging Face `datasets` as diffusers' text-to-image example uses it: decode,
                   resize with its default Lanczos filter (or the cheaper bilinear one), crop, to
                   float, normalise, batch; and the tokenizer

Counted in seconds of CPU time of one process with one thread; the files are in the page cache. Ours
hands over bytes, which the GPU turns into floats; the example does that on the CPU.
Needs `pip install -e '.[bench]'`.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

from benchmarks.machine import machine
from trainer.data.build import build
from trainer.data.config import DataConfig, ImageFolderConfig
from trainer.data.framing import Size, choose_frame, frame_chance
from trainer.data.images import decode_image
from trainer.data.loader import Stream, open_batches
from trainer.data.order import rank_positions
from trainer.data.pixels import framed_image, spare_detail
from trainer.data.shards import ShardFolder

HERE = Path(__file__).parent
FRAME_PX = 512
BATCH = 8
QUALITY = 90
ROUNDS = 9


@dataclass(frozen=True, kw_only=True)
class Case:
    """Pictures of one kind."""

    name: str
    sizes: tuple[tuple[int, int], ...]
    pictures: int


CASES = (
    Case(name="web", sizes=((1024, 768), (768, 1024), (1024, 683), (1024, 1024)), pictures=64),
    Case(name="camera", sizes=((4000, 3000), (3000, 4000)), pictures=8),
)
PART_NAMES = ("read", "decode", "crop and resize", "tokenize")


def main() -> None:
    """Measure, print a table, and write it beside this file."""
    measured_on = machine()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    tokenizer = CLIPTokenizer.from_pretrained(HERE.parent / "assets/mini/tokenizer")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            results[case.name] = measure(case, Path(folder) / case.name, tokenizer)
            show(case.name, results[case.name])
    aims = targets(results["web"])
    report = {
        "command": "python -m benchmarks.data_loading",
        "unit": f"pictures per second of one core's time, median of {ROUNDS} rounds",
        "machine": measured_on,
        "versions": {name: version(name) for name in ("pillow", "torch", "datasets")},
        "frame_px": FRAME_PX,
        "jpeg_quality": QUALITY,
        "cases": results,
        "targets": aims,
    }
    for aim in aims:
        met = "met" if aim["met"] else f"missed: {aim['reason']}"
        print(f"{aim['target']}: {aim['measured']:.2f}, {met}")
    path = HERE / "results" / "data_loading-cpu.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")


def measure(case: Case, folder: Path, tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """The rates of everything that can read the pictures of one case."""
    pictures = draw_pictures(case)
    imagefolder = write_imagefolder(pictures, folder / "imagefolder")
    shards = folder / "shards"
    build(DataConfig(path=shards, imagefolder=ImageFolderConfig(path=imagefolder)))
    sides = {
        "decode": decoded(pictures),
        "decode, .convert('RGB')": decoded(pictures, convert=True),
        "letterpress": ours(shards, tokenizer),
        "imagefolder": theirs(imagefolder, tokenizer, Image.Resampling.LANCZOS),
        "imagefolder, bilinear": theirs(imagefolder, tokenizer, Image.Resampling.BILINEAR),
    }
    seconds = take_turns(sides, case.pictures // BATCH)
    rates = {name: statistics.median(case.pictures / s for s in seconds[name]) for name in sides}
    ratios = {
        f"letterpress / {name}": statistics.median(
            other / mine for mine, other in zip(seconds["letterpress"], seconds[name], strict=True)
        )
        for name in sides
        if name != "letterpress"
    }
    return {
        "pictures": case.pictures,
        "sizes": case.sizes,
        "mean_bytes": round(statistics.mean(map(len, pictures))),
        "pictures_per_s": rates,
        "ratios": ratios,
        "letterpress_ms": time_parts(shards, tokenizer),
        "psnr_db_to_lanczos": likeness(pictures),
    }


def take_turns(sides: Mapping[str, Iterator[object]], batches: int) -> dict[str, list[float]]:
    """CPU seconds of each side for each round over all pictures."""
    for side in sides.values():
        next(side)  # caches, imports
    seconds: dict[str, list[float]] = {name: [0.0] * ROUNDS for name in sides}
    for turn, _ in itertools.product(range(ROUNDS), range(batches)):
        for name, side in sides.items():
            start = time.process_time()
            next(side)
            seconds[name][turn] += time.process_time() - start
    return seconds


def decoded(pictures: list[bytes], convert: bool = False) -> Iterator[None]:
    """Pillow alone, a batch at a time, without end."""
    for batch in _batches(pictures):
        for data in batch:
            image = Image.open(io.BytesIO(data))
            if convert:
                image.convert("RGB")
            else:
                image.load()
        yield


def ours(folder: Path, tokenizer: CLIPTokenizer) -> Iterator[Tensor]:
    """Our loader, a batch at a time, without end."""
    config = DataConfig(path=folder, resolution=FRAME_PX)
    positions = rank_positions(0, 10**9, global_batch=BATCH, micro_batch=BATCH, rank=0, ranks=1)
    stream = Stream(ShardFolder(folder), config, seed=0, global_batch=BATCH)
    for batch in open_batches(stream, positions):
        assert not batch.broken
        tokenize(tokenizer, batch.captions)
        yield batch.images


def theirs(
    folder: Path, tokenizer: CLIPTokenizer, resample: Image.Resampling
) -> Iterator[dict[str, Tensor]]:
    """`datasets` and the transforms of diffusers' example, a batch at a time, without end."""
    loaded: Any = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(folder / ".cache")
    )

    def transform(examples: dict[str, list[Any]]) -> dict[str, Any]:
        images = [to_square(image.convert("RGB"), resample) for image in examples["image"]]
        return {"pixels": images, "ids": tokenize(tokenizer, examples["text"])}

    loader: Any = torch.utils.data.DataLoader(
        loaded.with_transform(transform), shuffle=True, batch_size=BATCH
    )
    while True:
        yield from loader


def to_square(image: Image.Image, resample: Image.Resampling) -> Tensor:
    """The shorter side to the frame's, the middle of the longer one, floats from -1 to 1."""
    scale = FRAME_PX / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    left, top = (size[0] - FRAME_PX) // 2, (size[1] - FRAME_PX) // 2
    resized = image.resize(size, resample)
    cropped = resized.crop((left, top, left + FRAME_PX, top + FRAME_PX))
    pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1).contiguous()
    return (pixels.float() / 255 - 0.5) / 0.5


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """The tokens of captions, as Parts.encode_captions asks for them."""
    ids: Tensor = tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return ids


def time_parts(folder: Path, tokenizer: CLIPTokenizer) -> dict[str, float]:
    """Milliseconds of CPU time that each part of our path takes for a picture."""
    shards = ShardFolder(folder)
    sizes = shards.sizes
    spent = np.zeros((len(shards), len(PART_NAMES)))
    for number in [0, *range(len(shards))]:  # the first one twice: it warms up
        frame = choose_frame(
            Size(*map(int, sizes[number])),
            Size(FRAME_PX, FRAME_PX),
            crop="center",
            flip=0,
            chance=frame_chance(0, number),
        )
        times = [time.process_time()]
        data, caption = shards.read(number, "jpg"), shards.caption(number)
        times.append(time.process_time())
        image = decode_image(data, spare_detail(frame))
        times.append(time.process_time())
        framed_image(image, frame)
        times.append(time.process_time())
        tokenize(tokenizer, [caption])
        times.append(time.process_time())
        spent[number] = np.diff(times) * 1000
    return dict(zip(PART_NAMES, np.median(spent, axis=0).round(3).tolist(), strict=True))


def likeness(pictures: list[bytes]) -> dict[str, float]:
    """How near pictures come to Pillow's Lanczos filter on the whole picture, as PSNR."""
    errors: dict[str, list[float]] = {"as trained on": [], "if decoded whole": []}
    for data in pictures[:8]:
        whole = decode_image(data)
        frame = choose_frame(
            Size(*whole.size),
            Size(FRAME_PX, FRAME_PX),
            crop="center",
            flip=0,
            chance=frame_chance(0, 0),
        )
        box = (frame.left, frame.top, frame.left + frame.box.width, frame.top + frame.box.height)
        wanted = np.asarray(whole.resize(frame.size, Image.Resampling.LANCZOS, box=box), np.float64)
        in_part = decode_image(data, spare_detail(frame))
        for name, image in (("as trained on", in_part), ("if decoded whole", whole)):
            found = framed_image(image, frame).permute(1, 2, 0).numpy()
            errors[name].append(float(np.square(found - wanted).mean()))
    return {
        name: round(10 * float(np.log10(255**2 / np.mean(error))), 2)
        for name, error in errors.items()
    }


def targets(web: dict[str, Any]) -> list[dict[str, Any]]:
    """What was set out to reach with pictures of the web, and whether it is."""
    parts = web["letterpress_ms"]
    beside = 1000 / web["pictures_per_s"]["letterpress"] - parts["decode"]
    reasons = {
        "decode": (
            f"beside {parts['decode']:.1f} ms of decoding a picture takes {beside:.1f} ms: "
            f"{parts['crop and resize']:.1f} to copy its pixels out of Pillow and to resize them "
            "with antialiasing, the rest for reading, tokenizing, batching and fresh memory. 0.8 "
            f"would leave {parts['decode'] / 4:.1f} ms for all of it: less than that copy and the "
            "fastest antialiased filter of Pillow, OpenCV and torch take"
        ),
        "imagefolder": "",
    }
    rows = []
    for name, wanted in (("decode", 0.8), ("imagefolder", 1.5)):
        measured = web["ratios"][f"letterpress / {name}"]
        met = measured >= wanted
        rows.append(
            {
                "target": f"letterpress / {name} >= {wanted}",
                "measured": round(measured, 3),
                "met": met,
                "reason": None if met else reasons[name],
            }
        )
    return rows


def show(name: str, result: dict[str, Any]) -> None:
    """Print the rates of one case."""
    decode = result["pictures_per_s"]["decode"]
    print(f"{name}: {result['pictures']} JPEGs of {result['mean_bytes'] / 1000:.0f} kB on average")
    for side, rate in result["pictures_per_s"].items():
        print(f"  {side:24} {rate:7.1f} pictures/s  {rate / decode:5.2f} of decode")
    print("  a picture takes us (ms)", result["letterpress_ms"])
    print("  PSNR to Lanczos (dB)   ", result["psnr_db_to_lanczos"])


def draw_pictures(case: Case) -> list[bytes]:
    """JPEGs with the falling spectrum of photographs and the noise of a sensor."""
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(case.pictures):
        width, height = case.sizes[number % len(case.sizes)]
        light = _clouds(width, height, rng)
        planes = [45 * (0.9 * light + 0.3 * _clouds(width, height, rng)) for _ in range(3)]
        levels = np.stack(planes, axis=-1) + 120 + rng.normal(0, 3, (height, width, 1))
        buffer = io.BytesIO()
        Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=QUALITY)
        pictures.append(buffer.getvalue())
    return pictures


def write_imagefolder(pictures: list[bytes], folder: Path) -> Path:
    """The pictures and their captions as `datasets` reads them."""
    folder.mkdir(parents=True)
    lines = []
    for number, data in enumerate(pictures):
        (folder / f"{number:06d}.jpg").write_bytes(data)
        lines.append(json.dumps({"file_name": f"{number:06d}.jpg", "text": _caption(number)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def _clouds(width: int, height: int, rng: np.random.Generator) -> NDArray[np.float64]:
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = np.maximum(np.hypot(down, across), 1 / max(width, height)) ** -1.2
    phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
    field = np.fft.irfft2(amplitude * phase, s=(height, width))
    standardized: NDArray[np.float64] = (field - field.mean()) / field.std()
    return standardized


def _caption(number: int) -> str:
    return f"a photograph of a street with a sign that says 'open', number {number}"


def _batches(pictures: list[bytes]) -> Iterator[list[bytes]]:
    for first in itertools.cycle(range(0, len(pictures), BATCH)):
        yield pictures[first : first + BATCH]


if __name__ == "__main__":
    main()
