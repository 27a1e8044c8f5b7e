"""Results: counted from the ledger, with nothing missing unseen."""

from pathlib import Path

import pytest

from cluster.run_folder import RunFolder, write_json
from cluster.table import results_table
from evalfarm.evaluation import Evaluation
from evalfarm.results import summarize, verdict
from tests.unit.evalfarm.conftest import ocr_key, write_checkpoint
from trainer.early_stop import read_series


def test_failed_pictures_are_counted_and_their_error_is_told(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0, None, 0.0])
    (row,) = summarize(evaluation)["rows"]
    key = ocr_key(evaluation, "accuracy")
    assert row["values"][key] == 0.5  # of the two that were scored
    assert (row["n_expected"], row["n_made"], row["n_scored"]) == (3, 2, 2)
    assert row["errors"] == ["it broke"]
    assert row["complete"]


def test_a_checkpoint_that_is_not_done_is_not_complete(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0, 1.0])
    (row,) = summarize(evaluation)["rows"]
    assert not row["complete"]


def test_what_cannot_be_measured_is_absent_with_its_reason_and_never_zero(
    evaluation: Evaluation,
) -> None:
    write_checkpoint(evaluation, 10, [1.0, 1.0, 1.0])
    results = summarize(evaluation)
    assert results["absent"] == {"clip_score": "set eval.networks.clip"}
    assert not any("clip" in key for key in results["rows"][0]["values"])
    assert "clip_score is absent: set eval.networks.clip" in results_table(results)


def test_a_trainer_reads_of_each_metric_what_whole_checkpoints_scored(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    for step, scores in ((10, [1.0, 0.0, 0.5]), (20, [1.0, 1.0, None]), (30, [1.0, 1.0])):
        write_checkpoint(evaluation, step, scores)
    run = RunFolder(tmp_path)
    write_json(run.verdict("tiny"), verdict(summarize(evaluation)))
    series = read_series(run, "tiny/ocr_accuracy", {})
    assert series.values == {10: 0.5, 20: 1.0}  # step 30 is not done
    assert series.higher_is_better
    assert series.best(1) == [20]


def test_the_table_says_which_end_is_better_and_how_many_were_scored(
    evaluation: Evaluation,
) -> None:
    write_checkpoint(evaluation, 0, [0.0, 0.0, 0.0])
    write_checkpoint(evaluation, 10, [1.0, None, 0.5])
    head, first, second, *notes = results_table(summarize(evaluation)).splitlines()
    assert head.split("  ")[-1].strip() == "n"
    assert "OCR acc ↑" in head
    assert first.split() == ["step", "0", *["0.000"] * 10, "3"]
    means, micro, sentences = ["0.750"] * 5, ["1.000", "0.750", "0.857"], ["0.750", "0.250"]
    assert second.split() == ["step", "10", *means, *micro, *sentences, "2/3"]
    assert "step 10: it broke" in notes


def test_the_plan_follows_from_the_ledger(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0, 1.0])
    (checkpoint,) = evaluation.ledger.checkpoints("weights")
    ((pool, unit),) = evaluation.units(checkpoint)  # the first chunk of two is done
    assert pool == "generators"
    assert [item.prompt for item in unit.items] == [2]  # type: ignore[union-attr]
    write_checkpoint(evaluation, 11, [1.0, None, 0.0])
    assert list(evaluation.units(evaluation.ledger.checkpoints("weights")[1])) == []


def test_pictures_that_lack_a_score_are_looked_at_again(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0, 1.0, 1.0])
    evaluation.ledger._db.execute("DELETE FROM scores WHERE prompt = 2")
    (checkpoint,) = evaluation.ledger.checkpoints("weights")
    ((pool, unit),) = evaluation.units(checkpoint)
    assert pool == "scorers"
    assert [picture.prompt for picture in unit.pictures] == [2]  # type: ignore[union-attr]


@pytest.mark.parametrize("values", [[0.2, 0.4, 0.9]])
def test_means_do_not_depend_on_the_order_of_commits(
    evaluation: Evaluation, values: list[float]
) -> None:
    write_checkpoint(evaluation, 10, list(values))
    (row,) = summarize(evaluation)["rows"]
    key = ocr_key(evaluation, "accuracy")
    assert row["values"][key] == pytest.approx(sum(values) / 3)
