"""The command line as a user meets it: quick, and clear about mistakes."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, read_json, write_json
from cluster.state import begin_attempt, end_attempt, end_run, summed_up
from launcher.freeze import freeze, staged
from launcher.recipe import load_recipe
from launcher.view.status import details, own_command, run_state
from tests.conftest import CHECKOUT

MINI = CHECKOUT / "recipes" / "mini.yaml"


def letterpress(*arguments: object, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    """Run the launcher as a program."""
    command = [sys.executable, "-m", "launcher", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A frozen run that has not started."""
    return freeze(load_recipe(MINI), tmp_path / "mini")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["submit", MINI, "--dry-run", "--set", "train.stpes=3"]]
)
def test_help_and_a_misspelt_key_are_answered_at_once(arguments: list[object]) -> None:
    # Of processor time: what else the machine does is not ours to answer for.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    letterpress(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_a_misspelt_key_is_one_line_and_bad_input() -> None:
    done = letterpress("submit", MINI, "--set", "train.stpes=3")
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr == "error: train.stpes is not a key: did you mean train.steps?\n"


def test_a_dry_run_spells_out_every_default_and_leaves_nothing_behind(tmp_path: Path) -> None:
    changes = [f"train.model={CHECKOUT}", "train.steps=9", "eval=null"]
    done = letterpress("submit", MINI, "--dry-run", "--set", *changes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    recipe = yaml.safe_load(done.stdout)
    assert recipe["train"]["steps"] == 9
    assert recipe["train"]["optim"]["betas"] == [0.9, 0.999]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_recipe_and_all_that_it_lacks(tmp_path: Path) -> None:
    recipe = CHECKOUT / "recipes" / "mario_lora.yaml"
    done = letterpress("submit", recipe, "--dry-run", cwd=tmp_path)
    assert yaml.safe_load(done.stdout)["train"]["lora"]["rank"] == 4
    lacking = [line.split(" ")[1] for line in done.stderr.splitlines()]
    assert lacking == ["train.model", "train.data.mario.path", "train.data.mario.index"]
    assert done.returncode == ExitCode.BAD_INPUT  # as a real one would be answered
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--sweep", "train.seed=1,2"]])
def test_an_empty_name_is_not_taken_for_none(more: list[str]) -> None:
    done = letterpress("submit", MINI, "--dry-run", "--name", "", *more)  # "$UNSET" in a script
    assert done.stderr.startswith("error: name '' must be letters, digits")


def test_a_backend_that_is_not_there_says_what_is() -> None:
    done = letterpress("submit", MINI, "--on", "moon")
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr == "error: --on moon is not there: choose from local, slurm, ray\n"


def test_a_dry_run_on_slurm_prints_the_script_and_needs_no_slurm(tmp_path: Path) -> None:
    changes = [f"train.model={CHECKOUT}", "eval=null", "slurm.partition=gpu"]
    done = letterpress(
        "submit", MINI, "--on", "slurm", "--dry-run", "--set", *changes, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n")
    assert "#SBATCH --partition=gpu\n" in done.stdout
    assert f"RUN={tmp_path}/runs/mini\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_sweep_shows_every_run_and_leaves_nothing_behind(tmp_path: Path) -> None:
    swept = ["--sweep", "train.optim.lr=1e-4,5e-5", "train.lora.rank=4,16"]
    changes = ["--set", f"train.model={CHECKOUT}", "eval=null"]
    done = letterpress("submit", MINI, "--dry-run", *swept, *changes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = [recipe["name"] for recipe in yaml.safe_load_all(done.stdout)]
    assert shown == ["lr-1e-4-rank-4", "lr-1e-4-rank-16", "lr-5e-5-rank-4", "lr-5e-5-rank-16"]
    on_slurm = ["--on", "slurm", "--at-once", "2"]
    done = letterpress("submit", MINI, "--dry-run", *on_slurm, *swept, *changes, cwd=tmp_path)
    assert "#SBATCH --array=0-3%2\n" in done.stdout
    assert f"RUN={tmp_path}/runs/mini-sweep/lr-1e-4-rank-4\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--sweep", "train.steps=4,0"], "train.steps=0: train: steps must be at least 1, got 0"),
        (["--sweep", "ranks.nodes=1,2"], "this machine is one node, ranks.nodes is 2"),
        (["--at-once", "2"], "--at-once is about the runs of a --sweep, and there is none"),
        (
            ["--sweep", "train.steps=4,8", "--at-once", "2"],
            "--at-once takes a number from 1, with --on slurm, got 2",
        ),
    ],
)
def test_a_mistake_in_one_run_of_a_sweep_is_one_line_and_none_is_made(
    arguments: list[str], line: str, tmp_path: Path
) -> None:
    done = letterpress("submit", MINI, *arguments, cwd=tmp_path)
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr == f"error: {line}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_this_machine_has_no_job_to_cancel(run: RunFolder) -> None:
    done = letterpress("cancel", run.root)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "is on this machine: Ctrl-C twice" in done.stderr


def test_a_name_that_is_taken_is_never_overwritten(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="exists: `letterpress resume"):
        freeze(load_recipe(MINI, ["train.steps=1"]), run.root)
    assert yaml.safe_load(run.recipe.read_text())["train"]["steps"] != 1


def test_of_two_that_make_the_same_run_at_once_one_is_told_and_none_is_disturbed(
    tmp_path: Path,
) -> None:
    root = tmp_path / "runs" / "mini"
    with pytest.raises(ValueError, match="runs/mini was made meanwhile: --name"), staged(root):
        theirs = freeze(load_recipe(MINI), root)
    assert list(root.parent.iterdir()) == [root]
    assert theirs.recipe.is_file()


def test_a_run_for_which_there_is_no_room_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:  # as shutil.copytree says it
        raise shutil.Error([("from", "to", "[Errno 28] No space left on device: 'from' -> 'to'")])

    monkeypatch.setattr("launcher.freeze.copy_code", full)
    with pytest.raises(ValueError, match=r"mini cannot be made: .*No space left on device\. Runs"):
        freeze(load_recipe(MINI), tmp_path / "mini")
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_run_holds_recipe_code_and_where_it_comes_from(run: RunFolder) -> None:
    assert (run.code / "trainer" / "train.py").read_text() == (
        CHECKOUT / "trainer" / "train.py"
    ).read_text()
    assert (run.code / "evalfarm" / "suites" / "mini.yaml").is_file()
    state = read_json(run.state)
    assert set(state) >= {"command", "git", "host", "versions", "created"}
    assert "torch" in state["versions"]
    assert not list(run.code.rglob("__pycache__"))


def test_the_state_of_a_run_follows_its_attempts(run: RunFolder) -> None:
    assert run_state(run) == "new"
    number = begin_attempt(run, backend="local", pid=os.getpid())
    assert run_state(run) == "running"
    run.request_stop("the test")
    assert run_state(run) == "stopping"
    assert end_run(run, number, ExitCode.STOPPED) == "stopped"
    number = begin_attempt(run, backend="local", pid=os.getpid())
    assert not run.stop_request.exists()  # what was obeyed is forgotten
    decision = end_attempt(run, number, ExitCode.DO_NOT_RESTART)
    assert run_state(run) == "restarting"  # until whoever could do so does not
    assert end_run(run, number, ExitCode.DO_NOT_RESTART) == "failed"
    shown = details(run).splitlines()
    assert "verdict    user_error: exit code 93, and no agent left a record" in shown
    assert f"then       {decision.why}" in shown
    begin_attempt(run, backend="local", pid=2**22)  # no process has this number
    assert run_state(run) == "lost"


def test_an_attempt_is_summed_up_by_the_node_that_failed_first(run: RunFolder) -> None:
    number = begin_attempt(run)
    assert summed_up(run, number) == ExitCode.RETRY_ELSEWHERE  # no node has spoken
    for name, ended, code in (("a", 2.0, 75), ("b", 1.0, 93), ("c", 0.5, 0)):
        write_json(run.attempt(number).node_record(name), {"ended": ended, "exit_code": code})
    assert summed_up(run, number) == ExitCode.DO_NOT_RESTART


def test_what_is_no_run_is_said_so(tmp_path: Path) -> None:
    for command in ("status", "logs", "stop", "resume"):
        done = letterpress(command, tmp_path)
        assert done.returncode == ExitCode.BAD_INPUT
        assert "is not a run folder: it holds no recipe.yaml" in done.stderr


def test_logs_go_on_with_the_attempt_that_follows(run: RunFolder) -> None:
    number = begin_attempt(run, backend="local", pid=os.getpid())
    run.attempt(number).rank_log(0).write_text("first\n")
    command = [sys.executable, "-m", "launcher", "logs", "-f", str(run.root)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "first\n"
        write_json(run.attempt(number).node_record("a"), {"ended": 1.0, "exit_code": 75})
        number = begin_attempt(run, backend="local", pid=os.getpid())
        run.attempt(number).rank_log(0).write_text("second\n")
        assert following.stdout.readline() == "second\n"
        end_run(run, number, ExitCode.DONE)
        write_json(run.attempt(number).node_record("a"), {"ended": 2.0, "exit_code": 0})
        assert following.wait(60) == 0


def test_logs_wait_for_a_run_that_is_still_queued(run: RunFolder) -> None:
    write_json(run.state, {**read_json(run.state), "ray_job": {"id": "17"}})
    told = f"error: {run.root} has not started yet: it is queued\n"
    assert letterpress("logs", run.root).stderr == told
    command = [sys.executable, "-m", "launcher", "logs", "-f", str(run.root)]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert following.stderr.readline() == "waiting for mini, which is queued\n"
        number = begin_attempt(run, backend="ray", job="17")
        run.attempt(number).rank_log(0).write_text("first\n")
        assert following.stdout.readline() == "first\n"
        write_json(run.attempt(number).node_record("a"), {"ended": 1.0, "exit_code": 0})
        end_run(run, number, ExitCode.DONE)
        assert following.wait(60) == 0


def test_the_farms_log_is_one_for_all_attempts(run: RunFolder) -> None:
    done = letterpress("logs", "--farm", run.root)
    assert done.stderr == f"error: there is no {run.farm_log}\n"
    run.farm_log.parent.mkdir()
    run.farm_log.write_text("scoring\n")
    for _ in range(2):
        begin_attempt(run, backend="local", pid=os.getpid())
    end_run(run, 1, ExitCode.DONE)
    for follow in ((), ("-f",)):
        assert letterpress("logs", "--farm", *follow, run.root).stdout == "scoring\n"


def test_a_run_that_does_not_run_cannot_be_stopped(run: RunFolder) -> None:
    done = letterpress("stop", run.root)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "is not running: it is new" in done.stderr


def test_a_sweeps_runs_are_stopped_together(run: RunFolder, tmp_path: Path) -> None:
    begin_attempt(run, backend="local", pid=os.getpid())
    (tmp_path / "sweep").mkdir()
    for name in ("going", "new"):
        shutil.copytree(run.root, tmp_path / "sweep" / name)
    shutil.rmtree(tmp_path / "sweep" / "new" / "attempts")
    going, new = (RunFolder(tmp_path / "sweep" / name) for name in ("going", "new"))
    write_json(new.state, {**read_json(new.state), "attempts": []})
    done = letterpress("stop", tmp_path / "sweep")
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    assert done.stdout.startswith("asked going to save and stop")
    assert f"{new.root} is not running: it is new\n" in done.stdout
    assert going.stop_request.exists()
    assert not new.stop_request.exists()


def test_status_lists_the_runs(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    run.root.rename(tmp_path / "runs" / "mini")
    done = letterpress("status", cwd=tmp_path)
    assert done.stdout.splitlines()[1].split() == ["mini", "new", "–", "0", "0"]


def test_half_a_run_folder_is_named_and_hides_no_other(run: RunFolder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    run.root.rename(runs / "mini")
    (runs / "half").mkdir()
    (runs / "half" / "recipe.yaml").write_text("name: half\n")
    done = letterpress("status", cwd=tmp_path)
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        ["half", "broken"],
        ["mini", "new"],
    ]
    for command in ("status", "logs", "stop", "cancel", "resume"):
        done = letterpress(command, "runs/half", cwd=tmp_path)
        assert (
            done.stderr == "error: runs/half is half a run folder: its state.json cannot be read\n"
        )


def test_a_hint_can_be_typed_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "letterpress"
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "submit"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert own_command() == str(script)
    monkeypatch.setenv("PATH", str(script.parent))
    assert own_command() == "letterpress"


def test_the_keys_of_a_recipe_are_explained() -> None:
    done = letterpress("keys", "train.lora.r")
    assert done.stdout == "train.lora.rank: int = 8\n    Rank of each adapter.\n"
    assert "no key of a recipe starts with 'zzz'" in letterpress("keys", "zzz").stderr
