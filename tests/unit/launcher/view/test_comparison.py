"""Runs beside each other, as `letterpress status FOLDER` shows them."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.run_folder import RunFolder, write_json
from cluster.state import begin_attempt, end_run, new_state
from launcher.runs import runs_at, runs_below, short_names
from launcher.view.comparison import comparison

COLUMNS = [
    {"key": "ocr_f1/x@1", "title": "OCR F1", "higher_is_better": True},
    {"key": "clip_score/c@1", "title": "CLIPScore", "higher_is_better": True},
    {"key": "frechet/c@1", "title": "Fréchet", "higher_is_better": False},
    {"key": "cer/x@1", "title": "CER", "higher_is_better": False, "headline": False},
]


def make(root: Path, **changes: Any) -> RunFolder:
    """A run folder that differs from others in these keys of its train section."""
    run = RunFolder(root)
    train = {"steps": 20, "lora": {"rank": 4}, **changes}
    write_json(run.recipe, {"name": run.root.name, "train": train})  # JSON is YAML
    write_json(run.state, new_state({}))
    return run


def score(run: RunFolder, digest: str = "d", **by_step: tuple[float, float, float]) -> None:
    """Results of a suite, as a farm writes them: by step the values of the columns above."""
    keys = [column["key"] for column in COLUMNS]
    rows = [
        {
            "name": f"step {step[1:]}",
            "step": int(step[1:]),
            "values": dict(zip(keys, (*values, 0.7), strict=True)),
            "intervals": {keys[1]: [values[1] - 2, values[1] + 2]},
            "complete": True,
            "n_scored": 48,
            "n_expected": 48,
            "errors": [],
        }
        for step, values in by_step.items()
    ]
    columns = [{"headline": True, "decimals": 2, **column} for column in COLUMNS]
    results = {"suite": "words", "digest": digest, "columns": columns, "absent": {}, "rows": rows}
    write_json(run.evaluation(f"words-{digest}") / "results.json", results)


@pytest.fixture
def sweep(tmp_path: Path) -> list[RunFolder]:
    """Three runs of a sweep, two of which are scored."""
    folder = tmp_path / "runs" / "sweep"
    runs = [make(folder / f"rank-{rank}", lora={"rank": rank}) for rank in (4, 8, 16)]
    score(runs[0], s0=(0, 60, 0.5), s10=(0, 70, 0.3), s20=(0, 70, 0.2))
    score(runs[1], s10=(0, 75, 0.4), s20=(0, 65, 0.1))
    return runs


def test_runs_are_shown_with_what_they_differ_in_and_how_far_they_are(
    sweep: list[RunFolder],
) -> None:
    number = begin_attempt(sweep[1])
    beat = {"rank": 0, "time": 0.0, "phase": "train", "step": 20, "steps": 20, "loss": 0.25}
    write_json(sweep[1].attempt(number).heartbeat(0), beat)
    end_run(sweep[1], number, 0)
    table = [line.split() for line in comparison(sweep[::-1]).splitlines()[:4]]
    assert table == [
        ["run", "train.lora.rank", "state", "step", "loss"],
        ["rank-4", "4", "new", "–", "–"],
        ["rank-8", "8", "done", "20/20", "0.2500"],
        ["rank-16", "16", "new", "–", "–"],
    ]


def test_the_newest_validation_loss_is_shown_where_there_is_one(sweep: list[RunFolder]) -> None:
    numbers = [begin_attempt(sweep[0]), begin_attempt(sweep[0])]
    for number in numbers:
        beat = {"rank": 0, "time": 0.0, "phase": "train", "step": 9, "steps": 20}
        write_json(sweep[0].attempt(number).heartbeat(0), beat)
    events = [{"event": "validation", "step": step, "loss": step / 100} for step in (5, 8)]
    sweep[0].attempt(numbers[0]).events.write_text("\n".join(map(json.dumps, events)))
    head, first, second = comparison(sweep).splitlines()[:3]
    assert head.split()[-2:] == ["loss", "validation"]
    assert first.split()[-3:] == ["9/20", "–", "0.08000"]
    assert second.split()[-1] == "–"


def test_the_best_checkpoint_of_each_run_is_shown_the_best_first(sweep: list[RunFolder]) -> None:
    # All are equal by OCR F1, so the next column of the headline decides; 10 is before 20.
    told = comparison(sweep).splitlines()[5:]
    assert told[0] == "suite words: of each run the best by CLIPScore; --by names another metric"
    assert told[1].split() == ["OCR", "F1", "↑", "CLIPScore", "↑", "Fréchet", "↓", "n"]
    assert [row.split() for row in told[2:4]] == [
        ["rank-8@10", "0.00", "75.00±2.00", "0.40", "48"],
        ["rank-4@10", "0.00", "70.00±2.00", "0.30", "48"],
    ]
    assert told[4] == "not scored yet: rank-16"


def test_another_metric_can_decide(sweep: list[RunFolder]) -> None:
    told = comparison(sweep, by="frechet").splitlines()[5:]
    assert told[0].endswith("the best by Fréchet")
    assert [row.split()[0] for row in told[2:4]] == ["rank-8@20", "rank-4@20"]
    assert "CER" not in told[1]
    assert "CER ↓" in comparison(sweep, by="cer")  # though it is not of the headline
    with pytest.raises(ValueError, match="by 'fid': there is cer, clip_score, frechet, ocr_f1"):
        comparison(sweep, by="fid")


def test_what_was_not_asked_the_same_is_not_put_into_one_table(sweep: list[RunFolder]) -> None:
    score(sweep[2], digest="other", s20=(1, 80, 0.1))
    told = comparison(sweep).splitlines()
    heads = [line for line in told if line.startswith("suite ")]
    assert len(heads) == 2
    assert told[-2].split()[0] == "rank-16@20"
    assert told[-1] == "not scored yet: rank-4, rank-8"


def test_runs_that_have_little_in_common_do_not_fill_the_screen(tmp_path: Path) -> None:
    one, other = make(tmp_path / "a"), make(tmp_path / "b", **{f"k{n}": n for n in range(9)})
    told = comparison([one, other]).splitlines()
    assert told[0].split()[1:-3] == [f"train.k{n}" for n in range(6)]
    assert told[-1] == "they differ in 9 keys: the first 6 are shown"


def test_a_folder_stands_for_the_runs_in_it(sweep: list[RunFolder], tmp_path: Path) -> None:
    alone = make(tmp_path / "runs" / "alone")
    make(tmp_path / "runs" / ".half.frozen.tmp")
    names = ["alone", "sweep/rank-16", "sweep/rank-4", "sweep/rank-8"]
    assert short_names(runs_below(tmp_path / "runs")) == names
    assert short_names(runs_at([sweep[0].root.parent])) == ["rank-16", "rank-4", "rank-8"]
    assert [run.root for run in runs_at([alone.root, sweep[2].root])] == [alone.root, sweep[2].root]
    with pytest.raises(ValueError, match="is not a run folder: it holds no recipe"):
        runs_at([tmp_path / "elsewhere"])
