"""LPIPS (Zhang et al. 2018): how different two pictures look to a network that knows objects.

    d = Σ over 5 layers of mean over places of Σ over channels of w (f(x) - f(y))²

f are the outputs of a ReLU, made unit length along the channels; w was fitted to people's answers.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.rgb import normalize
from trainer.models.untrusted import tensors_of

LOOKED_AT = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""By trunk, the places of the ReLUs in torchvision's `features` that are compared."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's."""


class Lpips(nn.Module):
    """The distance of pictures as one of the trunks sees them, frozen. 0 and up."""

    def __init__(self, trunk: str, path: Path) -> None:
        super().__init__()
        self.looked_at = LOOKED_AT[trunk]
        self.features = _features(trunk)
        _load(self.features, path)
        heads = tensors_of(heads_file(trunk), values=True)
        self.heads = nn.ParameterList(heads[name] for name in sorted(heads))
        self.eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances of pairs, RGB in [0, 1], batch 3 height width each: batch.

        The gradient reaches the pixels.
        """
        layers = zip(self._seen(first), self._seen(second), self.heads, strict=True)
        distances = [F.conv2d((x - y).square(), w).mean(dim=(1, 2, 3)) for x, y, w in layers]
        return torch.stack(distances).sum(dim=0)

    def _seen(self, pixels: Tensor) -> Iterator[Tensor]:
        outputs = normalize(pixels, MEAN, STD)
        for place, layer in zip(range(self.looked_at[-1] + 1), self.features, strict=False):
            outputs = layer(outputs)
            if place in self.looked_at:
                yield F.normalize(outputs, dim=1, eps=1e-10)


def heads_file(trunk: str) -> Path:
    """The fitted weights, which the torchmetrics wheel carries."""
    spec = find_spec("torchmetrics")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "functional/image/lpips_models" / f"{trunk}.pth"


def _features(trunk: str) -> nn.Sequential:
    """The convolutions of torchvision's network, its layers numbered as there."""
    if trunk == "alex":
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )
    layers: list[nn.Module] = []
    channels = 3
    for width, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(times):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def _load(features: nn.Sequential, path: Path) -> None:
    tensors = tensors_of(path, values=True)
    wanted = {name: tensors.get(f"features.{name}") for name in features.state_dict()}
    try:
        features.load_state_dict(
            {name: tensor for name, tensor in wanted.items() if tensor is not None}
        )
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip()
        raise ValueError(f"{path} is no trunk of LPIPS in torchvision's layout: {first}") from None
