"""A segmenter learns from pictures of which the characters are known."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import OptimConfig
from trainer.data.loader import Batch, Stream, fixed_batches, open_batches
from trainer.data.order import rank_positions
from trainer.data.samples import WHAT_IT_IS
from trainer.data.shards import CHARSEG_MEMBER, ShardFolder
from trainer.distributed import find_device
from trainer.models.family import Family
from trainer.models.pipeline import load_family
from trainer.models.segmenter import Segmenter, latent_labels, load_segmenter, save_segmenter
from trainer.objectives.randomness import seed_of
from trainer.optimise import follow, optimise
from trainer.segmenter.config import SegmenterConfig


class Samples(NamedTuple):
    """What a segmenter learns from, and what it is judged on."""

    shards: ShardFolder
    held_out: NDArray[np.int64]
    """Numbers of the samples that it is judged on."""
    left_out: NDArray[np.int64]
    """Those that are not trained on: they, and all whose characters are not known."""


class Accuracy(NamedTuple):
    """How many labels of latents are told right."""

    background: float
    """Of those that show no character, 0 to 1."""
    characters: float
    """Of those that show one: told as that very one, 0 to 1."""
    latents: int
    """Of both kinds."""


def make_segmenter(config: SegmenterConfig) -> str:
    """Train a segmenter and write it; says how right the file is."""
    samples = open_samples(config)
    family = load_family(
        config.model,
        model_config=config.model_config,
        device=find_device(config.device, 0, "device"),
        dtype_of=lambda _: torch.float32,
    )
    segmenter = train_segmenter(config, family, samples)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    staging = config.out.with_name(f".{config.out.name}.tmp.safetensors")
    save_segmenter(segmenter, staging)
    written = load_segmenter(staging, segmenter.latent_channels).to(family.device)
    found = measure(written, config, family, samples)
    staging.rename(config.out)
    return (
        f"on {found.latents:,} latents of {len(samples.held_out):,} held-out samples: "
        f"background {found.background:.1%} right, characters {found.characters:.1%}\n"
        f"wrote {config.out}: {config.out.stat().st_size / 1e6:.2f} MB"
    )


def open_samples(config: SegmenterConfig) -> Samples:
    """The samples whose characters are known; ValueError if there are too few."""
    shards = ShardFolder(config.data.path)
    if not shards.knows("characters"):
        raise ValueError(
            f"a segmenter needs to know {WHAT_IT_IS['characters']}, and data.path "
            f"{config.data.path} does not tell: take samples with words, built again if an older "
            "version drew them"
        )
    told = shards.index[CHARSEG_MEMBER][:, 1] > 0
    known, unknown = np.flatnonzero(told), np.flatnonzero(~told)
    if 2 * config.held_out > len(known):
        raise ValueError(
            f"held_out {config.held_out} is more than half of the {len(known)} samples in "
            f"{config.data.path} whose characters are known: take fewer, or more samples"
        )
    lot = np.random.default_rng(config.seed).permutation(known)
    held_out = np.sort(lot[: config.held_out])
    return Samples(shards, held_out, np.sort(np.concatenate([held_out, unknown])))


def train_segmenter(config: SegmenterConfig, family: Family, samples: Samples) -> Segmenter:
    """Learn from all samples that are not left out; progress is printed."""
    torch.manual_seed(config.seed)
    channels = int(family.vae.config.latent_channels)
    segmenter = Segmenter(channels, config.widths).to(family.device).train()
    batches = batches_of(config, samples)
    noise = torch.Generator().manual_seed(seed_of(config.seed, "latents"))

    def next_loss() -> Tensor:
        latents, labels = _latents_and_labels(family, next(batches), noise)
        return F.cross_entropy(segmenter(latents), labels)

    optim = OptimConfig(lr=config.lr, warmup_steps=config.steps // 10, schedule="cosine")
    follow("segmenter", optimise(segmenter, next_loss, optim, config.steps), config.steps)
    return segmenter


@torch.no_grad()
def measure(
    segmenter: Segmenter, config: SegmenterConfig, family: Family, samples: Samples
) -> Accuracy:
    """The accuracy on the samples that were held out."""
    right, seen = torch.zeros(2, 2, dtype=torch.int64)
    noise = torch.Generator().manual_seed(seed_of(config.seed, "held out"))
    batches = fixed_batches(
        samples.shards, config.data, samples.held_out, config.batch, ["characters"]
    )
    for batch in batches:
        latents, labels = _latents_and_labels(family, batch, noise)
        told = segmenter(latents).argmax(dim=1)
        for kind, here in enumerate((labels == 0, labels > 0)):
            right[kind] += int((told == labels)[here].sum())
            seen[kind] += int(here.sum())
    background, characters = (right / seen).tolist()
    return Accuracy(background, characters, int(seen.sum()))


def batches_of(config: SegmenterConfig, samples: Samples) -> Iterator[Batch]:
    """A batch for each step, of samples that are not left out."""
    stream = Stream(
        samples.shards,
        config.data,
        seed=config.seed,
        global_batch=config.batch,
        truth=["characters"],
        held_out=samples.left_out,
    )
    positions = rank_positions(
        0, config.steps, global_batch=config.batch, micro_batch=config.batch, rank=0, ranks=1
    )
    return open_batches(stream, positions)


def _latents_and_labels(
    family: Family, batch: Batch, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scaled latents, batch channels h w, and the label of each, batch h w."""
    assert batch.images is not None
    assert batch.characters is not None
    rows, _, height, width = batch.images.shape
    shape = family.latent_shape(height, width, "the samples are")
    latents = family.encode_images(batch.images, torch.randn(rows, *shape, generator=noise)).float()
    return latents, latent_labels(batch.characters, latents.shape[2:]).to(latents.device)
