"""Aspect-ratio buckets: a few frames of like area, and the nearest of them for each picture.

So a wide picture is trained on wide, while a step still computes pictures of one shape.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.config import DataConfig
from trainer.data.framing import Size

LEFT_OUT = -1


@dataclass(frozen=True, kw_only=True)
class BucketFill:
    """What one bucket holds, or what none holds."""

    size: Size | None
    """Of its frame; None: the pictures that are left out."""
    samples: int
    """Pictures in it."""
    batches_per_epoch: float
    """Global batches that they fill."""
    cropped: float | None
    """Mean share of a picture's pixels that its frame cuts away, 0 to 1."""
    upscaled: int
    """Pictures that are enlarged to fill their frame."""
    remark: str
    """What to know of this bucket; empty: nothing."""


def bucket_sizes(config: DataConfig) -> list[Size]:
    """The frames of a config, from the tallest to the widest; none if it has no resolution.

    For each side that is a multiple of `step_px`, the longest other side with which the frame has
    no more pixels than the square: a batch that fits the memory as squares fits it in every bucket.
    At 1024 all of them are sizes that SDXL was trained on (Podell et al. 2023, appendix I).
    """
    side = config.resolution
    if side is None:
        return []
    if config.buckets is None:
        return [Size(side, side)]
    step, most = config.buckets.step_px, config.buckets.max_aspect
    sizes = {Size(side, side)}
    for longer in range(side, int(side * most) + 1, step):
        shorter = side * side // longer // step * step
        if shorter and longer <= shorter * most:
            sizes |= {Size(longer, shorter), Size(shorter, longer)}
    for shorter in range(step, side, step):
        longer = side * side // shorter // step * step
        if longer <= shorter * most:
            sizes |= {Size(longer, shorter), Size(shorter, longer)}
    return sorted(sizes, key=lambda size: size.width / size.height)


def assign_buckets(sizes: NDArray[np.int64], config: DataConfig) -> NDArray[np.int16]:
    """The bucket of each picture, as an index into `bucket_sizes(config)`, or LEFT_OUT.

    Sizes are (samples 2), width and height. A picture goes where the least of it is cut away.
    Without a resolution all are in bucket 0, and must be of one size; ValueError if they are not.
    """
    if config.resolution is None:
        _refuse_mixed_sizes(sizes)
        return np.zeros(len(sizes), np.int16)
    buckets = np.full(len(sizes), LEFT_OUT, np.int16)
    most_kept = np.zeros(len(sizes))
    for number, frame in enumerate(bucket_sizes(config)):  # one by one: memory stays low
        kept = _kept(sizes, frame)
        nearer = kept > most_kept
        if config.max_upscale is None:
            buckets[nearer] = number
        else:
            fits = _scale(sizes, frame) <= config.max_upscale
            buckets[nearer] = np.where(fits[nearer], number, LEFT_OUT)
        most_kept = np.maximum(most_kept, kept)
    if (buckets == LEFT_OUT).all():
        raise ValueError(
            f"all {len(sizes)} pictures had to be enlarged by more than max_upscale "
            f"{config.max_upscale}: lower the resolution {config.resolution}, or raise max_upscale"
        )
    return buckets


def bucket_fill(
    sizes: NDArray[np.int64], config: DataConfig, global_batch: int
) -> list[BucketFill]:
    """The buckets that hold pictures, from the tallest to the widest; at the end what is left out.

    A batch that an epoch does not fill is filled in the next: nothing is dropped. A bucket that
    takes more than one epoch for it says so in its remark.
    """
    buckets = assign_buckets(sizes, config)
    frames = bucket_sizes(config) or [Size(*map(int, sizes[0]))]
    rows = []
    for number, frame in enumerate(frames):
        members = sizes[buckets == number]
        if not len(members):
            continue
        batches = len(members) / global_batch
        rows.append(
            BucketFill(
                size=frame,
                samples=len(members),
                batches_per_epoch=batches,
                cropped=float(1 - _kept(members, frame).mean()),
                upscaled=int((_scale(members, frame) > 1).sum()),
                remark=f"takes {1 / batches:.1f} epochs to fill a batch" if batches < 1 else "",
            )
        )
    left_out = int((buckets == LEFT_OUT).sum())
    if left_out:
        rows.append(
            BucketFill(
                size=None,
                samples=left_out,
                batches_per_epoch=0,
                cropped=None,
                upscaled=0,
                remark=f"left out: had to be enlarged by more than {config.max_upscale}",
            )
        )
    return rows


def _kept(sizes: NDArray[np.int64], frame: Size) -> NDArray[np.float64]:
    """The share of each picture that the largest box of the frame's shape covers."""
    # One division of whole numbers: rounded alike on every machine, as the ranks must agree.
    across, down = sizes[:, 0] * frame.height, sizes[:, 1] * frame.width
    kept: NDArray[np.float64] = np.minimum(across, down) / np.maximum(across, down)
    return kept


def _scale(sizes: NDArray[np.int64], frame: Size) -> NDArray[np.float64]:
    scale: NDArray[np.float64] = np.maximum(frame.width / sizes[:, 0], frame.height / sizes[:, 1])
    return scale


def _refuse_mixed_sizes(sizes: NDArray[np.int64]) -> None:
    other = np.flatnonzero((sizes != sizes[0]).any(axis=1))
    if len(other):
        first, second = (" x ".join(map(str, sizes[number])) for number in (0, other[0]))
        raise ValueError(
            f"the pictures differ in size, as {first} and {second} pixels: set "
            "train.data.resolution to bring them to one"
        )
