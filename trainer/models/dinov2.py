"""DINOv2 (Oquab et al. 2023) from a transformers folder, as dgm-eval looks at pictures with it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import Dinov2Model

SIDE_PX = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
OFFSET = 0.1
"""What the published code adds to the patches in a row before it scales the positions."""


class Dinov2:
    """The network, frozen."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.device = device
        self.model = Dinov2Model.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.requires_grad_(False)
        embeddings = self.model.embeddings
        positions = positions_for(embeddings.position_embeddings, SIDE_PX // embeddings.patch_size)
        embeddings.position_embeddings = nn.Parameter(positions, requires_grad=False)
        self.model.to(device)

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """CLS vectors, after the last norm, of RGB pictures of any size: images dim, on the CPU."""
        pixels = torch.stack([_pixels(image) for image in images]).to(self.device)
        cls: Tensor = self.model(pixel_values=pixels).pooler_output
        return cls.cpu()


def positions_for(published: Tensor, patches: int) -> Tensor:
    """The position vectors for so many patches in a row, as the published code scales them.

    `published`, 1 positions dim, begins with that of CLS. transformers scales to the size alone,
    without the offset, which moves every one of them.
    """
    side = int((published.shape[1] - 1) ** 0.5)
    if patches == side:
        return published
    grid = published[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (patches + OFFSET) / side
    scaled = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    assert scaled.shape[-2:] == (patches, patches)
    return torch.cat([published[:, :1], scaled.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _pixels(image: Image.Image) -> Tensor:
    resized = image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    levels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return (levels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
