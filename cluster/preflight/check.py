"""What a check says: ok, warns, fails or absent, in one line, and who is to blame."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.exit_codes import ExitCode


@dataclass(frozen=True, kw_only=True)
class Check:
    """The outcome of one check of all nodes."""

    name: str
    verdict: Literal["ok", "warns", "fails", "absent"]
    """`absent`: it could not be made here; the line says why."""
    line: str
    hosts: tuple[str, ...] = ()
    """The nodes to blame; with none, no other node would do better."""

    @property
    def code(self) -> ExitCode:
        """How an attempt ends that this check fails."""
        return ExitCode.RETRY_ELSEWHERE if self.hosts else ExitCode.BAD_INPUT


def warns(name: str, reasons: Mapping[str, str], otherwise: str) -> Check:
    """A warning with the reason for each node that has one; ok with `otherwise` if none has."""
    if not reasons:
        return Check(name=name, verdict="ok", line=otherwise)
    return Check(name=name, verdict="warns", line=told(reasons), hosts=tuple(reasons))


def blames(name: str, reasons: Mapping[str, str], *, nodes: int | None = None) -> Check:
    """A failure with the reason for each node that is to blame.

    Given the number of `nodes`: what all of them suffer from is no node's fault.
    """
    hosts = () if len(reasons) == nodes else tuple(reasons)
    return Check(name=name, verdict="fails", line=told(reasons), hosts=hosts)


def told(reasons: Mapping[str, str]) -> str:
    """Each reason once, with the nodes that have it: `n1, n2: there is no nvidia-smi here`."""
    hosts_of: dict[str, list[str]] = {}
    for host, reason in reasons.items():
        hosts_of.setdefault(reason, []).append(host)
    return "; ".join(f"{', '.join(hosts)}: {reason}" for reason, hosts in hosts_of.items())
