"""The Inception that FID is measured with, and the three ways to show it a picture.

torch-fidelity and pytorch-fid give the same file of weights under two names, both with the start of
its SHA-256 in them. What differs is how a picture comes to 299 x 299 pixels, and that changes the
features more than many a checkpoint does: each way is a mode with a name of its own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from trainer.models.inception_v3 import InceptionV3, Outputs
from trainer.models.untrusted import tensors_of

SIDE_PX = 299
COUNTER = "num_batches_tracked"  # of training; some files leave it out


class Inception:
    """The network, frozen."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.device = device
        self.network = InceptionV3()
        self.network.load_state_dict(_read(path, self.network))
        self.network.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def look(self, images: Sequence[Image.Image], mode: str) -> Outputs:
        """What it says of RGB pictures of any size, shown in one of the `MODES`; on the CPU."""
        shown = torch.cat([MODES[mode](self._levels(image)) for image in images])
        return Outputs(*(outputs.cpu() for outputs in self.network(shown)))

    def _levels(self, image: Image.Image) -> Tensor:
        levels = torch.from_numpy(np.array(image.convert("RGB"))).to(self.device)
        return levels.permute(2, 0, 1)[None].float()


def clean(levels: Tensor) -> Tensor:
    """Bicubic with antialiasing, nothing rounded: clean-fid (Parmar et al. 2022).

    Like the others from 0 to 255 in, about -1 to 1 out: pictures 3 height width.
    """
    size = (SIDE_PX, SIDE_PX)
    resized = F.interpolate(levels, size, mode="bicubic", antialias=True, align_corners=False)
    return (resized.clamp(0, 255) - 128) / 128


def tf(levels: Tensor) -> Tensor:
    """Bilinear without antialiasing, corners as in TensorFlow 1: the first FID, torch-fidelity."""
    for axis in (3, 2):
        size = levels.shape[axis]
        places = torch.arange(SIDE_PX, dtype=levels.dtype, device=levels.device) * (size / SIDE_PX)
        low = places.long()
        high = (low + 1).clamp(max=size - 1)
        weight = (places - low).unsqueeze(-1) if axis == 2 else places - low
        levels = levels.index_select(axis, low).lerp(levels.index_select(axis, high), weight)
    return (levels - 128) / 128


def bilinear(levels: Tensor) -> Tensor:
    """Bilinear without antialiasing, corners as in PyTorch: pytorch-fid."""
    size = (SIDE_PX, SIDE_PX)
    resized = F.interpolate(levels, size, mode="bilinear", align_corners=False)
    return resized / 127.5 - 1


MODES: dict[str, Callable[[Tensor], Tensor]] = {"clean": clean, "tf": tf, "torch": bilinear}


def _read(path: Path, network: InceptionV3) -> dict[str, Tensor]:
    """The network's weights out of a file; ValueError names the first that does not fit."""
    found, wanted = tensors_of(path, values=True), network.state_dict()
    for name, tensor in wanted.items():
        if name.endswith(COUNTER):
            found.setdefault(name, tensor)
        elif name not in found or found[name].shape != tensor.shape:
            has = f"is {tuple(found[name].shape)}" if name in found else "is not there"
            raise ValueError(
                f"{path} is not the Inception of 2015: {name} {has}, not {tuple(tensor.shape)}; "
                "take torch-fidelity's or pytorch-fid's file"
            )
    return {name: found[name] for name in wanted}
