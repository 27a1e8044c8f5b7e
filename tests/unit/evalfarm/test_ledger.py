"""The ledger: a unit of work is written whole or not at all, and once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evalfarm.ledger import Ledger
from evalfarm.rows import Checkpoint, Picture, Score


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.sqlite", "mini", "a" * 64)
    yield opened
    opened.close()


def picture(sample: int, **changes: object) -> Picture:
    return Picture(**{"checkpoint": "c", "prompt": 0, "sample": sample, "status": "ok"} | changes)  # type: ignore[arg-type]


def score(sample: int, **changes: object) -> Score:
    keys = {"checkpoint": "c", "prompt": 0, "sample": sample, "metric": "ocr/x", "status": "ok"}
    return Score(**keys | changes)  # type: ignore[arg-type]


def test_rows_come_back_as_they_were_written(ledger: Ledger) -> None:
    features = np.array([0.25, -1.0], np.float32)
    made = picture(0, file="images/a.png", sha256="f" * 64, worker="w", seconds=0.5)
    seen = score(0, numbers={"ned": 0.5}, detail={"read": "größe ' \" \n"}, features=features)
    ledger.commit([made], [seen])
    assert ledger.pictures("c") == [made]
    (back,) = ledger.scores("c")
    assert back.features is not None
    assert np.array_equal(back.features, features)
    assert (back.numbers, back.detail) == (seen.numbers, seen.detail)


def test_what_is_done_twice_is_written_once(ledger: Ledger) -> None:
    ledger.commit([picture(0, worker="first")], [score(0, numbers={"ned": 1.0})])
    ledger.commit([picture(0, worker="second"), picture(1)], [score(0, numbers={"ned": 0.0})])
    assert [(p.sample, p.worker) for p in ledger.pictures("c")] == [(0, "first"), (1, None)]
    assert [s.numbers for s in ledger.scores("c")] == [{"ned": 1.0}]


def test_a_unit_that_fails_half_way_leaves_nothing(ledger: Ledger) -> None:
    unwritable = score(1, detail={"what": object()})
    with pytest.raises(TypeError):
        ledger.commit([picture(0)], [score(0), unwritable])
    assert ledger.pictures("c") == []
    assert ledger.scores("c") == []
    ledger.commit([picture(0)])  # and it can go on
    assert len(ledger.pictures("c")) == 1


def test_rows_come_in_the_order_of_the_suite(ledger: Ledger) -> None:
    ledger.commit([picture(2), picture(0)])
    ledger.commit([picture(1)])
    assert [p.sample for p in ledger.pictures("c")] == [0, 1, 2]


def test_checkpoints_come_by_step_and_references_apart(ledger: Ledger) -> None:
    for step in (200, None, 100):
        kind = "references" if step is None else "weights"
        ledger.add_checkpoint(
            Checkpoint(checkpoint=str(step), kind=kind, step=step, name=f"n{step}", path="p")
        )
    assert [c.step for c in ledger.checkpoints("weights")] == [100, 200]
    assert [c.checkpoint for c in ledger.checkpoints("references")] == ["None"]


def test_a_changed_suite_never_mixes_with_old_rows(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds the scores of another suite"):
        Ledger(tmp_path / "ledger.sqlite", "mini", "b" * 64)
    Ledger(tmp_path / "ledger.sqlite", "mini", "a" * 64).close()


def test_what_failed_is_forgotten_when_it_is_to_be_done_again(ledger: Ledger) -> None:
    failed = {"status": "failed", "error": "it broke"}
    ledger.commit([picture(0), picture(1, **failed)], [score(0, **failed)])
    assert ledger.forget_failures() == 2
    assert [p.sample for p in ledger.pictures("c")] == [0]
    assert ledger.scores("c") == []
