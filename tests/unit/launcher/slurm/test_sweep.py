"""A sweep as one job array: its script, and what its runs know of it.

python -m tests.unit.launcher.slurm.test_sweep        writes the golden script again
"""

import subprocess
from functools import partial
from pathlib import Path

import pytest

from cluster.run_folder import RunFolder, read_json
from cluster.slurm.commands import NoAnswer, Refused
from launcher.recipe import load_slurm_recipe
from launcher.run_state import run_state
from launcher.slurm.job import begin, end, requeue_own_job
from launcher.slurm.submit import cancel_job, job_script, queue_run, recipe_of, resume_job
from launcher.slurm.sweep import array_script, submit_sweep
from launcher.sweep import Sweep, sweep_of
from tests.conftest import CHECKOUT
from tests.fake_slurm import FakeSlurm

MINI = CHECKOUT / "recipes" / "mini.yaml"
GOLDEN = Path(__file__).parent / "golden" / "sweep.sh"
SINFO = "main*|up|2|gpu:a100:8|64|16000|infinite\n"
BUSY = "sbatch: error: Socket timed out"
TASK = {
    "SLURM_JOB_ID": "17",  # the last task bears the array's number
    "SLURM_ARRAY_JOB_ID": "17",
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_JOB_NODELIST": "n1",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_JOB_PARTITION": "main",
    "SLURMD_NODENAME": "n1",
    "SLURM_GPUS_ON_NODE": "2",
}


def swept(*given: str) -> Sweep:
    """The mini recipe's sweep over these keys, for SLURM."""
    return sweep_of(partial(load_slurm_recipe, MINI), (), given, None)


@pytest.fixture
def slurm(fake_slurm: FakeSlurm) -> FakeSlurm:
    """A cluster that takes an array as job 17."""
    fake_slurm.answers("sinfo", SINFO)
    fake_slurm.answers("squeue")
    fake_slurm.answers("sbatch", "17\n")
    return fake_slurm


@pytest.fixture
def runs(slurm: FakeSlurm, tmp_path: Path) -> list[RunFolder]:
    """Two runs that are queued as tasks of array 17."""
    root = tmp_path / "runs" / "mini-sweep"
    assert submit_sweep(swept("train.lora.rank=4,16"), root) == "17"
    return [RunFolder(root / name) for name in ("rank-4", "rank-16")]


def test_a_sweep_is_one_array_whose_tasks_start_the_runs_own_scripts(
    runs: list[RunFolder], slurm: FakeSlurm
) -> None:
    jobs = [read_json(run.state)["slurm_job"] for run in runs]
    assert [job["number"] for job in jobs] == ["17_0", "17_1"]
    (token,) = {job["token"] for job in jobs}
    script = runs[0].root.parent / "job.sh"
    assert slurm.calls("sbatch") == [f"sbatch --parsable --comment={token} {script}"]
    assert script.read_text() == array_script(swept("train.lora.rank=4,16"), script.parent)
    for run in runs:
        assert run.job_script.read_text() == job_script(recipe_of(run), run.root)


def test_the_script_means_the_same_wherever_the_task_starts(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    submit_sweep(swept("train.lora.rank=4"), Path("runs") / "s")
    written = (tmp_path / "runs" / "s" / "job.sh").read_text()
    assert f"SWEEP={tmp_path}/runs/s\n" in written
    assert f'--output="{tmp_path}/runs/s/slurm-%A_%a.out"' in written


def test_a_task_runs_the_script_of_its_run_where_its_output_is_found(
    runs: list[RunFolder], tmp_path: Path
) -> None:
    script = runs[0].root.parent / "job.sh"
    runs[1].job_script.write_text("echo $0 $$ $SLURM_ARRAY_TASK_ID")
    command = ["/bin/bash", str(script)]
    environment = {"PATH": "/usr/bin:/bin", **TASK}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as task:
        said = task.communicate()[0]
    assert said.split() == [str(runs[1].job_script), str(task.pid), "1"]
    (script.parent / "slurm-17_1.out").write_text("what SLURM wrote")
    assert (runs[1].root / "slurm-17_1.out").read_text() == "what SLURM wrote"


def script() -> str:
    """The script of an array of four, of which two run at once."""
    sweep = swept("train.optim.lr=1e-4,5e-5", "train.lora.rank=4,16")
    return array_script(sweep, Path("/shared/my runs/mini-sweep"), at_once=2)


def test_the_script_is_the_golden_one_and_bash_reads_it(fake_slurm: FakeSlurm) -> None:
    assert script() == GOLDEN.read_text()
    subprocess.run(["/bin/bash", "-n", str(GOLDEN)], check=True)


def test_runs_that_ask_slurm_for_different_things_are_no_array(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"but per_node-2 asks for --gpus-per-node=2 --cpus-per"):
        array_script(swept("ranks.per_node=1,2"), tmp_path)
    with pytest.raises(ValueError, match="but memory_gb-null asks for no --mem=64G: submit a"):
        array_script(swept("slurm.memory_gb=64,null"), tmp_path)


def test_what_slurm_refuses_leaves_no_sweep(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.answers("sbatch", stderr="sbatch: error: Invalid job array specification", code=1)
    with pytest.raises(Refused, match="Invalid job array specification"):
        submit_sweep(swept("train.lora.rank=4,16"), tmp_path / "runs" / "s")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(("was_queued", "number"), [(True, "17_1"), (False, "18")])
def test_without_an_answer_each_run_finds_its_task_or_is_queued_by_itself(
    slurm: FakeSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    was_queued: bool,
    number: str,
) -> None:
    monkeypatch.setattr("cluster.slurm.commands.LOOK_AGAIN_AFTER_S", ())
    slurm.answers("sbatch", stderr=BUSY, code=1)
    with pytest.raises(NoAnswer, match="`letterpress resume` of each run looks whether"):
        submit_sweep(swept("train.lora.rank=4,16"), tmp_path / "s")
    run = RunFolder(tmp_path / "s" / "rank-16")
    token = read_json(run.state)["slurm_job"]["token"]
    slurm.answers("squeue", f"17|{token}\n17|{token}\n" if was_queued else "")
    slurm.answers("sbatch", "18\n")
    assert queue_run(recipe_of(run), run) == number
    assert read_json(run.state)["slurm_job"]["number"] == number
    other = RunFolder(tmp_path / "s" / "rank-4")  # it does not take that job for its own
    assert queue_run(recipe_of(other), other) == ("17_0" if was_queued else "18")
    assert len(slurm.calls("sbatch")) == (1 if was_queued else 3)


def test_a_runs_state_is_that_of_its_task(runs: list[RunFolder], slurm: FakeSlurm) -> None:
    slurm.answers("squeue", "17_0|RUNNING|None|n1\n17_1|PENDING|JobArrayTaskLimit|\n18|RUNNING||\n")
    assert [run_state(run) for run in runs] == ["starting", "queued"]
    slurm.answers("scancel")
    slurm.answers("scontrol")
    assert "17_1 is queued already" in resume_job(runs[1], is_queued=True)
    assert slurm.calls("scontrol") == ["scontrol update JobId=17_1 StartTime=now"]
    cancel_job(runs[1])
    assert slurm.calls("scancel") == ["scancel 17_1"]


def test_a_task_begins_as_itself_and_queues_itself_again_not_the_array(
    runs: list[RunFolder], slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in TASK.items():
        monkeypatch.setenv(key, value)
    slurm.does(
        "scontrol", 'case "$2" in hostnames) echo n1;; job) echo "ExcNodeList=(null)";; esac'
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)
    begin(runs[1])
    assert read_json(runs[1].state)["attempts"][0]["job"] == "17_1"
    requeue_own_job(runs[1])
    about_jobs = [call for call in slurm.calls("scontrol") if "hostnames" not in call]
    assert [call.split()[1:4] for call in about_jobs] == [
        ["show", "job", "-o"],
        ["requeue", "17_1"],
        ["update", "JobId=17_1", "ExcNodeList="],
        ["update", "JobId=17_1", "StartTime=now+10"],
    ]


def test_what_a_task_printed_is_read_for_the_verdict(
    runs: list[RunFolder], slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in TASK.items():
        monkeypatch.setenv(key, value)
    slurm.does("scontrol", "echo n1")
    printed = "slurmstepd: error: Detected 1 oom_kill event in StepId=17.0\n"
    number = begin(runs[1])
    (runs[1].root / "slurm-17_1.out").write_text(printed)
    end(runs[1], number)
    (attempt,) = read_json(runs[1].state)["attempts"]
    assert attempt["verdict"]["cause"] == "out_of_memory"


def test_a_run_whose_task_has_ended_is_resumed_by_a_job_of_its_own(
    runs: list[RunFolder], slurm: FakeSlurm
) -> None:
    slurm.answers("squeue", "17_0|TIMEOUT|None|n1\n")
    slurm.answers("sbatch", "18\n")
    assert resume_job(runs[0], is_queued=False) == "queued as job 18"
    job = read_json(runs[0].state)["slurm_job"]
    assert job["number"] == "18"
    assert "task" not in job
    assert slurm.calls("sbatch")[-1].endswith(f"--comment={job['token']} {runs[0].job_script}")


if __name__ == "__main__":
    GOLDEN.write_text(script())
