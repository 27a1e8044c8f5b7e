"""Preflight on the first node: hears what the others are, and lets them make all-reduces."""

import math
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.exit_codes import MachineFault
from cluster.preflight.check import Check, blames
from cluster.preflight.checks import check_clocks, judge
from cluster.preflight.conversation import Conversation, accept, listen
from cluster.preflight.facts import Facts, from_plain
from cluster.preflight.limits import MARGIN_S, MEET_S, RESTART_S, ROUND_S
from cluster.preflight.pairs import Pair, Round, first_pairs, guilty, second_pairs, usual
from cluster.preflight.participant import Hello, Participant
from cluster.preflight.reducers import Meeting, Reducers


@dataclass
class Leader:
    """The first node, and the others as far as they have come. Nodes go by their numbers."""

    participant: Participant
    reducers: Reducers
    facts: dict[int, Facts]
    hellos: dict[int, Hello]
    others: dict[int, Conversation] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    """Why a host takes part no more."""

    def host(self, number: int) -> str:
        """As the scheduler calls it."""
        return self.participant.node.hosts[number]

    def gather(self, listener: socket.socket) -> list[Check]:
        """Wait for the others' facts, and judge them with our own."""
        deadline = time.monotonic() + MEET_S
        self._await_others(listener, deadline)
        unready = {self.host(0): self.reducers.await_ready(deadline - time.monotonic())}
        for number in list(self.others):
            said = self.hear(number, deadline - time.monotonic())
            if said is not None:
                self.facts[number] = from_plain(said["facts"])
                unready[self.host(number)] = said["unready"]
        clocks = self._clocks()
        checks = [self._check_nodes(), *judge(list(self.facts.values())), clocks]
        broken = {host: reason for host, reason in unready.items() if reason}
        if broken:
            checks.append(blames("all-reduce", broken, nodes=self.participant.node.nodes))
        return checks

    def reduce(self) -> Check:
        """Two rounds of all-reduces by pairs, and who is slow or dead by them."""
        nodes = self.participant.node.nodes
        first = self._play(first_pairs(nodes), 0)
        self._await_restarted([node for node in range(nodes) if first.of(node) == math.inf])
        second = self._play(second_pairs(nodes, first), 1)
        found = guilty(nodes, (first, second))
        if len(found) == nodes > 2:
            line = (
                "no two nodes can make one: name the network's interface by GLOO_SOCKET_IFNAME or "
                f"NCCL_SOCKET_IFNAME; see {self.reducers.log}"
            )
            return Check(name="all-reduce", verdict="fails", line=line)
        if found:
            return blames("all-reduce", {self.host(number): why for number, why in found.items()})
        line = f"{usual((first, second)):.3f} s by pairs of nodes"
        return Check(name="all-reduce", verdict="ok", line=line)

    def tell(self, failed: Check | None) -> None:
        """Let the others know how it ended."""
        for number in list(self.others):
            self.say(number, {"ask": "no more", "failed": asdict(failed) if failed else None})

    def say(self, number: int, message: Any) -> None:
        """Say something to another node; who is gone is lost."""
        try:
            self.others[number].say(message)
        except MachineFault as fault:
            self._lose(number, str(fault))

    def hear(self, number: int, limit_s: float) -> Any:
        """What another node says; None if it is lost."""
        if number not in self.others:
            return None
        try:
            return self.others[number].hear(limit_s)
        except MachineFault as fault:
            return self._lose(number, str(fault))

    def _await_others(self, listener: socket.socket, deadline: float) -> None:
        while len(self.others) < self.participant.node.nodes - 1:
            came = accept(listener, deadline)
            if came is None:
                break
            caller, said = came
            if isinstance(said, dict) and said.get("attempt") == self.hellos[0].attempt:
                hello = Hello(**said)
                self.hellos[hello.node], self.others[hello.node] = hello, caller
            else:  # a node of another attempt that has not ended yet, or no agent at all
                caller.close()
        for number in range(1, self.participant.node.nodes):
            if number not in self.others:
                self.lost[self.host(number)] = f"did not come within {MEET_S:.0f} s"

    def _check_nodes(self) -> Check:
        if self.lost:
            return blames("nodes", self.lost)
        return Check(name="nodes", verdict="ok", line=f"{self.participant.node.nodes} are here")

    def _clocks(self) -> Check:
        skew_s = {self.host(0): 0.0}
        for number in list(self.others):
            asked = time.time()
            self.say(number, {"ask": "time"})
            theirs = self.hear(number, MARGIN_S)
            if theirs is not None:
                skew_s[self.host(number)] = theirs - (asked + time.time()) / 2
        return check_clocks(skew_s)

    def _play(self, pairs: Sequence[Pair], number: int) -> Round:
        meetings = dict(self._meetings(pairs, number))
        for node in meetings.keys() & self.others.keys():
            self.say(node, {"ask": "all-reduce", "meeting": asdict(meetings[node])})
        took: dict[int, float] = {}
        deadline = time.monotonic() + ROUND_S + 2 * MARGIN_S
        if 0 in meetings:
            took[0] = self.reducers.reduce(meetings[0])
        for node in meetings.keys() & self.others.keys():
            took[node] = self.hear(node, deadline - time.monotonic()) or math.inf
        return Round(seconds={(a, b): _longer(took, a, b) for a, b in pairs})

    def _await_restarted(self, nodes: Sequence[int]) -> None:
        """Wait for processes that hung, with a dead node maybe, to be ready for another round."""
        deadline = time.monotonic() + RESTART_S + MARGIN_S
        asked = [node for node in nodes if node in self.others]
        for node in asked:
            self.say(node, {"ask": "ready"})
        if 0 in nodes:
            self.reducers.await_ready(RESTART_S)
        for node in asked:
            self.hear(node, deadline - time.monotonic())

    def _meetings(self, pairs: Sequence[Pair], number: int) -> Iterator[tuple[int, Meeting]]:
        """Each node of a pair, and where it meets the other: on the first of them."""
        for one, other in pairs:
            here = self.others[one].peer if one in self.others else self.participant.node.address
            processes = [max(1, self.facts[node].reducing_gpus) for node in (one, other)]
            for node, first_rank in ((one, 0), (other, processes[0])):
                yield (
                    node,
                    Meeting(
                        address=f"{here}:{self.hellos[one].ports[number]}",
                        first_rank=first_rank,
                        ranks=sum(processes),
                        limit_s=ROUND_S,
                    ),
                )

    def _lose(self, number: int, reason: str) -> None:
        self.others.pop(number).close()
        self.lost[self.host(number)] = reason


@contextmanager
def leading(participant: Participant, port: int) -> Iterator[tuple[Leader, socket.socket]]:
    """Be there for the other nodes, and hang up in the end."""
    with listen(port) as listener:
        facts = participant.gather()
        with closing(participant.reducers(facts)) as reducers:
            leader = Leader(participant, reducers, {0: facts}, {0: participant.hello()})
            try:
                yield leader, listener
            finally:
                for conversation in leader.others.values():
                    conversation.close()


def _longer(took: Mapping[int, float], one: int, other: int) -> float:
    return max(took.get(one, math.inf), took.get(other, math.inf))
