"""Finding in a log why a program ended: by rules for its lines, the weightiest first."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from cluster.verdict.verdict import Cause


class Weight(IntEnum):
    """How much a line explains: the cause first, what others saw of it last."""

    CAUSE = 0
    """It names the cause."""
    CRASH = 1
    """A program's own error, whatever it came of."""
    LINK = 2
    """A way between nodes failed, which the end of a peer does, too."""
    WAIT = 3
    """A rank waited too long for others."""
    PARTED = 4
    """A rank saw another go."""
    NOTHING = 5
    """It only looks like an error."""


@dataclass(frozen=True)
class Rule:
    """A line that matches says so; of several rules the first one counts."""

    name: str
    weight: Weight
    cause: Cause | None
    """None: as the exit code of the rank says."""
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Finding:
    """A line of a log that a rule matched."""

    rule: Rule
    line: str

    @property
    def node(self) -> str | None:
        """The node that the line itself names, by a group of the pattern."""
        found = self.rule.pattern.search(self.line)
        named = found.groupdict().values() if found else ()
        return next(filter(None, named), None)


def rule(name: str, weight: Weight, cause: Cause | None, *patterns: str) -> Rule:
    """A rule for lines that match any of the patterns."""
    return Rule(name, weight, cause, re.compile("|".join(patterns)))


# torch's and srun's marks of the rank, Ray's of the process.
PREFIX = re.compile(r"^\s*(\[(rank|default)\d+\]:\s*|\d+: |\([^)]*pid=\d+[^)]*\)\s*)*")
# What was said before a step was done did not end the program.
WENT_ON = re.compile(
    r"\b(step|iter|iteration|epoch)\b\W+\d+.*\bloss\b|\bpublished step-\d+|\bvalidation loss ",
    re.IGNORECASE,
)


def find(lines: Iterable[str], rules: Sequence[Rule]) -> list[Finding]:
    """What is found in a log since the program last went on; what explains most comes first."""
    findings: list[Finding] = []
    for line in lines:
        text = PREFIX.sub("", line.rstrip())
        first = next((rule for rule in rules if rule.pattern.search(text)), None)
        if first is None:
            if WENT_ON.search(text):
                findings.clear()
        elif first.weight != Weight.NOTHING:
            findings.append(Finding(first, text))
    return sorted(findings, key=lambda finding: finding.rule.weight)
