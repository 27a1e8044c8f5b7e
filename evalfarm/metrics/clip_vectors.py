"""CLIP's vectors of a batch, made once however many metrics look at them."""

from collections.abc import Sequence

from torch import Tensor

from evalfarm.metrics.base import Batch
from trainer.models.clip import Clip


def image_vectors(batch: Batch, network: str) -> Tensor:
    """Unit vectors of the pictures by the CLIP that the config names so: pictures dim."""
    return batch.once(f"{network} images", lambda: clip_of(batch, network).images(batch.images))


def text_vectors(batch: Batch, network: str, texts: Sequence[str]) -> Tensor:
    """Unit vectors of texts: texts dim."""
    return clip_of(batch, network).texts(texts)


def clip_of(batch: Batch, network: str) -> Clip:
    """The CLIP that the config names so."""
    device = batch.networks.device
    return batch.networks.load(network, lambda folder: Clip(folder, device))
