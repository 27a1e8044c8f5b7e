"""The networks that score, in one actor: each is loaded when first asked for, and kept."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from trainer.models.config import NetworksConfig
from trainer.models.digest import SHORT, weights_digest
from trainer.models.networks import MissingNetwork, find_network

Network = TypeVar("Network")


class Networks:
    """What an actor has loaded."""

    def __init__(self, config: NetworksConfig, device: str = "cpu") -> None:
        self.config = config
        self.device = device
        self._loaded: dict[str, Any] = {}

    def load(self, name: str, load: Callable[[Path], Network]) -> Network:
        """The network that the config names so, opened by `load` the first time."""
        return self.keep(name, lambda: load(network_path(self.config, name)))

    def keep(self, name: str, make: Callable[[], Network]) -> Network:
        """What `make` made the first time it was asked for under this name."""
        if name not in self._loaded:
            self._loaded[name] = make()
        network: Network = self._loaded[name]
        return network


def network_path(config: NetworksConfig, name: str) -> Path:
    """Where a network of the config lies; MissingNetwork if it does not."""
    given = getattr(config, name)
    if given is None:
        raise MissingNetwork(f"set eval.networks.{name}")
    return find_network(given)


def missing_network(config: NetworksConfig, *names: str) -> str | None:
    """Why the first of these networks that is missing is; None if all are there."""
    for name in names:
        try:
            network_path(config, name)
        except MissingNetwork as error:
            reason = str(error)
            key = f"eval.networks.{name}"
            return reason if key in reason else f"{reason}: put it there, or set {key}"
    return None


def short_digest(config: NetworksConfig, *networks: str) -> str:
    """The start of the digest of a network's weights, or of several together."""
    digests = [weights_digest(network_path(config, network)) for network in networks]
    if len(digests) > 1:
        digests = [hashlib.sha256(" ".join(digests).encode()).hexdigest()]
    return digests[0][:SHORT]
