"""This node as one of those that take part in an attempt's preflight."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from cluster.preflight.facts import Facts, gather
from cluster.preflight.reducers import PROGRAM, Reducers
from cluster.rendezvous import Node, free_port
from cluster.run_folder import AttemptFolder, write_json

ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What a node says first."""

    attempt: str
    """The attempt's folder: a node of another attempt has no business here."""
    node: int
    ports: tuple[int, ...]
    """One for each round in which it is the first of its pair."""


@dataclass(frozen=True, kw_only=True)
class Participant:
    """This node, and where the attempt's files go."""

    node: Node
    attempt: AttemptFolder
    program: Sequence[str] = PROGRAM
    """What makes all-reduces."""

    def hello(self) -> Hello:
        """Who I am, and where others may meet me."""
        key = f"{self.attempt.root}:{self.node.name}"
        ports = tuple(free_port(f"{key}:{number}") for number in range(ROUNDS))
        return Hello(attempt=str(self.attempt.root), node=self.node.number, ports=ports)

    def gather(self) -> Facts:
        """Look at this node, and write down what was found if that is possible."""
        facts = gather(self.node, self.attempt.root, os.environ)
        if facts.storage.error is None:
            write_json(self.attempt.preflight_of(self.node.name), asdict(facts))
        return facts

    def reducers(self, facts: Facts) -> Reducers:
        """Start what makes all-reduces."""
        log = self.attempt.preflight_log(self.node.name)
        return Reducers(facts.reducing_gpus, log, self.program)
