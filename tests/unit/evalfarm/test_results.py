"""Results: counted from the ledger, with nothing missing unseen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster.run_folder import RunFolder, write_json
from cluster.table import results_table
from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.report.report import write_reports
from evalfarm.results.results import summarize
from evalfarm.results.summary import Summaries, Summary
from evalfarm.results.verdict import verdict
from evalfarm.rows import Picture
from evalfarm.suite import Prompt
from evalfarm.work import Generate, Look
from tests.unit.evalfarm.conftest import SUITE, ocr_key, write_checkpoint
from trainer.early_stop import read_series
from trainer.models.config import NetworksConfig


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


def test_what_is_committed_while_results_are_made_is_never_called_complete_without_it(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(evaluation, 10, [1.0, 1.0])
    found = Summaries.of

    def of(*given: Any) -> Summary:
        summary = found(*given)
        write_checkpoint(evaluation, 10, [1.0, 1.0, 0.0])  # the driver does not wait
        return summary

    monkeypatch.setattr(Summaries, "of", of)
    key = ocr_key(evaluation, "accuracy")
    first, second = (summarize(evaluation)["rows"][0] for _ in range(2))
    assert (first["n"][key], first["complete"]) == (2, False)
    assert (second["n"][key], second["complete"]) == (3, True)


@pytest.mark.parametrize("count", [0, 1])
def test_a_distance_to_too_few_real_pictures_is_absent_with_the_reason(
    tmp_path: Path, tiny_model: Path, count: int
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    for number in range(count):
        Image.new("L", (32, 32)).save(real / f"{number}.png")
    config = EvalConfig(references=real, networks=NetworksConfig(clip=str(tiny_model / "clip")))
    suite = replace(SUITE, metrics=("frechet", "clip_score"))
    evaluation = Evaluation(suite, config, tmp_path / "three")
    assert evaluation.absent == {"frechet": f"{real} holds fewer than 2 real pictures"}
    evaluation.close()


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
    write_json(run.verdict("tiny"), verdict(evaluation, summarize(evaluation)))
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
    assert first.split() == ["step", "0", *["0.000"] * 5, "3"]
    assert second.split() == ["step", "10", *["0.750"] * 5, "2/3"]
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


def test_what_is_looked_at_is_the_picture_that_the_ledger_names(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0])  # the farm was killed; its successor has larger batches
    (checkpoint,) = evaluation.ledger.checkpoints("weights")
    ((_, unit),) = list(evaluation.units(checkpoint))[:1]
    assert isinstance(unit, Generate)
    made = [
        Picture(checkpoint=unit.checkpoint, prompt=n, sample=0, status="ok", file=f"new-{n}.png")
        for n in range(2)
    ]
    evaluation.ledger.commit(made)
    ((pool, look),) = evaluation.follow_up(unit)
    assert pool == "scorers"
    assert isinstance(look, Look)
    assert [picture.file for picture in look.pictures] == ["images/10/0.png", "new-1.png"]


@pytest.mark.parametrize("values", [[0.2, 0.4, 0.9]])
def test_means_do_not_depend_on_the_order_of_commits(
    evaluation: Evaluation, values: list[float]
) -> None:
    write_checkpoint(evaluation, 10, list(values))
    (row,) = summarize(evaluation)["rows"]
    key = ocr_key(evaluation, "accuracy")
    assert row["values"][key] == pytest.approx(sum(values) / 3)


def test_intervals_stand_beside_the_numbers(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 0, [0.0, 0.0, 0.0])
    write_checkpoint(evaluation, 10, [1.0, 0.0, 0.5])
    still, moved = summarize(evaluation)["rows"]
    key = ocr_key(evaluation, "accuracy")
    assert still["intervals"] == {}  # nothing varied
    reach = 4.30265 * 0.5 / 3**0.5  # t(2) s / √3
    assert moved["intervals"][key] == pytest.approx([0.5 - reach, 0.5 + reach], rel=1e-4)
    assert "0.500±1.242" in results_table(summarize(evaluation), intervals=True)
    assert set(moved["intervals"]) == set(moved["values"])
    assert moved["n"][key] == 3


def test_n_is_of_the_pictures_in_each_number(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0, 0.0, 0.5])
    evaluation.ledger._db.execute(
        "UPDATE scores SET numbers = json_set(numbers, '$.words_asked', 0) WHERE prompt = 0"
    )
    (row,) = summarize(evaluation)["rows"]
    names = ("ned", "f1", "sentence_accuracy", "cer")  # a prompt without words is no sentence
    assert [row["n"][ocr_key(evaluation, name)] for name in names] == [3, 3, 2, 2]


def test_groups_have_means_and_counts_of_their_own(tmp_path: Path) -> None:
    prompts = [Prompt(text=f"'{n}'", group=g) for n, g in enumerate(("short", "long", "long", ""))]
    prompts.append(Prompt(text="to fill the grid", group="long", filler=True))
    suite = replace(SUITE, prompts=tuple(prompts), metrics=("ocr",))
    evaluation = Evaluation(suite, EvalConfig(), tmp_path / "grouped")
    write_checkpoint(evaluation, 10, [1.0, 0.25, None, 0.0])
    groups = summarize(evaluation)["rows"][0]["groups"]
    key = ocr_key(evaluation, "accuracy")
    assert {name: group["values"][key] for name, group in groups.items()} == {
        "short": 1.0,
        "long": 0.25,
    }
    assert (groups["long"]["n_expected"], groups["long"]["n_scored"]) == (2, 1)
    assert ocr_key(evaluation, "f1") not in groups["long"]["values"]  # it is no mean


def test_notes_on_pictures_are_counted(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0, 1.0, 1.0])
    evaluation.ledger._db.execute("UPDATE pictures SET note = 'all black' WHERE prompt < 2")
    assert summarize(evaluation)["rows"][0]["notes"] == {"all black": 2}


def test_results_that_are_there_spare_work_but_never_outlive_their_rows(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(evaluation, 10, [1.0, 0.0, 0.5])
    results = write_reports(evaluation)
    looked: list[int] = []
    metric = type(evaluation.metrics["ocr"])
    summary = metric.summarize
    monkeypatch.setattr(metric, "summarize", lambda *given: looked.append(1) or summary(*given))
    assert summarize(evaluation) == results
    assert looked == []
    evaluation.ledger._db.execute("DELETE FROM scores WHERE prompt = 0")
    (row,) = summarize(evaluation)["rows"]
    assert row["values"][ocr_key(evaluation, "accuracy")] == 0.25
    assert looked
