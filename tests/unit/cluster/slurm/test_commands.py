"""SLURM's commands: nothing is queued twice, and every refusal is one line."""

from pathlib import Path

import pytest

from cluster.slurm import commands as slurm
from cluster.slurm.commands import NoAnswer, NoSlurm, Refused, requeue, submit_once
from tests.fake_slurm import FakeSlurm

BUSY = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
SHOWN = "JobId=7 JobState=RUNNING ReqNodeList=(null) ExcNodeList={} NodeList=n[1-2] NumNodes=2"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "LOOK_AGAIN_AFTER_S", (0.0, 0.0))


def test_a_job_that_was_queued_though_sbatch_timed_out_is_found_not_queued_again(
    fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    queue = tmp_path / "queue"
    queue.touch()
    fake_slurm.does("squeue", f"cat {queue}")
    fake_slurm.does("sbatch", f"echo '17|letterpress:abc' >> {queue}; echo '{BUSY}' >&2; exit 1")
    assert submit_once(tmp_path / "job.sh", "letterpress:abc") == "17"
    assert len(fake_slurm.calls("sbatch")) == 1


def test_a_controller_that_was_busy_is_asked_again(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    fake_slurm.answers("squeue", "16|letterpress:other\n")
    tried = tmp_path / "tried"
    fake_slurm.does(
        "sbatch",
        f"[ -e {tried} ] && echo '17;cluster' && exit; touch {tried}; echo '{BUSY}' >&2; exit 1",
    )
    assert submit_once(tmp_path / "job.sh", "letterpress:abc", excluded=["n3", "n4"]) == "17"
    assert "--comment=letterpress:abc --exclude=n3,n4" in fake_slurm.calls("sbatch")[0]


def test_one_that_never_answers_is_the_machines_fault(
    fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    fake_slurm.answers("squeue")
    fake_slurm.answers("sbatch", stderr=BUSY, code=1)
    with pytest.raises(NoAnswer, match="does not answer: Batch job submission failed: Socket"):
        submit_once(tmp_path / "job.sh", "letterpress:abc")


def test_a_refusal_is_slurms_own_line_with_what_it_is_about_and_not_tried_again(
    fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    fake_slurm.answers("squeue")
    said = "sbatch: error: Batch job submission failed: Invalid account or account/partition"
    fake_slurm.answers("sbatch", stderr=said, code=1)
    script = tmp_path / "job.sh"
    script.write_text("#SBATCH --account=lab\n#SBATCH --qos=high\n#SBATCH --requeue\n")
    with pytest.raises(Refused) as refusal:
        submit_once(script, "letterpress:abc")
    assert str(refusal.value) == (
        "SLURM refused: Batch job submission failed: Invalid account or account/partition "
        "(the job asks for --account=lab)"
    )
    assert len(fake_slurm.calls("sbatch")) == 1


def test_without_slurm_it_says_what_else_there_is(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    with pytest.raises(NoSlurm, match="no SLURM here: squeue is not on the PATH"):
        submit_once(tmp_path / "job.sh", "letterpress:abc")


def test_a_job_is_queued_again_without_a_node_and_soon(fake_slurm: FakeSlurm) -> None:
    fake_slurm.does("scontrol", f"[ $1 $2 = 'show job' ] && echo '{SHOWN.format('(null)')}'; true")
    assert requeue("7", excluded=["n2"]) == []
    assert fake_slurm.calls() == [
        "scontrol show job -o 7",
        "scontrol requeue 7",
        "scontrol update JobId=7 ExcNodeList=n2",
        "scontrol update JobId=7 StartTime=now+10",
    ]


def test_nodes_that_the_user_left_out_stay_out_and_those_that_expired_do_not(
    fake_slurm: FakeSlurm,
) -> None:
    fake_slurm.does(
        "scontrol",
        f"""case "$2" in job) echo '{SHOWN.format("n[3-4]")}';; hostnames) echo n3 n4;; esac""",
    )
    requeue("7", excluded=["n2"], expired=["n4"])
    assert "scontrol update JobId=7 ExcNodeList=n3,n2" in fake_slurm.calls()


def test_what_a_site_forbids_after_the_requeue_is_told(fake_slurm: FakeSlurm) -> None:
    fake_slurm.does(
        "scontrol",
        f"""case "$*" in *now*) echo "slurm_update error: Access/permission denied" >&2; exit 1;;
        show*) echo '{SHOWN.format("(null)")}';; esac""",
    )
    (refused,) = requeue("7", excluded=["n2"])
    assert refused.startswith("StartTime=now+10: SLURM refused:")


@pytest.mark.parametrize("node", ["n1,n2", "None assigned", "-n", "$(id)", ""])
def test_what_is_no_name_of_a_node_never_reaches_slurm(fake_slurm: FakeSlurm, node: str) -> None:
    fake_slurm.answers("scontrol", SHOWN.format("(null)"))
    with pytest.raises(ValueError, match="a node's name is letters"):
        requeue("7", excluded=[node])
    assert not [call for call in fake_slurm.calls() if "requeue" in call or "update" in call]


def test_a_task_of_an_array_is_not_taken_for_the_array() -> None:
    job = {"SLURM_JOB_ID": "17"}
    assert slurm.own_job({}) is None
    assert slurm.own_job(job) == "17"
    # As its last task has it on 22.05.
    task = {**job, "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    assert slurm.own_job(task) == "17_3"


def test_a_job_inside_a_job_inherits_nothing_of_it() -> None:
    inside = {
        "SLURM_JOB_ID": "5",
        "SBATCH_PARTITION": "x",
        "RANK": "3",
        "SLURM_CONF": "/c",
        "HOME": "/h",
    }
    assert slurm.outside_a_job(inside) == {"SLURM_CONF": "/c", "HOME": "/h"}
