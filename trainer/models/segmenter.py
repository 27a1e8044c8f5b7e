"""Which character a latent shows: a U-Net on latents, by TextDiffuser's names (Chen et al. 2023).

So its `character_aware_loss_unet.pth` loads, and what we train is read by whoever reads that one.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.data.characters import CLASSES
from trainer.models.untrusted import tensors_of

PARALLEL_PREFIX = "module."
"""What torch's DataParallel puts before every name."""
MAX_LEVELS = 16


class Segmenter(nn.Module):
    """A U-Net (Ronneberger et al. 2015) that halves its grid once for each of its `widths`.

    Grids of any size: halves are rounded up, and brought back to the size that they came from.
    """

    def __init__(self, latent_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.inc = _Pair(latent_channels, widths[0], widths[0])
        self.levels = len(widths)
        for level, (above, below) in enumerate(pairwise([*widths, widths[-1]]), 1):
            self.add_module(f"down{level}", _Down(above, below))
        for level, (below, above) in enumerate(pairwise([*widths[::-1], widths[0]]), 1):
            self.add_module(f"up{level}", _Up(below, above))
        self.outc = nn.ModuleDict({"conv": nn.Conv2d(widths[0], CLASSES, 1)})

    def forward(self, latents: Tensor) -> Tensor:
        """The logits of each label, batch classes h w, of scaled latents, batch channels h w."""
        passed = [self.inc(latents)]
        for level in range(1, self.levels + 1):
            passed.append(self.get_submodule(f"down{level}")(passed[-1]))
        features = passed.pop()
        for level in range(1, self.levels + 1):
            features = self.get_submodule(f"up{level}")(features, passed.pop())
        logits: Tensor = self.outc["conv"](features)
        return logits


class _Pair(nn.Module):
    """Two convolutions, each normalised over the batch and rectified."""

    def __init__(self, channels: int, between: int, out: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((channels, between), (between, out)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        convolved: Tensor = self.double_conv(features)
        return convolved


class _Down(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        pool = nn.MaxPool2d(2, ceil_mode=True)
        self.maxpool_conv = nn.Sequential(pool, _Pair(channels, out, out))

    def forward(self, features: Tensor) -> Tensor:
        halved: Tensor = self.maxpool_conv(features)
        return halved


class _Up(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = _Pair(2 * channels, channels, out)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        size = beside.shape[2:]
        grown = F.interpolate(below, size=size, mode="bilinear", align_corners=True)
        joined: Tensor = self.conv(torch.cat([beside, grown], dim=1))
        return joined


def latent_labels(characters: Tensor, size: Sequence[int]) -> Tensor:
    """Labels of pixels (int64, batch height width) at the size of latents: batch h w.

    Each latent takes the label of its first pixel, as TextDiffuser's loss has it.
    """
    found = F.interpolate(characters[:, None].float(), size=tuple(size), mode="nearest")
    return found[:, 0].long()


def load_segmenter(path: Path, latent_channels: int) -> Segmenter:
    """A segmenter from a file of weights, frozen; ValueError if it is none for such latents."""
    if not path.is_file():
        raise ValueError(f"the segmenter {path} does not exist")
    tensors = tensors_of(path, values=True)
    named = {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    try:
        segmenter = Segmenter(*_shape_of(named))
        _check_fit(segmenter, named)
    except _NoSegmenter as error:
        raise ValueError(f"{path} is no segmenter of characters: {error}") from None
    if segmenter.latent_channels != latent_channels:
        raise ValueError(
            f"{path} takes latents of {segmenter.latent_channels} channels, and the model's have "
            f"{latent_channels}: train one on its autoencoder (python -m trainer.segmenter --help)"
        )
    segmenter.load_state_dict(named)
    return segmenter.eval().requires_grad_(False)


def save_segmenter(segmenter: Segmenter, path: Path) -> None:
    """Write a segmenter, its convolutions in 16 bits."""
    tensors = segmenter.state_dict()
    save_file({name: _halved(tensor).contiguous() for name, tensor in tensors.items()}, path)


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.ndim == 4 else tensor


class _NoSegmenter(Exception):
    """Weights that are not a segmenter's; the message says in what."""


def _shape_of(tensors: Mapping[str, Tensor]) -> tuple[int, list[int]]:
    """Latent channels, and the width of each level."""
    below = [f"down{level}.maxpool_conv.1.double_conv.0.weight" for level in range(1, MAX_LEVELS)]
    levels = [name for name in below if name in tensors]
    first = ["inc.double_conv.0.weight", *levels[:-1]]  # the last one is as wide as that above it
    for name in ("inc.double_conv.0.weight", below[0], "outc.conv.weight"):
        if name not in tensors:
            raise _NoSegmenter(f"it lacks {name}")
    if any(tensors[name].ndim != 4 for name in first):
        raise _NoSegmenter("its convolutions are not of two dimensions")
    return tensors[first[0]].shape[1], [len(tensors[name]) for name in first]


def _check_fit(segmenter: Segmenter, tensors: Mapping[str, Tensor]) -> None:
    own = segmenter.state_dict()
    for name in own:
        if name not in tensors and not name.endswith("num_batches_tracked"):
            raise _NoSegmenter(f"it lacks {name}")
    for name, tensor in tensors.items():
        if name not in own:
            raise _NoSegmenter(f"it has {name} besides")
        if tensor.shape != own[name].shape:
            raise _NoSegmenter(f"{name} is {_text(tensor)}, where {_text(own[name])} is wanted")


def _text(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
