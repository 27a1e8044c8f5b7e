"""Whether the nodes of an attempt can do it, before any rank starts; in less than a minute.

Every agent looks at its own node and writes `preflight-<host>.json`; the first one judges, and
writes `preflight.json`. Several nodes speak at the address where the ranks will meet.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from cluster.preflight.check import Check
from cluster.preflight.checks import judge
from cluster.preflight.follower import follow
from cluster.preflight.leader import leading
from cluster.preflight.participant import Participant
from cluster.run_folder import write_json

VERDICTS = ("fails", "warns", "ok")  # the worst of all checks is that of the whole


def preflight(participant: Participant, address: str, port: int) -> Check | None:
    """Look at this node, and at the others with them; the check that fails, if one does."""
    if participant.node.number:
        return follow(participant, address, port)
    started = time.time()
    if participant.node.nodes == 1:
        alone = Check(name="all-reduce", verdict="absent", line="there is one node")
        return _conclude(participant, started, [*judge([participant.gather()]), alone])
    with leading(participant, port) as (leader, listener):
        checks = leader.gather(listener)
        if first_failure(checks) is None:
            checks.append(leader.reduce())
        failed = _conclude(participant, started, checks)
        leader.tell(failed)  # last: when one agent ends, srun ends the others
    return failed


def first_failure(checks: Sequence[Check]) -> Check | None:
    """The check to act on: what the user can mend, for no other node would do better; or a node."""
    failures = [check for check in checks if check.verdict == "fails"]
    return min(failures, key=lambda check: bool(check.hosts), default=None)


def _conclude(participant: Participant, started: float, checks: Sequence[Check]) -> Check | None:
    """Write down what was found, and say it in a line each; the check that fails, if one does."""
    failed = first_failure(checks)
    ended = time.time()
    found = {"started": started, "ended": ended, "checks": [asdict(check) for check in checks]}
    verdict = next(v for v in VERDICTS if v == "ok" or any(c.verdict == v for c in checks))
    write_json(participant.attempt.preflight, {"verdict": verdict, **found})
    for check in checks:
        if check.verdict in ("warns", "fails"):
            word = "error" if check.verdict == "fails" else "warning"
            print(f"{word}: preflight: {check.name}: {check.line}", file=sys.stderr, flush=True)
    return failed
