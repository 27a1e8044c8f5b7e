"""What people look at: the report and the table of pictures."""

import base64
import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.report.charts import LEFT, RIGHT, WIDTH, chart, nice_ticks
from evalfarm.report.gallery import embedded
from evalfarm.report.picture_table import picture_table
from evalfarm.report.report import report_page, spread, write_reports
from evalfarm.results.results import summarize
from evalfarm.suite import Prompt, Sampling, Suite
from tests.unit.evalfarm.conftest import SUITE, write_checkpoint


def test_the_report_is_one_file_with_the_pictures_in_it(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 0, [0.0, 0.0, 0.0])
    write_checkpoint(evaluation, 10, [1.0, None, 0.5])
    write_reports(evaluation)
    page = (evaluation.folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5 + 2  # the best and the worst again
    assert "http://" not in page
    assert "https://" not in page
    assert "it broke" in page
    assert '<td class="best">0.750<small>± 3.177</small></td>' in page  # t(1) s / √2


def test_the_report_says_how_its_pictures_were_made(tmp_path: Path) -> None:
    sampling = replace(SUITE.sampling, sampler="dpmsolver++", sampler_steps=12)
    evaluation = Evaluation(replace(SUITE, sampling=sampling), EvalConfig(), tmp_path / "three")
    write_checkpoint(evaluation, 0, [0.0, 0.0, 0.0])
    assert "12 steps of dpmsolver++" in report_page(evaluation, summarize(evaluation))
    evaluation.close()


def test_what_a_prompt_or_ocr_says_is_never_markup(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 0, [0.0, 0.0, 0.0])
    write_reports(evaluation)
    page = (evaluation.folder / "report.html").read_text()
    assert "&lt;b&gt;" in page
    assert "read &lt;1&gt;" in page
    assert "<b>" not in page


def test_every_picture_has_a_row_in_the_table(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0, None, 0.5])
    rows = list(csv.DictReader(io.StringIO(picture_table(evaluation))))
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert [row["words"] for row in rows] == ["one", "two", "three"]
    assert rows[1]["error"] == "it broke"
    accuracy = f"{evaluation.metrics['ocr'].rows} accuracy"
    assert [row[accuracy] for row in rows] == ["1.0", "", "0.5"]


def test_the_page_stays_small_however_large_the_suite_is(tmp_path: Path) -> None:
    prompts = tuple(Prompt(text=f"'{n}'", group=f"g{n % 2}") for n in range(2000))
    sampling = Sampling(height=32, width=96)
    suite = Suite(name="large", prompts=prompts, metrics=("ocr",), sampling=sampling)
    evaluation = Evaluation(suite, EvalConfig(), tmp_path / "large")
    write_checkpoint(evaluation, 0, [n % 7 / 7 for n in range(2000)])
    write_reports(evaluation)
    page = (evaluation.folder / "report.html").read_text()
    assert len(page) < 500_000
    assert "The first 48 of 2000 prompts." in page
    assert "The first 300 of 2000 prompts; all are in pictures.csv." in page
    assert (evaluation.folder / "pictures.csv").read_text().count("\n") == 2001
    assert "By group, at step 0" in page


def test_large_pictures_are_embedded_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (768, 1024, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    found = embedded(tmp_path / "large.png")
    assert found is not None
    kind, _, data = found.partition(";base64,")
    assert kind == "data:image/jpeg"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (256, 192)
    assert embedded(tmp_path / "gone.png") is None


def test_notes_and_missing_metrics_are_told_on_the_page(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 0, [0.0, 0.0, 1.0])
    evaluation.ledger._db.execute("UPDATE pictures SET note = 'all <black>' WHERE prompt < 2")
    write_reports(evaluation)
    page = (evaluation.folder / "report.html").read_text()
    assert "step 0: 2 pictures with the note “all &lt;black&gt;”" in page
    assert "clip_score is absent: set eval.networks.clip" in page


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 0.9, [0, 0.25, 0.5, 0.75, 1]),
        (-0.013, 0.06, [-0.02, 0, 0.02, 0.04, 0.06]),
        (0, 480, [0, 200, 400, 600]),
        (0.3, 0.3, [0.3, 0.4]),
    ],
)
def test_axes_have_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == ticks


def test_a_curve_has_a_place_and_words_for_each_step(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 0, [0.0, 0.0, 0.0])
    write_checkpoint(evaluation, 100, [1.0, 0.5, 0.0])
    results = summarize(evaluation)
    drawn = chart(results["columns"][0], results["rows"])
    assert drawn is not None
    assert drawn.points[1][2] == "step 100: 0.500, 95 % -0.742 to 1.742, n 3"
    assert drawn.points[0][:2] == (LEFT, drawn.band[0][1])
    assert drawn.points[1][0] == WIDTH - RIGHT
    assert min(y for _, y in drawn.band) < drawn.points[1][1] < max(y for _, y in drawn.band)


def test_of_many_checkpoints_the_first_and_the_last_are_shown() -> None:
    assert spread(list(range(20)), 8) == [0, 3, 5, 8, 11, 14, 16, 19]
    assert spread([1, 2], 8) == [1, 2]
