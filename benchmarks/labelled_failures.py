"""The labelled failures in benchmarks/failures: each is laid out as the attempt that it was.

A case says how the ranks of each node ended (in the order in which the nodes did; the rank that
failed first comes first), what they printed, and what the scheduler knew. `cause` is its label;
`node` is one, too, where a node is to blame.
"""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.ranks.ending import Ending, exit_code
from cluster.run_folder import RunFolder
from cluster.verdict.verdict import Cause, SchedulerFacts

FAILURES = Path(__file__).parent / "failures"
PARTS = ("train", "held_out")


@dataclass(frozen=True)
class Failure:
    """How an attempt ended, and why."""

    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """What happened, for people."""
        return str(self.facts["name"])

    @property
    def cause(self) -> Cause:
        """The label."""
        return Cause(self.facts["cause"])

    @property
    def node(self) -> str | None:
        """The label's node, where there is one."""
        return self.facts.get("node")

    @property
    def scheduler(self) -> SchedulerFacts:
        """What the scheduler knew."""
        job = self.facts.get("job", {})
        return SchedulerFacts(
            state=job.get("state"),
            hosts=tuple(job.get("hosts", ())),
            down_hosts=tuple(job.get("down", ())),
            output=tuple(job.get("output", "").splitlines()),
        )

    def lay_out(self, root: Path) -> RunFolder:
        """A run folder whose first attempt ended so."""
        run = RunFolder(root)
        attempt = run.attempt(run.begin_attempt())
        for number, (host, ranks) in enumerate(self.facts["nodes"].items()):
            record = _record(host, ranks) | {"node": number, "ended": float(number)}
            record["oom_kills"] = self.facts.get("oom_kills", {}).get(host, 0)
            record["hang"] = self.facts.get("hang", {}).get(host)
            # Not by write_json: hundreds of them would wait for the disk.
            attempt.node_record(host).write_text(json.dumps(record))
        for rank, text in self.facts["logs"].items():
            attempt.rank_log(rank).write_text(text)
        if "stop" in self.facts:
            run.stop_request.write_text(self.facts["stop"])
        return run


def load(part: str) -> list[Failure]:
    """The failures of one of PARTS."""
    paths = sorted((FAILURES / part).glob("*.yaml"))
    return [Failure(facts) for path in paths for facts in yaml.safe_load(path.read_text())]


def _record(host: str, ranks: dict[int, int | str]) -> dict[str, Any]:
    """What cluster/agent.py writes of ranks that ended with these codes or signals."""
    codes = [-signal.Signals[end] if isinstance(end, str) else end for end in ranks.values()]
    failed = [place for place, code in enumerate(codes) if code not in (0, 85, -signal.SIGTERM)]
    return {
        "host": host,
        "exit_code": int(exit_code(codes, Ending(first_failed=failed[0] if failed else None))),
        "first_failed_rank": list(ranks)[failed[0]] if failed else None,
        "log_tail": [],
        "ranks": [
            {
                "rank": rank,
                "exit_code": code if code >= 0 else None,
                "signal": signal.Signals(-code).name if code < 0 else None,
            }
            for rank, code in zip(ranks, codes, strict=True)
        ],
    }
