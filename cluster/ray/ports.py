"""The ports of one node of a Ray: a row below those that the kernel hands out, tested first.

Two Rays on one node, of two jobs, would else both want those that Ray has as its defaults. Workers
listen where the kernel says: no two of them can meet, and nobody has to know beforehand.
"""

from dataclasses import dataclass

from cluster.rendezvous import free_ports

EVERYWHERE = (
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
)
ON_THE_HEAD = ("port", "ray-client-server-port", "dashboard-port")
# Ray has no flags for these two (ray 2.60).
BY_VARIABLE = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
OF_WORKERS = ("--min-worker-port=0", "--max-worker-port=0")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What one node of a Ray listens on, by the names that Ray has for them."""

    numbers: dict[str, int]
    is_head: bool

    @property
    def answers_at(self) -> int:
        """Where the head, or any other node, can be reached once it is up."""
        return self.numbers["port" if self.is_head else "node-manager-port"]

    @property
    def flags(self) -> list[str]:
        """As `ray start` is told."""
        names = (*EVERYWHERE, *(ON_THE_HEAD if self.is_head else ()))
        return [*(f"--{name}={self.numbers[name]}" for name in names), *OF_WORKERS]

    @property
    def variables(self) -> dict[str, str]:
        """What it reads from its environment."""
        return {name: str(self.numbers[name]) for name in BY_VARIABLE}


def plan_ports(key: str, *, is_head: bool) -> Ports:
    """Ports that are free here now; `key` keeps jobs that start at once from choosing alike."""
    names = (*EVERYWHERE, *ON_THE_HEAD, *BY_VARIABLE)
    numbers = dict(zip(names, free_ports(key, len(names)), strict=True))
    return Ports(numbers=numbers, is_head=is_head)
