"""What the nodes of a farm's job do: join the newest head, and see to a job without its first."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.exit_codes import ExitCode, MachineFault
from cluster.ray import on_slurm
from cluster.ray.heads import Heads, Life
from cluster.ray.on_slurm import be_a_node
from cluster.rendezvous import Node
from cluster.run_folder import RunFolder
from cluster.slurm.queue import look_up
from tests.fake_slurm import FakeSlurm

NODE = Node(name="n2", number=1, nodes=2, address="n1", ranks=0, hosts=("n1", "n2"))
ALONE = Node(name="n1", number=0, nodes=1, address="n1", ranks=0, hosts=("n1",))
NOBODY = "127.0.0.1:9"


class Tired(Exception):
    """The end of a test of what goes on for ever."""


@pytest.fixture
def heads(tmp_path: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Heads:
    """Job 17's own head, which no longer answers; nobody waits long before SLURM is asked."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(on_slurm, "LOOK_EVERY_S", -1.0)
    fake_slurm.does(
        "scontrol",
        'case "$1 $2" in "show job") echo "ExcNodeList=(null)";; '
        '"show hostnames") IFS=,; for host in $3; do echo "$host"; done;; esac',
    )
    heads = Heads(RunFolder(tmp_path), Life(job="17", restarts=0))
    heads.note(heads.follow(None), address=NOBODY)
    return heads


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What happens while a node waits, one thing after another; it is tired after the last."""

    def are(*happenings: Callable[[], object]) -> None:
        rest = iter(happenings)

        def sleep(_: float) -> None:
            happening = next(rest, None)
            if happening is None:
                raise Tired
            happening()

        ours = SimpleNamespace(sleep=sleep, monotonic=time.monotonic, time=time.time)
        monkeypatch.setattr(on_slurm, "time", ours)  # not that of all modules

    return are


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The heads and tokens that parts of Ray were started with; heads at n… answer."""
    parts: list[tuple[str, str]] = []

    @contextmanager
    def ray_part(
        node: Node, head: str, token: str
    ) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        parts.append((head, token))
        with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as ray:
            yield ray, "n2:20000"

    monkeypatch.setattr(on_slurm, "ray_part", ray_part)
    monkeypatch.setattr(on_slurm, "answers", lambda address: address.startswith("n"))
    return parts


def test_a_job_that_has_lost_its_first_node_is_queued_again_by_another(
    heads: Heads, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.answers("squeue", "17|RUNNING|None|n2,n3\n")
    be_a_node(NODE, heads)
    assert "scontrol requeue 17" in fake_slurm.calls("scontrol")


def test_of_a_job_array_only_the_task_that_lost_its_first_node_is_queued_again(
    heads: Heads, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")  # the last task's job has the array's number
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    fake_slurm.answers("squeue", "17_3|RUNNING|None|n2,n3\n17_4|RUNNING|None|n1,n4\n")
    be_a_node(NODE, heads)
    assert "scontrol requeue 17_3" in fake_slurm.calls("scontrol")


def test_a_silent_head_is_waited_for_while_the_jobs_first_node_lives(
    heads: Heads, fake_slurm: FakeSlurm, naps: Callable[..., None]
) -> None:
    fake_slurm.answers("squeue", "17|RUNNING|None|n1,n2\n")
    naps(lambda: None)
    with pytest.raises(Tired):
        be_a_node(NODE, heads)
    assert "scontrol requeue 17" not in fake_slurm.calls()
    assert len(fake_slurm.calls("squeue")) == 1  # for all nodes, in half a minute


def test_what_slurm_said_before_the_job_came_here_is_not_of_its_nodes(
    heads: Heads, fake_slurm: FakeSlurm, naps: Callable[..., None]
) -> None:
    fake_slurm.answers("squeue", "17|RUNNING|None|n5,n6\n")  # where it was before
    look_up({"17": 0.0})
    naps(lambda: None)
    with pytest.raises(Tired):
        be_a_node(NODE, heads)
    assert "scontrol requeue 17" not in fake_slurm.calls()


def test_a_jobs_first_node_has_nobody_to_look_after(
    heads: Heads, fake_slurm: FakeSlurm, naps: Callable[..., None]
) -> None:
    naps()
    with pytest.raises(Tired):
        be_a_node(ALONE, heads)
    assert fake_slurm.calls() == []


def test_a_node_moves_from_a_head_that_is_over_to_the_next_with_its_token(
    heads: Heads, naps: Callable[..., None], joined: list[tuple[str, str]], tmp_path: Path
) -> None:
    first = heads.newest()
    assert first is not None
    tokens = [heads.new_token(first)]
    first = heads.note(first, address="n1:20000")
    other = Heads(RunFolder(tmp_path), Life(job="18", restarts=0))

    def take_over() -> None:
        second = other.follow(first)
        tokens.append(other.new_token(second))
        other.note(second, address="n7:20000")

    naps(lambda: None, take_over, lambda: None)  # joined, left, joined
    with pytest.raises(Tired):
        be_a_node(NODE, heads)
    assert joined == [("n1:20000", tokens[0]), ("n7:20000", tokens[1])]


def test_a_head_that_answers_but_does_not_take_nodes_yet_is_joined_when_it_does(
    heads: Heads,
    naps: Callable[..., None],
    joined: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = heads.newest()
    assert head is not None
    heads.new_token(head)
    heads.note(head, address="n1:20000")
    joins = on_slurm.ray_part

    def sent_away(*_: object) -> object:
        raise MachineFault("Ray at n2:20000 ended: No node info found for head node in GCS")

    monkeypatch.setattr(on_slurm, "ray_part", sent_away)
    naps(lambda: monkeypatch.setattr(on_slurm, "ray_part", joins), lambda: None)
    with pytest.raises(Tired):
        be_a_node(NODE, heads)
    assert len(joined) == 1


def test_a_part_that_does_not_come_up_is_a_fault_unless_the_head_has_just_ended(
    heads: Heads, naps: Callable[..., None], joined: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = heads.newest()
    assert head is not None
    heads.new_token(head)
    head = heads.note(head, address="n1:20000")

    def broken(*_: object) -> object:
        raise MachineFault("Ray at n2:20000 does not answer")

    monkeypatch.setattr(on_slurm, "ray_part", broken)
    monkeypatch.setattr(on_slurm, "JOINS_WITHIN_S", -1.0)
    with pytest.raises(MachineFault, match="Ray at n2:20000 does not answer"):
        be_a_node(ALONE, heads)

    def broken_with_the_head(*_: object) -> object:
        heads.note(head, code=int(ExitCode.STOPPED))
        return broken()

    monkeypatch.setattr(on_slurm, "ray_part", broken_with_the_head)
    naps()
    with pytest.raises(Tired):
        be_a_node(ALONE, heads)
