"""TensorBoard shows what the ledger says, in both of its loaders, whatever comes late."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.data.provider import RunTagFilter
from tensorboard.data.server_ingester import ExistingServerDataIngester, get_server_binary
from tensorboard.util.grpc_util import ChannelCredsType

from evalfarm.evaluation import Evaluation
from evalfarm.report.board import Board
from evalfarm.report.confidence import THRESHOLDS, confidence_curve, judged_words
from evalfarm.report.grid import picture_grid
from evalfarm.results.results import summarize
from tests.unit.evalfarm.conftest import ocr_key, write_checkpoint

Curve = list[tuple[int, float]]
Watch = Callable[[Path, str], Callable[[Curve], Curve]]
PATIENCE_S = 30.0


@pytest.fixture(params=["fast", "slow"])
def watch(request: pytest.FixtureRequest) -> Iterator[Watch]:
    """Opens a folder in one of TensorBoard's loaders, which stays open; then asks it for a curve
    until that is as expected, or for too long."""
    servers: list[subprocess.Popen[bytes]] = []

    def open_fast(logdir: Path, tag: str) -> Callable[[Curve], Curve]:
        port = logdir / "port"
        options = [f"--logdir={logdir}", f"--port-file={port}", "--port=0", "--reload=1"]
        servers.append(subprocess.Popen([get_server_binary().path, *options]))
        _until(lambda: port.is_file() and port.read_text().endswith("\n"), True)
        server = ExistingServerDataIngester(
            f"localhost:{int(port.read_text())}", channel_creds_type=ChannelCredsType.LOCAL
        )
        server.start()
        return lambda expected: _until(lambda: _fast(server, tag), expected)

    def open_slow(logdir: Path, tag: str) -> Callable[[Curve], Curve]:
        shown = EventAccumulator(str(logdir / "eval-three"))
        return lambda expected: _until(lambda: _slow(shown, tag), expected)

    yield open_fast if request.param == "fast" else open_slow
    for server in servers:
        server.kill()
        server.wait()


def _fast(server: ExistingServerDataIngester, tag: str) -> Curve:
    found = server.data_provider.read_scalars(
        RequestContext(),
        experiment_id="",
        plugin_name="scalars",
        downsample=1000,
        run_tag_filter=RunTagFilter(tags=[tag]),
    )
    curve = found.get("eval-three", {}).get(tag, [])
    return [(point.step, round(point.value, 4)) for point in curve]


def _slow(shown: EventAccumulator, tag: str) -> Curve:
    shown.Reload()
    return [(point.step, round(point.value, 4)) for point in shown.Scalars(tag)]


def _until(ask: Callable[[], Any], expected: Any) -> Any:
    """What was answered last: what was expected, or something else for too long."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := ask()) != expected and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return found


def test_late_and_changed_results_neither_cut_nor_bend_a_curve_that_is_watched(
    evaluation: Evaluation, tmp_path: Path, watch: Watch
) -> None:
    board, key = Board(tmp_path / "boards" / "eval-three"), ocr_key(evaluation, "accuracy")

    def score(step: int, accuracies: list[float | None]) -> None:
        write_checkpoint(evaluation, step, accuracies)
        board.draw(evaluation, summarize(evaluation)["rows"])

    score(50, [0.5, 0.5, 0.5])
    shown = watch(tmp_path / "boards", key)
    assert shown([(50, 0.5)]) == [(50, 0.5)]
    score(100, [1.0, 1.0, 0.25])
    expected = [(50, 0.5), (100, 0.75)]
    assert shown(expected) == expected
    score(20, [0.25, 0.25, 0.25])  # it is late
    expected = [(20, 0.25), *expected]
    assert shown(expected) == expected
    evaluation.ledger._db.execute(
        "DELETE FROM scores WHERE checkpoint = ? AND prompt = 2", (f"{100:064d}",)
    )
    score(150, [0.5, 0.5, 0.5])  # and 100 has changed meanwhile
    expected = [(20, 0.25), (50, 0.5), (100, 1.0), (150, 0.5)]
    assert shown(expected) == expected
    restarted = Board(tmp_path / "boards" / "eval-three")
    restarted.draw(evaluation, summarize(evaluation)["rows"])
    assert shown(expected) == expected


def drawn(evaluation: Evaluation, folder: Path, recipe: Path | None = None) -> EventAccumulator:
    """What a fresh TensorBoard finds after the board is drawn from the start, twice."""
    for _ in range(2):
        Board(folder, recipe).draw(evaluation, summarize(evaluation)["rows"])
    return EventAccumulator(str(folder)).Reload()


def test_values_have_their_intervals_and_counts_beside_them(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    write_checkpoint(evaluation, 0, [0.0, 0.0, 0.0])
    write_checkpoint(evaluation, 50, [1.0, None, 0.5])
    shown, key = drawn(evaluation, tmp_path / "board"), ocr_key(evaluation, "accuracy")
    low, high = summarize(evaluation)["rows"][1]["intervals"][key]
    ends = [shown.Scalars(f"interval_{end}/{key}") for end in ("low", "high")]
    assert [[point.value for point in end] for end in ends] == [
        pytest.approx([0, low]),
        pytest.approx([0, high]),
    ]
    assert [point.value for point in shown.Scalars("pictures/scored")] == [3, 2]
    assert [point.value for point in shown.Scalars("pictures/expected")] == [3, 3]
    assert [image.step for image in shown.Images("pictures")] == [0, 50]
    layout = shown.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert f"interval_high/{key}".encode() in layout


def test_a_point_stands_at_the_time_its_pictures_were_made(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    write_checkpoint(evaluation, 50, [1.0, 1.0, 1.0])
    made = (evaluation.folder / "images" / "50" / "0.png").stat().st_mtime
    shown = drawn(evaluation, tmp_path / "board")
    assert shown.Scalars(ocr_key(evaluation, "f1"))[0].wall_time == pytest.approx(made)


def test_a_restart_makes_no_second_session_of_the_hyperparameters(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    write_checkpoint(evaluation, 50, [1.0, 1.0, 1.0])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {model: assets/mini, optim: {lr: 0.001, eps: 2}, lora: null}\n")
    (tmp_path / "state.json").write_text('{"swept": ["train.optim.eps"]}')
    shown = drawn(evaluation, tmp_path / "boards" / "eval-three", recipe)
    assert [path.name for path in (tmp_path / "boards").rglob("*") if path.is_dir()] == [
        "eval-three"
    ]
    start = shown.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"train.optim.lr" in start
    assert b"train.optim.eps" in start  # not telling in itself, but swept
    assert b"train.lora" not in start


def test_the_words_that_ocr_is_sure_of_are_counted_by_threshold(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    lines = [{"text": "One two", "confidence": 0.9}, {"text": "two", "confidence": 0.5}]
    judged = judged_words(lines, ["two", "three"])
    assert sorted(judged) == [(0.5, False), (0.9, False), (0.9, True)]  # two is asked for once
    curve = confidence_curve(judged, n_asked=2)
    at = {
        name: int(np.argmin(np.abs(THRESHOLDS - value)))
        for name, value in (("none", 0.0), ("some", 0.7), ("all", 1.0))
    }
    assert [int(curve.right[at[k]]) for k in at] == [1, 1, 0]
    assert [int(curve.wrong[at[k]]) for k in at] == [2, 1, 0]
    assert [float(curve.precision[at[k]]) for k in at] == pytest.approx([1 / 3, 1 / 2, 1])
    assert [float(curve.recall[at[k]]) for k in at] == [0.5, 0.5, 0]
    write_checkpoint(evaluation, 50, [1.0, 1.0, 1.0])
    evaluation.ledger._db.execute(
        """UPDATE scores SET detail = '{"lines": [{"text": "one", "confidence": 0.8}]}'"""
    )
    rows = evaluation.metrics["ocr"].rows
    shown = drawn(evaluation, tmp_path / "board").Tensors(f"confidence/{rows}")[0]
    counts = np.reshape(shown.tensor_proto.float_val, (6, len(THRESHOLDS)))
    assert counts[:4, 0].tolist() == [1, 2, 0, 2]  # right, wrong, (none), missed


def test_a_failed_picture_leaves_its_place_in_the_grid(evaluation: Evaluation) -> None:
    write_checkpoint(evaluation, 10, [1.0, None, 0.5])
    pictures = evaluation.ledger.pictures(f"{10:064d}")
    grid = picture_grid(evaluation.folder, pictures)
    assert grid is not None
    assert grid.shape == (32, 3 * 96, 3)
    places = [tuple(grid[16, 48 + 96 * place]) for place in range(3)]
    assert places == [(10, 0, 0), (128, 128, 128), (10, 2, 0)]
