"""All that an attempt left behind, for whoever wants to know why it ended."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.run_folder import RunFolder
from cluster.verdict.attempt_logs import Log, read_logs
from cluster.verdict.failure_rules import RULES
from cluster.verdict.log_rules import Finding, find
from cluster.verdict.verdict import SchedulerFacts


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that an attempt left behind."""

    run: RunFolder
    records: Sequence[dict[str, Any]]
    """The nodes', in the order in which they ended."""
    missing: Sequence[str]
    """The nodes that left no record."""
    told: Sequence[tuple[Log, Finding]]
    """What the logs say, the log of the first node's first failure first."""
    facts: SchedulerFacts
    code: int | None

    def suspects(self) -> Sequence[str]:
        """The nodes to look at first where a line names none."""
        spoke = [record["host"] for record in self.records]
        return self.facts.down_hosts or self.missing or (spoke if len(spoke) == 1 else ())

    def first_failed(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """The records of the nodes and ranks that failed first on their nodes."""
        for record in self.records:
            for rank in record["ranks"]:
                if rank["rank"] == record["first_failed_rank"]:
                    yield record, rank


def gather(
    run: RunFolder, attempt_number: int, facts: SchedulerFacts, code: int | None
) -> Evidence:
    """Read the records and the ends of the logs of an attempt."""
    attempt = run.attempt(attempt_number)
    records = sorted(attempt.node_records(), key=lambda record: record["ended"])
    logs = sorted(read_logs(attempt, records, facts.hosts), key=lambda log: not log.failed_first)
    logs.append(Log(name="the job's output", lines=facts.output))
    return Evidence(
        run=run,
        records=records,
        missing=[host for host in facts.hosts if not attempt.node_record(host).exists()],
        told=[(log, finding) for log in logs for finding in find(log.lines, RULES)],
        facts=facts,
        code=code,
    )
