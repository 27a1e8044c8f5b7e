"""What Inception says of a batch, made once however many metrics look at it."""

from evalfarm.metrics.base import Batch, Seen
from evalfarm.networks import short_digest
from trainer.models.config import NetworksConfig
from trainer.models.inception import Inception
from trainer.models.inception_v3 import Outputs

NETWORK = "inception"


def inception_outputs(batch: Batch, way: str) -> Outputs:
    """Pool features and logits of the pictures, shown to the network in this way."""
    device = batch.networks.device
    inception = batch.networks.load(NETWORK, lambda path: Inception(path, device))
    return batch.once(f"{NETWORK} {way}", lambda: inception.look(batch.images, way))


def pool_features(batch: Batch, way: str) -> list[Seen]:
    """The pool features of each picture, as the ledger keeps them."""
    return [Seen(features=row) for row in inception_outputs(batch, way).pool.numpy()]


def pool_rows(networks: NetworksConfig, way: str) -> str:
    """What the rows of pool features are called, whichever metric asked for them."""
    return f"{NETWORK}/{way}@{short_digest(networks, NETWORK)}"
