"""Which differences between two checkpoints are real, from their ledgers alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from evalfarm.config import EvalConfig
from evalfarm.evaluation import Evaluation
from evalfarm.metrics.ocr import Ocr
from evalfarm.report.report import write_reports
from evalfarm.results.compare import Comparison, compare
from evalfarm.results.comparison_table import comparison_table
from evalfarm.results.record import find_checkpoint
from evalfarm.suite import Prompt, Sampling, Suite
from tests.unit.evalfarm.conftest import write_checkpoint

TWENTY = Suite(
    name="twenty",
    prompts=tuple(Prompt(text=f"'{n}'") for n in range(20)),
    metrics=("ocr",),
    sampling=Sampling(),
)
HALF: list[float | None] = [0.1 * (n % 8) for n in range(20)]


def scored(folder: Path, checkpoints: dict[int, Sequence[float | None]]) -> Path:
    """A folder of results, of these accuracies by step."""
    evaluation = Evaluation(TWENTY, EvalConfig(), folder / TWENTY.name)
    for step, accuracies in checkpoints.items():
        write_checkpoint(evaluation, step, list(accuracies))
    write_reports(evaluation)
    evaluation.close()
    return folder


def compared(first: str, second: str) -> Comparison:
    return compare(find_checkpoint(first, None), find_checkpoint(second, None))


def test_what_got_better_on_every_prompt_is_real(tmp_path: Path) -> None:
    up = [value and value + 0.1 + 0.01 * place for place, value in enumerate(HALF)]
    out = scored(tmp_path, {10: HALF, 20: up})
    words = {
        one.column["column"]: one.word for one in compared(f"{out}@10", f"{out}@20").differences
    }
    assert words == {column.name: "better" for column in Ocr.columns}
    back = compared(f"{out}@20", f"{out}@10").differences
    assert {one.word for one in back} == {"worse"}
    assert back[0].estimate is not None
    assert back[0].estimate.high < 0


def test_as_much_up_as_down_is_not_clear_and_the_same_is_equal(tmp_path: Path) -> None:
    shuffled = [*HALF[1:], HALF[0]]
    out = scored(tmp_path, {10: HALF, 20: shuffled, 30: HALF})
    unclear = compared(f"{out}@10", f"{out}@20").differences
    assert {one.word for one in unclear} == {"not clear"}
    assert {one.word for one in compared(f"{out}@10", f"{out}@30").differences} == {"equal"}


def test_only_pictures_of_both_count_and_n_says_so(tmp_path: Path) -> None:
    out = scored(tmp_path, {10: [None, *HALF[1:]], 20: [*HALF[:-1], None]})
    comparison = compared(f"{out}@step 10", f"{out}@20")
    assert {one.n for one in comparison.differences} == {18}
    assert {one.word for one in comparison.differences} == {"equal"}
    assert " 18/20 " in comparison_table(comparison)


def test_two_runs_compare_where_they_were_asked_the_same(tmp_path: Path) -> None:
    first = scored(tmp_path / "a", {10: HALF})
    second = scored(tmp_path / "b", {11: [1.0] * 20})
    table = comparison_table(compared(f"{first}@10", f"{second}@11"))
    assert f"{len(Ocr.columns)} of {len(Ocr.columns)} differences are real" in table
    other = Evaluation(TWENTY, EvalConfig(precision="fp32"), tmp_path / "c" / "twenty")
    write_checkpoint(other, 10, HALF)
    write_reports(other)
    with pytest.raises(ValueError, match=r"do not compare: suite twenty \w{8} bf16 is not .* fp32"):
        compared(f"{first}@10", f"{tmp_path / 'c'}@10")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{out}", r"does not say which checkpoint: write .*out@STEP or .*; there are step 10"),
        ("{out}@11", r"out has no checkpoint '11': it has step 10"),
        ("{out}/nowhere@10", r"nowhere holds no results: name a run folder, or the --out of"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line(tmp_path: Path, given: str, message: str) -> None:
    out = scored(tmp_path / "out", {10: HALF})
    with pytest.raises(ValueError, match=message):
        find_checkpoint(given.format(out=out), None)


def test_several_suites_want_a_choice_and_equal_weights_none(tmp_path: Path) -> None:
    out = scored(tmp_path / "out", {10: HALF})
    with pytest.raises(ValueError, match="are the same weights"):
        compared(f"{out}@10", f"{out}@step 10")
    with pytest.raises(ValueError, match="has no results of suite mini: it has twenty"):
        find_checkpoint(f"{out}@10", "mini")
    (out / "twenty").rename(tmp_path / "kept")
    for name in ("one", "two"):
        (out / name).mkdir()
        (out / name / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="has results of one, two: choose one by --suite"):
        find_checkpoint(f"{out}@10", None)
