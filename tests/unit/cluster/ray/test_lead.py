"""One job's part in a run's farm: it leads, or waits until it has to."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.exit_codes import ExitCode, MachineFault, Superseded
from cluster.ray import lead
from cluster.ray.heads import Head, Heads, Life
from cluster.ray.lead import take_part
from cluster.rendezvous import Node
from cluster.run_folder import RunFolder
from tests.fake_slurm import FakeSlurm

NODE = Node(name="n1", number=0, nodes=1, address="n1", ranks=0, hosts=("n1",))
ADDRESS = "n1:20000"


@pytest.fixture
def others(tmp_path: Path, fake_slurm: FakeSlurm) -> Heads:
    """The heads as job 17 sees them, which was here before us."""
    return Heads(RunFolder(tmp_path), Life(job="17", restarts=0))


@pytest.fixture
def heads(tmp_path: Path, fake_slurm: FakeSlurm) -> Heads:
    """The heads as we see them, job 18."""
    return Heads(RunFolder(tmp_path), Life(job="18", restarts=0))


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The heads that were started: each answers as long as its process is there."""
    started: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def ray_part(*_: object) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as ray:
            started.append(ray)
            yield ray, ADDRESS

    monkeypatch.setattr(lead, "ray_part", ray_part)
    monkeypatch.setattr(lead, "answers", lambda _: started[-1].poll() is None)
    monkeypatch.setattr(lead, "POLL_S", 0.01)
    return started


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """What happens once while we wait."""

    def are(happening: Callable[[], object]) -> None:
        rest = iter([happening])
        ours = SimpleNamespace(sleep=lambda _: next(rest, lambda: None)(), monotonic=time.monotonic)
        monkeypatch.setattr(lead, "time", ours)  # not that of all modules

    return are


def python(code: str) -> list[str]:
    """A farm that runs this."""
    return [sys.executable, "-c", code]


def end(heads: Heads, head: Head, code: ExitCode) -> Callable[[], object]:
    """Lets a head end so."""
    return lambda: heads.note(head, code=int(code))


@pytest.mark.usefixtures("rays")
def test_the_first_job_runs_the_farm_on_its_ray_and_ends_as_that_does(
    heads: Heads, tmp_path: Path
) -> None:
    wrote = tmp_path / "wrote"
    told = "[os.environ[f'RAY_{name}'] for name in ('ADDRESS', 'AUTH_MODE', 'AUTH_TOKEN')]"
    code = f"import os, pathlib; pathlib.Path({str(wrote)!r}).write_text(' '.join({told}))"
    assert take_part(NODE, heads, python(f"{code}; exit(2)")) == ExitCode.BAD_INPUT
    address, mode, token = wrote.read_text().split()
    assert (address, mode, len(token)) == (ADDRESS, "token", 64)
    head = heads.newest()
    assert head is not None
    assert (head.life, head.address, head.code) == (heads.ours, ADDRESS, ExitCode.BAD_INPUT)
    assert not list(heads.folder.glob("*.token"))


def test_a_job_that_has_joined_ends_with_the_farm_that_another_leads(
    others: Heads, heads: Heads, naps: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "is_over", lambda head: False)
    naps(end(others, others.follow(None), ExitCode.DONE))
    assert take_part(NODE, heads, ["no such command"]) == ExitCode.DONE


@pytest.mark.parametrize("code", [ExitCode.STOPPED, ExitCode.RETRY_ELSEWHERE])
def test_a_job_that_has_joined_goes_on_where_the_first_had_to_leave(
    others: Heads,
    heads: Heads,
    rays: list[object],
    naps: Callable[..., None],
    code: ExitCode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heads, "is_over", lambda head: head.code is not None)
    naps(end(others, others.follow(None), code))
    assert take_part(NODE, heads, python("")) == ExitCode.DONE
    head = heads.newest()
    assert head is not None
    assert (head.number, head.life) == (1, heads.ours)
    assert len(rays) == 1


@pytest.mark.usefixtures("rays")
def test_a_farm_that_was_done_before_is_begun_again_for_what_has_come_since(
    others: Heads, heads: Heads
) -> None:
    end(others, others.follow(None), ExitCode.DONE)()
    assert take_part(NODE, heads, python("exit(93)")) == ExitCode.DO_NOT_RESTART


def test_a_farm_whose_ray_ends_under_it_is_the_machines_fault(
    heads: Heads, rays: list[subprocess.Popen[bytes]], naps: Callable[..., None]
) -> None:
    naps(lambda: rays[-1].kill() or rays[-1].wait())
    with pytest.raises(MachineFault, match=f"the head of Ray, at {ADDRESS}, has ended"):
        take_part(NODE, heads, python("import time; time.sleep(60)"))
    head = heads.newest()
    assert head is not None
    assert head.code == ExitCode.RETRY_ELSEWHERE


@pytest.mark.parametrize(("failures", "code"), [(2, ExitCode.DONE), (3, ExitCode.RETRY_ELSEWHERE)])
@pytest.mark.usefixtures("rays")
def test_a_head_that_does_not_come_up_is_started_again_a_few_times(
    heads: Heads, monkeypatch: pytest.MonkeyPatch, failures: int, code: ExitCode
) -> None:
    comes_up, rest = lead.ray_part, iter(range(failures))

    def ray_part(*where: object) -> object:
        if next(rest, None) is not None:
            raise MachineFault("Ray at n1:20000 ended: The current node timed out during startup")
        return comes_up(*where)

    monkeypatch.setattr(lead, "ray_part", ray_part)
    with nullcontext() if code == ExitCode.DONE else pytest.raises(MachineFault, match="timed out"):
        take_part(NODE, heads, python(""))
    head = heads.newest()
    assert head is not None
    assert head.code == code


@pytest.mark.usefixtures("rays")
def test_a_farm_that_is_killed_goes_on_elsewhere(heads: Heads) -> None:
    with pytest.raises(MachineFault, match=f"the farm was killed by signal {signal.SIGKILL:d}"):
        take_part(NODE, heads, python("import os; os.kill(os.getpid(), 9)"))


@pytest.mark.usefixtures("rays")
def test_a_job_that_is_asked_to_leave_says_so_once_its_farm_is_gone(
    heads: Heads, naps: Callable[..., None], tmp_path: Path
) -> None:
    pid = tmp_path / "pid"

    def leave() -> None:
        while not pid.exists():
            pass
        raise SystemExit(ExitCode.STOPPED)

    naps(leave)
    code = f"import os, time; open({str(pid)!r}, 'x').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(SystemExit):
        take_part(NODE, heads, python(code))
    head = heads.newest()
    assert head is not None
    assert head.code == ExitCode.STOPPED
    assert not Path(f"/proc/{pid.read_text()}").exists()


@pytest.mark.usefixtures("rays")
def test_a_job_that_slurm_had_lost_ends_when_another_leads(
    others: Heads, heads: Heads, naps: Callable[..., None]
) -> None:
    naps(lambda: others.follow(heads.newest()))
    with pytest.raises(Superseded, match="job 17 has taken over the farm from job 18"):
        take_part(NODE, heads, python("import time; time.sleep(60)"))


def test_a_farm_begins_once_the_head_that_slurm_had_lost_has_found_that_out(
    others: Heads,
    heads: Heads,
    rays: list[object],
    naps: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As where its slurmd died: its job is queued again, while it goes on on its node.
    lost = others.note(others.follow(None), address="n9:20000")
    monkeypatch.setattr(heads, "is_over", lambda head: head.life == others.ours)
    alive, waited = {lost.address, ADDRESS}, []

    def end_the_lost() -> None:
        waited.append(len(rays))
        alive.remove(lost.address)

    monkeypatch.setattr(lead, "answers", alive.__contains__)
    naps(end_the_lost)
    assert take_part(NODE, heads, python("")) == ExitCode.DONE
    assert (waited, len(rays)) == ([0], 1)
