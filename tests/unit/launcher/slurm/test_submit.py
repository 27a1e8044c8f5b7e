"""The script of a SLURM job, and how a recipe is queued.

python -m tests.unit.launcher.slurm.test_submit        writes the golden scripts again
"""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, read_json
from cluster.slurm.commands import NoAnswer, Refused
from cluster.slurm.excluded import exclude
from cluster.state import begin_attempt, end_attempt, end_run
from launcher.recipe import RanksConfig, Recipe, load_recipe, load_slurm_recipe
from launcher.run_state import run_state
from launcher.slurm.farm import BODY as FARM_BODY
from launcher.slurm.farm import farm_job, farm_script, queue_farm
from launcher.slurm.site import FarmJobConfig, SlurmConfig
from launcher.slurm.submit import (
    BODY,
    cancel_job,
    job_script,
    queue_run,
    recipe_of,
    resume_job,
    submit_run,
)
from launcher.view.status import details
from tests.conftest import CHECKOUT, PATIENCE_S
from tests.fake_slurm import FakeSlurm

MINI = CHECKOUT / "recipes" / "mini.yaml"
GOLDEN = Path(__file__).parent / "golden"
SINFO = "main*|up|2|gpu:a100:8|64|16000|infinite\n"
PYTHON = Path("/shared/venv/bin/python")

CONFIGS = {
    "one_node": (RanksConfig(per_node=2), SlurmConfig(python=PYTHON)),
    "every_key": (
        RanksConfig(nodes=4, per_node=8),
        SlurmConfig(
            partition="gpu",
            account="lab",
            qos="high",
            constraint="a100-80gb&ib",
            gpu_type="a100",
            cpus_per_gpu=16,
            memory_gb=900,
            hours=47.5,
            save_before_end_s=600,
            flags=("--exclusive", "--reservation=spring"),
            srun_flags=("--container-image=train.sqsh",),
            inside=("apptainer", "exec", "--nv", "my image.sif"),
            python=PYTHON,
        ),
    ),
}


FARM = FarmJobConfig(nodes=3, partition="preemptible", qos="low", flags=("--exclusive",))


def farm(jobs: int = 1) -> str:
    """The script of a farm's job."""
    slurm = SlurmConfig(account="lab", hours=12, python=PYTHON, farm=replace(FARM, jobs=jobs))
    return farm_script(replace(load_recipe(MINI), slurm=slurm), Path("/shared/my runs/mini"))


def script(name: str) -> str:
    """The script of a configuration above."""
    ranks, config = CONFIGS[name]
    recipe = replace(load_recipe(MINI), ranks=ranks, slurm=config)
    return job_script(recipe, Path("/shared/my runs/mini"))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_script_is_the_golden_one_and_bash_reads_it(name: str) -> None:
    path = GOLDEN / f"{name}.sh"
    assert script(name) == path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("name", ["train_8xA100.sh", "train_multinode.sh"])
def test_what_is_typed_does_the_same_as_what_is_rendered(name: str) -> None:
    assert (CHECKOUT / "slurm" / name).read_text().endswith(BODY)
    assert script("one_node").endswith(BODY)


@pytest.mark.parametrize("name", ["train_8xA100.sh", "train_multinode.sh"])
def test_what_is_typed_gives_up_saving_just_before_its_own_end(name: str) -> None:
    typed = (CHECKOUT / "slurm" / name).read_text()
    warned, given_up = (re.findall(p, typed) for p in (r"USR1@(\d+)", r"SAVE_S=(\d+)"))
    assert warned == given_up


def test_the_farms_script_is_the_golden_one_and_does_what_is_typed() -> None:
    path = GOLDEN / "farm.sh"
    assert farm() == path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert (CHECKOUT / "slurm" / "evalfarm.sh").read_text().endswith(FARM_BODY)


def test_a_farm_of_several_jobs_is_an_array_of_the_same_script() -> None:
    one, several = farm().splitlines(), farm(jobs=4).splitlines()
    assert [line for line in several if line not in one] == [
        "#SBATCH --array=0-3",
        '#SBATCH --output="/shared/my runs/mini/eval/slurm-%A_%a.out"',
    ]
    assert len(several) == len(one) + 1


@pytest.mark.parametrize("name", ["train_8xA100.sh", "train_multinode.sh", "evalfarm.sh"])
def test_a_job_without_a_python_says_so(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", str(CHECKOUT / "slurm" / name), "recipes/mini.yaml"],
        env={"PATH": str(tmp_path), "SLURM_SUBMIT_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr == (
        f"error: no python in {tmp_path}/.venv nor on the PATH that the job was submitted with: "
        "run `make install` there, or activate an environment and submit again\n"
    )


@pytest.mark.parametrize("name", ["one_node", "farm"])
def test_a_node_without_the_python_says_so(name: str) -> None:
    done = subprocess.run(
        ["/bin/bash", str(GOLDEN / f"{name}.sh")],
        env={"SLURMD_NODENAME": "n2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr == (
        "error: n2 has no /shared/venv/bin/python: mount it there, or leave the node out, by "
        "slurm.flags=[--exclude=n2]\n"
    )


@pytest.mark.parametrize("name", ["train_8xA100.sh", "train_multinode.sh"])
@pytest.mark.parametrize("is_back", [False, True])
def test_only_a_job_that_was_queued_again_goes_on_with_what_is_there(
    name: str, is_back: bool, tmp_path: Path
) -> None:
    # A cluster that lost its records counts jobs from 1 again: it may be another job's run.
    (tmp_path / "runs" / "mini-17" / "code").mkdir(parents=True)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$*" >&2\nexit 3\n')
    python.chmod(0o755)
    folders = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)}
    restarts = {"SLURM_RESTART_COUNT": "1"} if is_back else {}
    done = subprocess.run(
        ["/bin/bash", str(CHECKOUT / "slurm" / name), "recipes/mini.yaml"],
        env={**folders, "SLURM_JOB_ID": "17", **restarts},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("-m trainer.data prepare" if is_back else "-m launcher freeze")


@pytest.mark.parametrize("name", ["train_8xA100.sh", "train_multinode.sh"])
def test_a_job_whose_time_is_up_while_it_makes_samples_queues_itself_again(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "mini-17" / "code").mkdir(parents=True)
    python = tmp_path / "python"
    warn = 'case "$*" in *"data prepare"*) kill -USR1 $PPID;; esac'
    python.write_text(f'#!/bin/sh\necho "$*"\n{warn}\n')
    python.chmod(0o755)
    folders = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)}
    done = subprocess.run(
        ["/bin/bash", str(CHECKOUT / "slurm" / name), "recipes/mini.yaml"],
        env={**folders, "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"},
        capture_output=True,
        text=True,
    )
    run = tmp_path / "runs" / "mini-17"
    assert done.stdout.splitlines() == [
        f"-m trainer.data prepare --config {run}/recipe.yaml",
        f"-m launcher requeue {run}",
    ]
    assert done.returncode == 0


@pytest.mark.parametrize("slow", ["python -m trainer.data", "srun --kill"])
def test_what_does_not_come_to_its_end_in_time_is_given_up_and_queued_again(
    slow: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "code").mkdir(parents=True)
    for name in ("python", "srun"):
        hangs = f'case "{name} $*" in "{slow}"*) kill -USR1 $PPID; exec sleep 20;; esac'
        (tmp_path / name).write_text(f'#!/bin/sh\n{hangs}\necho "$0 $*" >> {run}/told\n')
        (tmp_path / name).chmod(0o755)
    slurm = SlurmConfig(python=tmp_path / "python", save_before_end_s=1)
    text = job_script(replace(load_recipe(MINI), slurm=slurm), run)
    subprocess.run(
        ["/bin/bash", "-c", text],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"},
        check=True,
        timeout=PATIENCE_S,
    )
    assert (run / "told").read_text().endswith(f"python -m launcher requeue {run}\n")
    assert (run / "STOP").read_text() == "the time of job 17 is nearly up\n"


def test_a_recipe_wins_over_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("partition: gpu\naccount: lab\n")
    monkeypatch.setenv("LETTERPRESS_SITE", str(site))
    config = load_slurm_recipe(MINI, ["slurm.account=mine"]).slurm
    assert config == SlurmConfig(partition="gpu", account="mine")
    assert load_recipe(MINI).slurm is None  # elsewhere the site does not count


def test_the_sites_usual_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LETTERPRESS_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_slurm_recipe(MINI).slurm == SlurmConfig()
    (tmp_path / "letterpress").mkdir()
    (tmp_path / "letterpress" / "site.yaml").write_text("qos: high\n")
    assert load_slurm_recipe(MINI).slurm == SlurmConfig(qos="high")


def test_a_mistake_in_the_sites_file_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("partiton: gpu\n")
    monkeypatch.setenv("LETTERPRESS_SITE", str(site))
    with pytest.raises(ValueError, match="partiton is not a key: did you mean partition") as wrong:
        load_slurm_recipe(MINI)
    assert str(site) in str(wrong.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "slurm.partition='gpu --uid=0'",
        'slurm.account="lab\\n#SBATCH --uid=0"',
        "slurm.constraint='a$(id)'",
        "slurm.flags=[exclusive]",
        "slurm.srun_flags=['--x; id']",
        "slurm.flags=[--array=0-3]",
        "slurm.farm.flags=[--output=here]",
        "slurm.hours=0",
        "slurm.hours=.inf",
        "slurm.exclude_h=.inf",
        "slurm.hours=0.01",
        "slurm.farm.partition='low; id'",
        "slurm.farm.nodes=0",
    ],
)
def test_what_could_end_a_line_of_the_script_or_undo_it_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"^slurm(\.farm)?: "):
        load_slurm_recipe(MINI, [wrong])


@pytest.fixture
def recipe(fake_slurm: FakeSlurm) -> Recipe:
    """The mini recipe on a cluster that has what it asks for and takes it as job 17."""
    fake_slurm.answers("sinfo", SINFO)
    fake_slurm.answers("squeue")
    fake_slurm.answers("sbatch", "17\n")
    return load_slurm_recipe(MINI)


def test_a_run_is_frozen_and_queued_with_a_token(
    recipe: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    root = tmp_path / "runs" / "mini"
    assert submit_run(recipe, root) == "17"
    run = RunFolder(root)
    job = read_json(run.state)["slurm_job"]
    assert job["number"] == "17"
    (call,) = fake_slurm.calls("sbatch")
    assert call == f"sbatch --parsable --comment={job['token']} {run.job_script}"
    assert run.job_script.read_text() == job_script(recipe, run.root)
    fake_slurm.answers("squeue", "17|PENDING|Priority|\n")
    assert run_state(run) == "queued"


def test_what_slurm_refuses_leaves_no_run(
    recipe: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    fake_slurm.answers("sbatch", stderr="sbatch: error: Invalid account", code=1)
    with pytest.raises(Refused, match="SLURM refused: Invalid account"):
        submit_run(recipe, tmp_path / "runs" / "mini")
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_slurm_did_not_answer_is_looked_for_when_resumed(
    recipe: Recipe, fake_slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.slurm.commands.LOOK_AGAIN_AFTER_S", ())
    fake_slurm.answers("sbatch", stderr="sbatch: error: Socket timed out", code=1)
    run = RunFolder(tmp_path / "runs" / "mini")
    with pytest.raises(NoAnswer, match=r"`letterpress resume .*mini` looks whether it is queued"):
        submit_run(recipe, run.root)
    assert run_state(run) == "new"
    fake_slurm.answers("squeue", f"18|{read_json(run.state)['slurm_job']['token']}\n")  # it was
    assert queue_run(recipe_of(run), run) == "18"
    assert len(fake_slurm.calls("sbatch")) == 1


def test_a_run_whose_job_is_gone_is_resumed_by_a_new_one(
    recipe: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    submit_run(recipe, tmp_path / "mini")
    run = RunFolder(tmp_path / "mini")
    first = read_json(run.state)["slurm_job"]
    exclude(run, "n3", hours=1, why="ECC")
    run.request_stop("SIGTERM to the agent on n3")
    fake_slurm.answers("squeue", "17|NODE_FAIL|None|n3\n")
    fake_slurm.answers("sbatch", "18\n")
    assert resume_job(run, is_queued=run_state(run) == "queued") == "queued as job 18"
    second = read_json(run.state)["slurm_job"]
    assert (second["number"], second["token"] == first["token"]) == ("18", False)
    assert "--exclude=n3" in fake_slurm.calls("sbatch")[-1]
    assert not run.stop_request.exists()


@pytest.fixture
def stopped(recipe: Recipe, tmp_path: Path) -> RunFolder:
    """A run whose job 17 has ended, for it was asked to stop."""
    submit_run(recipe, tmp_path / "mini")
    run = RunFolder(tmp_path / "mini")
    number = begin_attempt(run, backend="slurm", job="17", hosts=["n1"], ranks_per_node=2)
    end_attempt(run, number, ExitCode.STOPPED)
    end_run(run, number, ExitCode.STOPPED)
    return run


def test_a_resume_that_slurm_refuses_changes_nothing(
    stopped: RunFolder, fake_slurm: FakeSlurm
) -> None:
    before = read_json(stopped.state)
    fake_slurm.answers("sbatch", stderr="sbatch: error: Invalid account", code=1)
    with pytest.raises(Refused, match="Invalid account"):
        resume_job(stopped, is_queued=False)
    assert read_json(stopped.state) == before
    assert run_state(stopped) == "stopped"


def test_a_resume_that_slurm_did_not_answer_can_be_asked_for_again(
    stopped: RunFolder, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.slurm.commands.LOOK_AGAIN_AFTER_S", ())
    fake_slurm.answers("sbatch", stderr="sbatch: error: Socket timed out", code=1)
    with pytest.raises(NoAnswer, match=r"`letterpress resume .*mini` looks whether it is queued"):
        resume_job(stopped, is_queued=False)
    assert run_state(stopped) == "lost"  # which `resume` takes
    assert "SLURM did not answer when a job was asked for" in details(stopped)
    fake_slurm.answers("squeue", f"18|{read_json(stopped.state)['slurm_job']['token']}\n")
    assert resume_job(stopped, is_queued=False) == "queued as job 18"
    assert len(fake_slurm.calls("sbatch")) == 2


def test_a_run_that_waits_is_not_queued_twice_but_let_start(
    recipe: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    submit_run(recipe, tmp_path / "mini")
    fake_slurm.answers("squeue", "17|PENDING|BeginTime|\n")
    fake_slurm.answers("scontrol")
    run = RunFolder(tmp_path / "mini")
    resume_job(run, is_queued=run_state(run) == "queued")
    assert fake_slurm.calls("scontrol") == ["scontrol update JobId=17 StartTime=now"]
    assert len(fake_slurm.calls("sbatch")) == 1


def test_a_cancelled_run_is_not_taken_for_lost(
    recipe: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    submit_run(recipe, tmp_path / "mini")
    fake_slurm.answers("scancel")
    run = RunFolder(tmp_path / "mini")
    cancel_job(run)
    assert fake_slurm.calls("scancel") == ["scancel 17"]
    assert run_state(run) == "cancelled"
    with pytest.raises(ValueError, match="is cancelled: there is no job to cancel"):
        cancel_job(run)


def test_a_job_that_slurm_took_without_an_answer_can_be_cancelled(
    recipe: Recipe, fake_slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.slurm.commands.LOOK_AGAIN_AFTER_S", ())
    fake_slurm.answers("sbatch", stderr="sbatch: error: Socket timed out", code=1)
    fake_slurm.answers("scancel")
    run = RunFolder(tmp_path / "mini")
    with pytest.raises(NoAnswer):
        submit_run(recipe, run.root)
    with pytest.raises(ValueError, match="is new: there is no job to cancel"):
        cancel_job(run)
    fake_slurm.answers("squeue", f"18|{read_json(run.state)['slurm_job']['token']}\n")
    cancel_job(run)
    assert fake_slurm.calls("scancel") == ["scancel 18"]
    assert run_state(run) == "cancelled"
    fake_slurm.answers("sbatch", "19\n")
    assert resume_job(run, is_queued=False) == "queued as job 19"  # never as the cancelled one


@pytest.mark.parametrize(
    ("squeue", "state"),
    [
        ("17|PENDING|Priority|\n", "queued"),
        ("17|RUNNING|None|n1\n", "starting"),
        ("17|NODE_FAIL|None|n1\n", "lost"),
        ("", "lost"),
    ],
)
def test_a_runs_state_is_its_jobs_until_it_has_begun(
    recipe: Recipe,
    fake_slurm: FakeSlurm,
    tmp_path: Path,
    squeue: str,
    state: str,
) -> None:
    submit_run(recipe, tmp_path / "mini")
    fake_slurm.answers("squeue", squeue)
    assert run_state(RunFolder(tmp_path / "mini")) == state


def test_of_a_lost_run_status_shows_the_last_words_of_its_job(
    recipe: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    submit_run(recipe, tmp_path / "mini")
    run = RunFolder(tmp_path / "mini")
    output = run.root / "slurm-17.out"
    output.write_text("error: n2 has no /shared/venv/bin/python\n")
    fake_slurm.answers("squeue", "17|FAILED|NonZeroExitCode|n2\n")
    shown = details(run)
    assert f"output     {output}\n           error: n2 has no /shared/venv/bin/python" in shown


def test_without_a_scheduler_its_answer_is_unknown(
    recipe: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    submit_run(recipe, tmp_path / "mini")
    (fake_slurm.bin / "squeue").unlink()
    assert run_state(RunFolder(tmp_path / "mini")) == "unknown"


def test_a_folder_that_cannot_be_made_is_one_line(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ValueError, match=r"runs/mini cannot be made: .* one that you may write"):
        submit_run(recipe, tmp_path / "runs" / "mini")


@pytest.fixture
def with_farm(recipe: Recipe, fake_slurm: FakeSlurm) -> Recipe:
    """The mini recipe with a farm of its own: the training becomes job 17, the farm 18."""
    fake_slurm.does("sbatch", 'case "$*" in *dependency*) echo 18;; *) echo 17;; esac')
    return load_slurm_recipe(MINI, ["slurm.farm.gpus_per_node=0"])


def test_the_farm_is_queued_to_start_when_the_training_has(
    with_farm: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    assert submit_run(with_farm, tmp_path / "mini") == "17"
    run = RunFolder(tmp_path / "mini")
    state = read_json(run.state)
    assert (state["slurm_job"]["number"], farm_job(state)) == ("17", "18")
    token = state["slurm_farm"]["token"]
    asked = f"sbatch --parsable --comment={token} --dependency=after:17 {run.farm_script}"
    assert fake_slurm.calls("sbatch")[1] == asked
    assert run.farm_script.read_text() == farm_script(with_farm, run.root)
    fake_slurm.answers("squeue", "17|PENDING|Priority|\n")
    assert f"farm       job 18; it prints to {run.root}/eval/slurm-18*.out" in details(run)


def test_a_farm_of_several_jobs_is_queued_once_while_any_of_them_goes_on(
    with_farm: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    assert with_farm.slurm is not None
    assert with_farm.slurm.farm is not None
    slurm = replace(with_farm.slurm, farm=replace(with_farm.slurm.farm, jobs=2))
    recipe = replace(with_farm, slurm=slurm)
    submit_run(recipe, tmp_path / "mini")
    run = RunFolder(tmp_path / "mini")
    fake_slurm.answers("squeue", "18_0|COMPLETED|None|n1\n18_1|RUNNING|None|n2\n")
    queue_farm(recipe, run, "17")
    assert len(fake_slurm.calls("sbatch")) == 2
    fake_slurm.answers("squeue", "18_0|COMPLETED|None|n1\n18_1|COMPLETED|None|n2\n")
    queue_farm(recipe, run, "17")
    assert len(fake_slurm.calls("sbatch")) == 3


def test_a_recipe_without_an_eval_section_has_no_farm(
    with_farm: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    submit_run(replace(with_farm, eval=None), tmp_path / "mini")
    assert len(fake_slurm.calls("sbatch")) == 1


def test_a_farm_that_slurm_refuses_takes_the_training_out_of_the_queue(
    with_farm: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    refuse = 'echo "sbatch: error: Invalid qos" >&2; exit 1'
    fake_slurm.does("sbatch", f'case "$*" in *dependency*) {refuse};; *) echo 17;; esac')
    fake_slurm.answers("scancel")
    with pytest.raises(Refused, match="SLURM refused: Invalid qos"):
        submit_run(with_farm, tmp_path / "mini")
    assert fake_slurm.calls("scancel") == ["scancel 17"]
    assert not (tmp_path / "mini").exists()


@pytest.mark.parametrize(("farms_state", "queued_anew"), [("RUNNING", False), ("TIMEOUT", True)])
def test_a_resumed_run_keeps_the_farm_that_it_has(
    with_farm: Recipe, fake_slurm: FakeSlurm, tmp_path: Path, farms_state: str, queued_anew: bool
) -> None:
    submit_run(with_farm, tmp_path / "mini")
    fake_slurm.answers("squeue", f"17|NODE_FAIL|None|n3\n18|{farms_state}|None|n4\n")
    resume_job(RunFolder(tmp_path / "mini"), is_queued=False)
    assert len(fake_slurm.calls("sbatch")) == 3 + queued_anew


def test_a_cancelled_run_takes_its_farm_along(
    with_farm: Recipe, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    submit_run(with_farm, tmp_path / "mini")
    fake_slurm.answers("squeue", "18|PENDING|Dependency|\n")
    fake_slurm.answers("scancel")
    cancel_job(RunFolder(tmp_path / "mini"))
    assert fake_slurm.calls("scancel") == ["scancel 17", "scancel 18"]


def test_a_farm_in_a_container_is_refused_before_the_queue() -> None:
    with pytest.raises(ValueError, match="farm starts its programs as they are"):
        load_slurm_recipe(MINI, ["slurm.farm.nodes=2", "slurm.inside=[apptainer, exec, a.sif]"])


if __name__ == "__main__":
    for name in CONFIGS:
        (GOLDEN / f"{name}.sh").write_text(script(name))
    (GOLDEN / "farm.sh").write_text(farm())
