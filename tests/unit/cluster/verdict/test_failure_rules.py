"""The labelled failures keep their verdicts, those that rules were written by and the others."""

from pathlib import Path

import pytest

from benchmarks.labelled_failures import PARTS, load
from cluster.verdict.judge import judge


@pytest.mark.parametrize("part", PARTS)
def test_every_labelled_failure_gets_its_cause_and_its_guilty_node(
    part: str, tmp_path: Path
) -> None:
    wrong = []
    for number, failure in enumerate(load(part)):
        verdict = judge(failure.lay_out(tmp_path / str(number)), 0, failure.scheduler)
        if verdict.cause != failure.cause or failure.node not in (None, verdict.node):
            wrong.append(f"{failure.name}: {verdict}")
    assert not wrong


def test_the_corpus_has_every_cause_that_one_attempt_can_end_of() -> None:
    for part in PARTS:
        causes = {failure.cause for failure in load(part)}
        assert len(causes) == 9, part  # all but no_progress, which takes several attempts
