"""LAION's aesthetic predictor V2 (Schuhmann 2022): a rating from ViT-L/14's picture vectors."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from trainer.models.untrusted import tensors_of

LAYERS = (0, 2, 4, 6, 7)
"""Places of the linear layers; dropout stands between them, and no activation."""


class AestheticHead(nn.Module):
    """Five linear layers on unit vectors; in sum they are one. Nominally 1 to 10.

    From pixels: `head(clip.vectors(pixels))`, through which the gradient passes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        tensors = tensors_of(path, values=True)
        layers = {str(place): _linear(tensors, f"layers.{place}", path) for place in LAYERS}
        self.layers = nn.ModuleDict(layers)
        self.eval().requires_grad_(False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Ratings of unit vectors, batch dim: batch."""
        for layer in self.layers.values():
            vectors = layer(vectors)
        return vectors.squeeze(-1)


def _linear(tensors: Mapping[str, Tensor], name: str, path: Path) -> nn.Linear:
    try:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    except KeyError as error:
        raise ValueError(f"{path} is no aesthetic predictor: it lacks {error}") from None
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
    return linear
