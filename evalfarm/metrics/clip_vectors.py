"""CLIP's vectors of a batch, made once however many metrics look at them."""

import hashlib
from collections.abc import Sequence

from torch import Tensor

from evalfarm.config import NetworksConfig
from evalfarm.metrics.base import Batch
from evalfarm.networks import network_path
from trainer.models.clip import Clip
from trainer.models.digest import SHORT, weights_digest


def image_vectors(batch: Batch, network: str) -> Tensor:
    """Unit vectors of the pictures by the CLIP that the config names so: pictures dim."""
    return batch.once(f"{network} images", lambda: _clip(batch, network).images(batch.images))


def text_vectors(batch: Batch, network: str, texts: Sequence[str]) -> Tensor:
    """Unit vectors of texts: texts dim."""
    return _clip(batch, network).texts(texts)


def short_digest(config: NetworksConfig, *networks: str) -> str:
    """The start of the digest of a network's weights, or of several together."""
    digests = [weights_digest(network_path(config, network)) for network in networks]
    if len(digests) > 1:
        digests = [hashlib.sha256(" ".join(digests).encode()).hexdigest()]
    return digests[0][:SHORT]


def _clip(batch: Batch, network: str) -> Clip:
    device = batch.networks.device
    return batch.networks.load(network, lambda folder: Clip(folder, device))
