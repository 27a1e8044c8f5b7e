"""A sweep: what runs it makes, what they are called, and what it refuses before any is made."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml

from cluster.exit_codes import ExitCode, MachineFault
from cluster.run_folder import RunFolder, read_json
from launcher import sweep_start
from launcher.recipe import Recipe, load_recipe
from launcher.run_state import run_state
from launcher.sweep import Sweep, freeze_sweep, sweep_of
from tests.conftest import CHECKOUT

MINI = CHECKOUT / "recipes" / "mini.yaml"


def sweep(*swept: str, name: str | None = None, changes: Sequence[str] = ()) -> Sweep:
    """The mini recipe's sweep over these keys."""
    return sweep_of(partial(load_recipe, MINI), changes, swept, name)


def test_there_is_a_run_for_each_combination_named_by_what_sets_it_apart() -> None:
    found = sweep("train.optim.lr=1e-4,5e-5", "train.lora.rank=4,16", changes=["train.steps=9"])
    assert found.name == "mini-sweep"
    assert [recipe.name for recipe in found.recipes] == [
        "lr-1e-4-rank-4",
        "lr-1e-4-rank-16",
        "lr-5e-5-rank-4",
        "lr-5e-5-rank-16",
    ]
    lora = [recipe.train.lora for recipe in found.recipes]
    assert [one.rank for one in lora if one] == [4, 16, 4, 16]
    assert [recipe.train.optim.lr for recipe in found.recipes] == [1e-4, 1e-4, 5e-5, 5e-5]
    assert {recipe.train.steps for recipe in found.recipes} == {9}


def test_values_may_hold_commas_inside_of_brackets() -> None:
    found = sweep("train.optim.betas=[0.9, 0.99],[0.8,0.9]", "train.lora=null,{rank: 2}", name="b")
    assert found.name == "b"
    assert [recipe.name for recipe in found.recipes[:2]] == [
        "betas-0.9-0.99-lora-null",
        "betas-0.9-0.99-lora-rank-2",
    ]
    assert [recipe.train.optim.betas for recipe in found.recipes[1:3]] == [(0.9, 0.99), (0.8, 0.9)]


def test_keys_that_end_alike_are_told_apart() -> None:
    (recipe,) = sweep("train.lora.rank=4", "eval.generators=1").recipes
    assert recipe.name == "rank-4-generators-1"
    (recipe,) = sweep("train.precision=fp32", "eval.precision=fp32").recipes
    assert recipe.name == "train.precision-fp32-eval.precision-fp32"


@pytest.mark.parametrize(
    ("swept", "line"),
    [
        (["train.optim.lr"], "--sweep takes key=value,value, such as train.lora.rank=4,16, got"),
        (["train.optim.lr="], "--sweep takes key=value,value"),
        (["train.optim.lr=[1,2"], "--sweep takes key=value,value"),
        (["train.lora.rank=4", "train.lora.rank=8"], "--sweep train.lora.rank is given twice"),
        (["optim.lr=1e-4"], "optim.lr=1e-4: optim is not a key: did you mean train.optim?"),
        (["train.steps=1,x"], "train.steps=x: train.steps: expected int, got x"),
        (["train.optim.lr=1e-3,0.001"], "lr-1e-3 and lr-0.001 would be the same run: leave one"),
        (["name=a,b"], "name-a and name-b would be the same run"),
        (["train.data.words.samples=8,9"], "samples-8 and samples-9 would make different samples"),
        (["train.model=a/b,a-b"], "two runs would be called model-a-b: submit one of them"),
    ],
)
def test_a_mistake_in_any_run_is_one_line(swept: list[str], line: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as refused:
        sweep(*swept)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_each_run_is_a_run_folder(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "mini-sweep"
    runs = freeze_sweep(sweep("train.lora.rank=4,16"), root)
    assert [run.root for run in runs] == [root / "rank-4", root / "rank-16"]
    assert [yaml.safe_load(run.recipe.read_text())["train"]["lora"]["rank"] for run in runs] == [
        4,
        16,
    ]
    assert read_json(runs[0].state)["swept"] == ["train.lora.rank"]
    assert (RunFolder.existing(runs[1].root).code / "trainer" / "train.py").is_file()
    with pytest.raises(ValueError, match=r"exists: `letterpress status .*mini-sweep` compares"):
        freeze_sweep(sweep("train.lora.rank=8"), root)
    assert sorted(path.name for path in root.parent.iterdir()) == ["mini-sweep"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a user is in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_here_they_run_one_after_the_other_and_one_that_fails_stops_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = iter([93, 0, 0])
    started = []

    def run_here(recipe: Recipe, run: RunFolder) -> int:
        started.append((recipe.name, run.root))
        return next(codes)

    monkeypatch.setattr("launcher.local.run_here", run_here)
    root = folder / "runs" / "mini-sweep"
    assert sweep_start.run_all_here(sweep("train.lora.rank=2,4,8"), root, None) == 93
    names = ["rank-2", "rank-4", "rank-8"]
    assert started == [(name, root / name) for name in names]
    said = capsys.readouterr()
    assert "run 2 of 3: rank-4" in said.err
    assert [line.split()[0] for line in said.out.splitlines()[:4]] == ["run", *names]


def test_a_stop_ends_the_sweep_and_says_what_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_here(_: Recipe, run: RunFolder) -> int:
        run.request_stop("Ctrl-C in the launcher")
        return ExitCode.STOPPED

    monkeypatch.setattr("launcher.local.run_here", run_here)
    root = folder / "runs" / "s"
    code = sweep_start.run_all_here(sweep("train.lora.rank=2,4"), root, None)
    assert code == ExitCode.STOPPED
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"not started: `letterpress resume {root}/rank-4` starts it"


def test_on_ray_each_run_is_a_job_and_one_that_is_not_taken_can_be_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, submitted = folder / "runs" / "s", []

    def submit(run: RunFolder, _: object) -> str:
        if submitted:
            raise MachineFault("Ray did not take the job")
        submitted.append(read_json(run.state)["ray_job"]["id"])
        return str(submitted[0])

    monkeypatch.setattr("launcher.ray.jobs.connect", object)
    monkeypatch.setattr("launcher.ray.jobs.submit", submit)
    with pytest.raises(MachineFault):
        sweep_start.submit_to_ray(sweep("train.lora.rank=2,4"), root, None)
    assert submitted[0].startswith("rank-2-")
    assert run_state(RunFolder(root / "rank-4")) == "queued"  # `resume` submits it
