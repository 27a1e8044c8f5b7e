"""Room on a Ray cluster: nodes that have what an attempt takes, told apart by their names."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# A name becomes part of a path, and an argument of the agents.
NODE_NAME = re.compile(r"[A-Za-z0-9:][A-Za-z0-9._:-]*")


@dataclass(frozen=True, kw_only=True)
class Room:
    """What an attempt takes of a Ray cluster."""

    nodes: int
    ranks: int
    """On each node: a GPU and a core each."""
    on_gpus: bool
    without: frozenset[str] = frozenset()
    """Ids of nodes that are not to be used."""

    @property
    def bundle(self) -> dict[str, float]:
        """What is taken of one node."""
        return {"CPU": self.ranks, **({"GPU": self.ranks} if self.on_gpus else {})}

    def __str__(self) -> str:
        return " and ".join(f"{amount:g} {name}" for name, amount in self.bundle.items())


@dataclass(frozen=True, kw_only=True)
class RayNode:
    """A raylet, which is what Ray calls a node: a machine may have several."""

    id: str
    """Ray's own: one that is started anew has a new one."""
    name: str
    """Its address, or what `ray start --node-name` said."""
    address: str
    """By which the other nodes reach it."""
    resources: Mapping[str, float] = field(default_factory=dict)


def live_nodes() -> list[RayNode]:
    """The nodes that Ray counts on."""
    import ray

    return [_node(entry) for entry in ray.nodes() if entry["Alive"]]


def check_room(room: Room) -> None:
    """ValueError if the cluster has too few nodes of the kind, or they cannot be told apart."""
    alive = live_nodes()
    fit = [node for node in alive if _fits(node.resources, room.bundle)]
    if len(fit) < room.nodes:
        raise ValueError(
            f"the recipe asks for nodes with {room}: {room.nodes} of them, and of this Ray's "
            f"{len(alive)} nodes {len(fit)} will do; set ranks.nodes, ranks.per_node, or ray.grows "
            "if it will have more"
        )
    if room.nodes > 1:
        check_names([node.name for node in fit])


def check_names(names: Sequence[str]) -> None:
    """ValueError unless each name is one node's, and fit to be part of a path."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    unfit = [name for name in names if not NODE_NAME.fullmatch(name)]
    if twice or unfit:
        wrong = f"several are {twice[0]!r}" if twice else f"one is {unfit[0]!r}"
        raise ValueError(
            f"Ray's nodes need names of their own, of letters, digits and . _ : - ; {wrong}: start "
            "each by `ray start --node-name=NAME`"
        )


def selector(room: Room) -> dict[str, str]:
    """Of nodes that may be used, by Ray's own label of each."""
    left_out = ",".join(sorted(room.without))
    return {"ray.io/node-id": f"!in({left_out})"} if left_out else {}


def _node(entry: Mapping[str, Any]) -> RayNode:
    return RayNode(
        id=entry["NodeID"],
        name=entry["NodeName"],
        address=entry["NodeManagerAddress"],
        resources=entry["Resources"],
    )


def _fits(resources: Mapping[str, float], bundle: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in bundle.items())
