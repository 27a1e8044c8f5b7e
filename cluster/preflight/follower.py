"""Preflight on every node but the first: says what it is, does what it is told."""

import time
from contextlib import closing
from dataclasses import asdict

from cluster.exit_codes import MachineFault
from cluster.preflight.check import Check
from cluster.preflight.conversation import Conversation, call
from cluster.preflight.limits import MEET_S, PATIENCE_S, RESTART_S
from cluster.preflight.participant import Participant
from cluster.preflight.reducers import Meeting


def follow(participant: Participant, address: str, port: int) -> Check | None:
    """Take part in the first node's preflight; the check that fails, if one does."""
    try:
        with closing(call(address, port, MEET_S)) as leader:
            return _take_part(participant, leader)
    except MachineFault as fault:
        first = participant.node.hosts[0]
        line = f"{first}: left during preflight: {fault}"
        return Check(name="nodes", verdict="fails", line=line, hosts=(first,))


def _take_part(participant: Participant, leader: Conversation) -> Check | None:
    leader.say(asdict(participant.hello()))
    facts = participant.gather()
    with closing(participant.reducers(facts)) as reducers:
        leader.say({"facts": asdict(facts), "unready": reducers.await_ready(MEET_S)})
        while True:
            told = leader.hear(PATIENCE_S)
            match told["ask"]:
                case "time":
                    leader.say(time.time())
                case "ready":
                    leader.say(reducers.await_ready(RESTART_S))
                case "all-reduce":
                    leader.say(reducers.reduce(Meeting(**told["meeting"])))
                case _:
                    failed = told["failed"]
                    return Check(**{**failed, "hosts": tuple(failed["hosts"])}) if failed else None
