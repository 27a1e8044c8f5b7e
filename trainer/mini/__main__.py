"""python -m trainer.mini start|pack: the two ends of making the mini model (`make mini-model`).

start   trains the autoencoder and CLIP, and writes a pipeline around them whose UNet is untrained
pack    puts the trained UNet of an export, and CLIP, into one small folder
"""

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import webdataset
from torch import Tensor
from transformers import CLIPModel

from cluster.config import build, read_yaml
from cluster.program import run_program
from cluster.run_folder import RunFolder, published_steps
from trainer.config import OptimConfig, TrainConfig
from trainer.data.config import DataConfig, WordsConfig
from trainer.data.loader import Batch, Stream, open_batches
from trainer.data.order import rank_positions
from trainer.data.shards import ShardFolder
from trainer.data.words import draw_sample
from trainer.mini.autoencoder import autoencoder_loss, psnr_db
from trainer.mini.clip import Pairs, contrastive_loss, share_matched, similarities
from trainer.mini.networks import (
    Size,
    new_autoencoder,
    new_clip,
    new_image_processor,
    new_tokenizer,
    save_model,
    set_latent_scale,
)
from trainer.models.exports import forget_where_it_lay
from trainer.models.pipeline import load_pipeline
from trainer.optimise import follow, optimise

AUTOENCODER_BATCH = 8  # small: at this size many steps count for more than large batches
CLIP_BATCH = 64
AUTOENCODER = OptimConfig(lr=2e-3, warmup_steps=200, schedule="cosine", weight_decay=0.0)
CLIP = OptimConfig(lr=1e-3, warmup_steps=200, schedule="cosine", weight_decay=0.05)
REFERENCES = 256
CHECKED = 512  # pictures that the two networks are judged on


def main() -> int:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.mini",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    start_parser = commands.add_parser("start", help="train the encoders")
    start_parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders of shards, taken in turn"
    )
    start_parser.add_argument("--out", type=Path, required=True, help="folder to write")
    start_parser.add_argument("--autoencoder-steps", type=int, default=12_000)
    start_parser.add_argument("--clip-steps", type=int, default=5_000)
    pack_parser = commands.add_parser("pack", help="make one small folder")
    pack_parser.add_argument("--start", type=Path, required=True, help="what `start` wrote")
    pack_parser.add_argument("--run", type=Path, required=True, help="run of mini_base.yaml")
    pack_parser.add_argument("--out", type=Path, required=True, help="folder to write")
    pack_parser.add_argument(
        "--style", type=Path, default=Path("recipes/mini.yaml"), help="whose style is real"
    )
    arguments = parser.parse_args()
    if arguments.command == "start":
        start(arguments.data, arguments.out, arguments.autoencoder_steps, arguments.clip_steps)
    else:
        pack(arguments.start, arguments.run, arguments.out)
        draw_references(arguments.style, arguments.out / "references.tar")
    return 0


def start(data: list[Path], out: Path, autoencoder_steps: int, clip_steps: int) -> None:
    """Train both encoders on the shards in `data`; write `out` (a pipeline) and `out`/clip."""
    torch.manual_seed(0)
    size, shards = Size(), [ShardFolder(folder) for folder in data]
    tokenizer, processor = new_tokenizer(size.max_tokens), new_image_processor()
    unseen = _unseen(shards[0])

    clip = new_clip(size, tokenizer)
    pairs = _in_turn(shards, clip_steps, CLIP_BATCH)

    def clip_loss() -> Tensor:
        return contrastive_loss(similarities(clip, tokenizer, processor, next(pairs)))

    follow("CLIP", optimise(clip, clip_loss, CLIP, clip_steps), clip_steps)
    matched = share_matched(clip, tokenizer, processor, unseen)
    print(f"CLIP finds the caption of {matched:.1%} of {CHECKED} unseen pictures among all of them")

    vae = new_autoencoder(size)
    images = (images for images, _ in _in_turn(shards, autoencoder_steps, AUTOENCODER_BATCH))

    def vae_loss() -> Tensor:
        return autoencoder_loss(vae, next(images).float() / 127.5 - 1)

    losses = optimise(vae, vae_loss, AUTOENCODER, autoencoder_steps)
    follow("autoencoder", losses, autoencoder_steps)
    set_latent_scale(vae, _latents(vae, unseen[0]))
    print(f"autoencoder: {psnr_db(vae, unseen[0]):.1f} dB over {CHECKED} unseen pictures")

    save_model(out, size, vae, clip, tokenizer)
    print(f"wrote {out}")


def pack(start_folder: Path, run: Path, out: Path) -> None:
    """The networks of the run's newest export in 16 bits in `out`, CLIP beside them."""
    _, export = published_steps(RunFolder.existing(run).exports)[-1]
    pipeline = load_pipeline(export, dtype=torch.float16)
    pipeline.save_pretrained(out)
    shutil.copytree(start_folder / "clip", out / "clip", dirs_exist_ok=True)
    CLIPModel.from_pretrained(start_folder / "clip", dtype=torch.float16).save_pretrained(
        out / "clip"
    )
    forget_where_it_lay(out)
    size_mb = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    print(f"wrote {export.name} to {out}: {size_mb:.1f} MB")


def draw_references(style: Path, tar: Path) -> None:
    """Real pictures in a recipe's style, of words that it never trains on."""
    words = build(TrainConfig, read_yaml(style)["train"], "train").data.words
    assert words is not None, style
    words = replace(words, split="held_out", random_words=0.0, seed=1)
    with webdataset.TarWriter(str(tar), mtime=0) as writer:
        for number in range(REFERENCES):
            buffer = io.BytesIO()
            draw_sample(words, number).image.save(buffer, "png")
            writer.write({"__key__": f"{number:04d}", "png": buffer.getvalue()})


def _in_turn(folders: list[ShardFolder], steps: int, batch: int) -> Iterator[Pairs]:
    sources = [_batches(shards, steps, batch) for shards in folders]
    for data in chain.from_iterable(zip(*sources, strict=True)):
        assert data.images is not None, "nothing is read from a cache"
        yield data.images, data.captions


def _batches(shards: ShardFolder, steps: int, batch: int) -> Iterator[Batch]:
    positions = rank_positions(0, steps, global_batch=batch, micro_batch=batch, rank=0, ranks=1)
    data = DataConfig(path=shards.folder)
    stream = Stream(shards, data, seed=0, global_batch=batch)
    return open_batches(stream, positions)


def _unseen(shards: ShardFolder) -> Pairs:
    """Pictures in the style of the shards, of words that are in none of them."""
    words = build(WordsConfig, shards.manifest["source"]["words"])
    words = replace(words, split="held_out", random_words=0.0, seed=words.seed + 1)
    samples = [draw_sample(words, number) for number in range(CHECKED)]
    pixels = [torch.from_numpy(np.array(sample.image)).permute(2, 0, 1) for sample in samples]
    return torch.stack(pixels), [sample.caption for sample in samples]


@torch.no_grad()
def _latents(vae: torch.nn.Module, images: Tensor) -> Tensor:
    latents: Tensor = vae.encode(images.float() / 127.5 - 1).latent_dist.mode()  # type: ignore[operator]
    return latents


if __name__ == "__main__":
    sys.exit(run_program(main))
