"""How the nodes of a SLURM job find the head of their Ray, and what they do when it is lost."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.exit_codes import MachineFault
from cluster.ray.on_slurm import await_head, join
from cluster.rendezvous import Node
from cluster.run_folder import RunFolder, write_json
from tests.fake_slurm import FakeSlurm

NODE = Node(name="n2", number=1, nodes=2, address="n1", ranks=0, hosts=("n1", "n2"))
NOBODY = "127.0.0.1:9"


@pytest.fixture
def published(
    tmp_path: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Where the head of job 17 has published its address, at which it no longer answers."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    fake_slurm.does("scontrol", '[ "$1 $2" != "show job" ] || echo "ExcNodeList=(null)"')
    path = RunFolder(tmp_path).farm_head("17-0")
    path.parent.mkdir()
    write_json(path, {"address": NOBODY, "fault": None})
    before = signal.getsignal(signal.SIGTERM)
    yield path
    signal.signal(signal.SIGTERM, before)


def test_the_others_find_the_head_where_it_has_published_itself(published: Path) -> None:
    assert await_head(published) == NOBODY


def test_a_head_that_never_speaks_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineFault, match="the head of Ray published no address in 0 s"):
        await_head(tmp_path / "none", timeout_s=0.1)


def test_a_head_that_has_ended_says_so_to_all_who_look_for_it(published: Path) -> None:
    write_json(published, {"address": None, "fault": "the head of Ray, on n1, has ended"})
    with pytest.raises(MachineFault, match="the head of Ray, on n1, has ended"):
        join(NODE, published)


def test_a_job_that_has_lost_its_first_node_is_queued_again_by_another(
    published: Path, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.answers("sinfo", "n1|down*|Not responding\n")
    assert not join(NODE, published)
    assert "scontrol requeue 17" in fake_slurm.calls("scontrol")


def test_of_a_job_array_only_the_task_that_lost_its_first_node_is_queued_again(
    published: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")  # the last task's job has the array's number
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    fake_slurm.answers("sinfo", "n1|down*|Not responding\n")
    assert not join(NODE, published)
    assert "scontrol requeue 17_3" in fake_slurm.calls("scontrol")


def test_a_head_that_is_silent_on_a_node_that_lives_is_looked_for_again(
    published: Path, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.answers("sinfo", "n1|mixed|none\n")
    assert join(NODE, published)
    assert fake_slurm.calls("scontrol") == []
