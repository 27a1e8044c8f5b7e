"""What people look at: the report, the table of pictures, TensorBoard."""

import csv
import io
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evalfarm.board import Board, picture_grid
from evalfarm.evaluation import Evaluation
from evalfarm.report import picture_table, write_reports
from evalfarm.results import summarize
from tests.unit.evalfarm.conftest import ocr_key, write_checkpoint


def test_the_report_is_one_file_with_the_pictures_in_it(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 0, [0.0, 0.0, 0.0])
    write_checkpoint(evaluation, 10, [1.0, None, 0.5])
    write_reports(evaluation)
    page = (evaluation.folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "http://" not in page
    assert "https://" not in page
    assert "it broke" in page
    assert '<td class="best">0.750</td>' in page


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


def test_curves_stand_on_the_training_steps(evaluation: Evaluation, tmp_path: Path) -> None:
    write_checkpoint(evaluation, 0, [0.0, 0.0, 0.0])
    write_checkpoint(evaluation, 50, [1.0, 1.0, 1.0])
    board = Board(tmp_path / "board")
    board.draw(evaluation, summarize(evaluation)["rows"])
    board.close()
    shown = EventAccumulator(str(tmp_path / "board")).Reload()
    curve = shown.Scalars(ocr_key(evaluation, "f1"))
    assert [point.step for point in curve] == [0, 50]
    np.testing.assert_allclose([point.value for point in curve], [0, 1], atol=1e-6)
    assert [image.step for image in shown.Images("pictures")] == [0, 50]
    assert [point.value for point in shown.Scalars("pictures/scored")] == [3, 3]


def test_a_late_result_neither_bends_nor_cuts_the_curve(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    board = Board(tmp_path / "board")
    for step in (50, 100, 20):  # the last one is late
        write_checkpoint(evaluation, step, [step / 100] * 3)
        board.draw(evaluation, summarize(evaluation)["rows"])
    board.close()
    shown = EventAccumulator(str(tmp_path / "board")).Reload()
    curve = shown.Scalars(ocr_key(evaluation, "f1"))
    assert [point.step for point in curve] == [20, 50, 100]


def test_a_failed_picture_leaves_its_place_in_the_grid(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0, None, 0.5])
    pictures = evaluation.ledger.pictures(f"{10:064d}")
    grid = picture_grid(evaluation.folder, pictures)
    assert grid is not None
    assert grid.shape == (32, 3 * 96, 3)
    places = [tuple(grid[16, 48 + 96 * place]) for place in range(3)]
    assert places == [(10, 0, 0), (128, 128, 128), (10, 2, 0)]
