"""Jobs on Ray, as far as the launcher goes: submitted once, refused early, told of clearly."""

import shlex
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from cluster.exit_codes import ExitCode, MachineFault
from cluster.ray import agents
from cluster.ray.agents import Seats, agent_command
from cluster.ray.room import RayNode, Room, check_room, selector
from cluster.run_folder import RunFolder, read_json
from cluster.state import begin_attempt, end_attempt, end_run
from cluster.verdict.verdict import Cause, SchedulerFacts
from launcher.__main__ import resume
from launcher.freeze import freeze
from launcher.ray import jobs as ray_jobs
from launcher.ray.driver import attempt_until_it_ends, room_of
from launcher.ray.jobs import cancel_job, check_folder, connect, submit, submit_run
from launcher.recipe import load_recipe
from launcher.view.status import details, run_state
from tests.conftest import CHECKOUT

RECIPE = load_recipe(CHECKOUT / "recipes" / "mini.yaml")


class Status(Enum):
    """As Ray's."""

    PENDING = "PENDING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


@dataclass
class Info:
    """What Ray says of a job."""

    status: Status
    message: str = ""


@dataclass
class FakeRay:
    """Takes jobs as Ray does, and may lose its answer."""

    jobs: dict[str, Info] = field(default_factory=dict)
    entrypoints: list[str] = field(default_factory=list)
    loses_its_answer: bool = False

    def get_job_info(self, job: str) -> Info:
        if job not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job} does not exist.")
        return self.jobs[job]

    def submit_job(self, *, entrypoint: str, submission_id: str, **rest: Any) -> str:
        assert submission_id not in self.jobs, "Ray takes an id once"
        self.jobs[submission_id] = Info(Status.PENDING)
        self.entrypoints.append(entrypoint)
        if self.loses_its_answer:
            self.loses_its_answer = False
            raise ConnectionError("connection reset by peer")
        return submission_id

    def stop_job(self, job: str) -> bool:
        self.jobs[job] = Info(Status.STOPPED)
        return True


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A frozen run whose path a shell would trip over."""
    return freeze(RECIPE, tmp_path / "it's mini")


def test_a_submitted_run_is_queued_under_an_id_of_ours(run: RunFolder) -> None:
    ray = FakeRay()
    job = submit(run, ray)
    assert list(ray.jobs) == [job]
    assert shlex.split(ray.entrypoints[0])[-1] == str(run.root)
    assert run_state(run) == "queued"


def test_a_job_whose_answer_was_lost_is_found_and_not_submitted_twice(run: RunFolder) -> None:
    ray = FakeRay(loses_its_answer=True)
    with pytest.raises(MachineFault, match="connection reset by peer; `letterpress resume"):
        submit(run, ray)
    assert submit(run, ray) in ray.jobs
    assert len(ray.jobs) == 1


def test_a_run_whose_job_has_ended_gets_a_new_one(run: RunFolder) -> None:
    ray = FakeRay()
    first = submit(run, ray)
    begin_attempt(run, backend="ray", job=first)
    ray.jobs[first] = Info(Status.FAILED, "the driver died")
    assert submit(run, ray) != first
    assert len(ray.jobs) == 2


def test_a_job_whose_farm_still_scores_is_not_followed_by_another(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "ENDS_S", 0.1)
    ray = FakeRay()
    begin_attempt(run, backend="ray", job=submit(run, ray))
    end_run(run, 0, ExitCode.STOPPED)
    with pytest.raises(ValueError, match="still scores what was published: try again"):
        submit(run, ray)
    assert len(ray.jobs) == 1


def test_a_job_that_a_restarted_ray_has_forgotten_is_not_waited_for(run: RunFolder) -> None:
    first = submit(run, FakeRay())
    begin_attempt(run, backend="ray", job=first)
    assert submit(run, FakeRay()) != first


def test_without_an_address_nothing_is_made_and_the_line_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="set it to where Ray takes jobs, such as http://HEAD"):
        connect()
    with pytest.raises(ValueError, match="RAY_ADDRESS"):
        submit_run(RECIPE, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_ray_would_refuse_is_refused_before_the_upload(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "MAX_FOLDER_BYTES", 1 << 10)
    ray = FakeRay()
    with pytest.raises(ValueError, match="Ray takes 0: remove from the packages what is no code"):
        submit(run, ray)
    assert ray.jobs == {}
    monkeypatch.undo()
    check_folder(run.code)


def test_the_limit_is_that_of_the_ray_that_is_installed() -> None:
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    assert ray_jobs.MAX_FOLDER_BYTES <= GCS_STORAGE_MAX_SIZE


def test_what_a_job_takes_along_of_a_checkout_is_its_code(tmp_path: Path) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    checkout, package = tmp_path / "checkout", tmp_path / "package.zip"
    code = ("launcher/__main__.py", "recipes/mini.yaml", "trainer/data/build.py")
    for name in (*code, "runs/mini/weights", "data/words/0.tar", ".venv/bin/python", ".git/HEAD"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).write_text("text")
    shutil.copy(CHECKOUT / ".gitignore", checkout)
    # As `ray job submit --working-dir .` does it.
    excludes = get_runtime_env_default_excludes()
    create_package(str(checkout), package, include_gitignore=True, excludes=excludes)
    files = {name for name in ZipFile(package).namelist() if not name.endswith("/")}
    assert files == {*code, ".gitignore"}


def test_a_run_is_not_made_where_ray_would_remove_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ValueError, match="runs/mini would be lost: it lies in a copy that Ray"):
        freeze(RECIPE, Path("runs/mini"))
    assert list(copy.iterdir()) == []


def ray_node(name: str, gpus: int, alive: bool = True) -> dict[str, Any]:
    """A node as Ray tells of it."""
    return {
        "NodeID": f"id-of-{name}",
        "NodeName": name,
        "NodeManagerAddress": "10.0.0.1",
        "Alive": alive,
        "Resources": {"CPU": 32.0, "GPU": float(gpus)},
    }


def test_room_that_a_cluster_will_never_have_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    nodes = [ray_node("n1", 8), ray_node("n2", 8), ray_node("n3", 4), ray_node("n4", 8, False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    check_room(Room(nodes=2, ranks=8, on_gpus=True))
    with pytest.raises(
        ValueError, match="with 8 CPU and 8 GPU: 3 of them, and of this Ray's 3 nodes 2 will"
    ):
        check_room(Room(nodes=3, ranks=8, on_gpus=True))


@pytest.mark.parametrize(
    ("names", "wrong"),
    [(("10.0.0.1", "10.0.0.1"), "several are '10.0.0.1'"), (("n1", "../n2"), "one is '../n2'")],
)
def test_nodes_that_their_records_would_not_tell_apart_are_refused(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], wrong: str
) -> None:
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: [ray_node(name, 8) for name in names])
    check_room(Room(nodes=1, ranks=8, on_gpus=True))
    with pytest.raises(ValueError, match=f"{wrong}: start each by `ray start --node-name=NAME`"):
        check_room(Room(nodes=2, ranks=8, on_gpus=True))


def test_a_node_that_was_to_blame_is_left_out_by_its_id(run: RunFolder) -> None:
    job = submit(run, FakeRay())
    facts = {"backend": "ray", "hosts": ["n1", "n2"], "node_ids": ["id-1", "id-2"]}
    begin_attempt(run, job="an earlier one", **facts)
    end_attempt(run, 0, 75, SchedulerFacts(hosts=("n1", "n2"), output=("NVRM: Xid (x): 79,",)))
    begin_attempt(run, job=job, **facts)
    words = ("The actor died because its node has died.",)
    lost = SchedulerFacts(hosts=("n1", "n2"), down_hosts=("n2",), output=words)
    assert end_attempt(run, 1, 75, lost).without == "n2"
    room = room_of(RECIPE, run)
    assert room.without == {"id-2"}
    assert selector(room) == {"ray.io/node-id": "!in(id-2)"}


@pytest.mark.parametrize(
    ("drained", "cause"), [(set(), Cause.HARDWARE), ({"id-of-n2"}, Cause.PREEMPTED)]
)
def test_a_node_that_dies_before_all_is_saved_is_preempted_if_ray_had_announced_it(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, drained: set[str], cause: Cause
) -> None:
    import ray
    from ray.exceptions import RayError

    comes = iter([None, "n2", "n1"])  # at first nobody's end

    def wait(ends: list[str], **_: Any) -> tuple[list[str], list[str]]:
        done = next(comes)
        return [end for end in ends if end == done], [end for end in ends if end != done]

    def get(end: str) -> int:
        if end == "n2":
            raise RayError("The actor died because its node has died. Node Id: id-of-n2")
        return ExitCode.RETRY_ELSEWHERE

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "nodes", lambda: [ray_node("n1", 8)])
    monkeypatch.setattr(agents, "draining_nodes", lambda: drained)
    begin_attempt(run, backend="ray", job=submit(run, FakeRay()), hosts=["n1", "n2"])
    nodes = {name: RayNode(id=f"id-of-{name}", name=name, address="") for name in ("n1", "n2")}
    loss = agents._watch(run, nodes)
    assert loss.hosts == ("n2",)
    facts = SchedulerFacts(hosts=("n1", "n2"), down_hosts=loss.hosts, output=loss.words)
    assert end_attempt(run, 0, ExitCode.RETRY_ELSEWHERE, facts).cause == cause


def test_a_driver_that_comes_up_after_its_job_was_cancelled_begins_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def seated(*_: object) -> Iterator[Seats]:
        node = RayNode(id="a1", name="n1", address="10.0.0.1")
        yield Seats(nodes=(node,), actors=(None,), room=Room(nodes=1, ranks=2, on_gpus=False))

    monkeypatch.setattr("launcher.ray.driver.seated", seated)
    ray = FakeRay()
    submit(run, ray)
    cancel_job(run, ray)
    with pytest.raises(KeyboardInterrupt):
        attempt_until_it_ends(RECIPE, run, ["python"])
    assert read_json(run.state)["outcome"] == "cancelled"
    assert run.last_attempt() is None


def test_a_run_whose_driver_died_while_it_waited_for_nodes_can_be_resumed(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay()
    first = submit(run, ray)
    begin_attempt(run, backend="ray", job=first, hosts=["n1"], node_ids=["id-1"])
    words = ("The actor died because its node has died.",)
    end_attempt(run, 0, 75, SchedulerFacts(hosts=("n1",), down_hosts=("n1",), output=words))
    assert run_state(run) == "restarting"
    monkeypatch.setattr(ray_jobs, "connect", lambda: ray)
    resume(Namespace(run=run.root))
    assert list(ray.jobs) == [first]  # it still waits
    ray.jobs[first] = Info(Status.FAILED, "the driver was killed")
    resume(Namespace(run=run.root))
    assert len(ray.jobs) == 2


@pytest.mark.parametrize(
    ("printed", "why"),
    [
        ("64 samples\nerror: this Ray has one node\n", "FAILED: error: this Ray has one node"),
        ("64 samples\n", "FAILED: Job entrypoint command failed with exit code 2"),
    ],
)
def test_status_tells_why_a_run_failed_before_its_first_attempt(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, printed: str, why: str
) -> None:
    ray = FakeRay()
    job = submit(run, ray)
    end_run(run, 0, ExitCode.BAD_INPUT)
    words = "Job entrypoint command failed with exit code 2, last available logs (truncated):\n"
    ray.jobs[job] = Info(Status.FAILED, words + printed)
    monkeypatch.setattr(ray_jobs, "connect", lambda: ray)
    assert f"job        {job}: {why}" in details(run).splitlines()


def test_each_node_s_agent_knows_all_of_them(tmp_path: Path) -> None:
    nodes = [RayNode(id=f"id-{n}", name=f"n{n}", address=f"10.0.0.{n}") for n in (1, 2)]
    seats = Seats(nodes=nodes, actors=[], room=Room(nodes=2, ranks=8, on_gpus=False))
    line = shlex.join(agent_command(RunFolder(tmp_path), 3, seats, 1))
    assert line.endswith("--ranks 8 --node 1 --address 10.0.0.1 --hosts n1 n2")
    assert seats.room.bundle == {"CPU": 8}


def test_a_cancelled_job_has_ended_before_the_run_is_said_to_be(run: RunFolder) -> None:
    ray = FakeRay()
    begin_attempt(run, backend="ray", job=submit(run, ray))
    line = cancel_job(run, ray)
    assert line.endswith("; what was published last can be resumed from")
    assert [info.status for info in ray.jobs.values()] == [Status.STOPPED]
    assert run_state(run) == "cancelled"
    with pytest.raises(ValueError, match="is cancelled: there is no job to cancel"):
        cancel_job(run, ray)


def test_a_job_that_ray_does_not_end_is_not_said_to_be_cancelled(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay()
    begin_attempt(run, backend="ray", job=submit(run, ray))
    monkeypatch.setattr(ray_jobs, "ENDS_S", 0.1)
    monkeypatch.setattr(ray, "stop_job", lambda job: False)
    with pytest.raises(MachineFault, match="did not end in 0 s, though it was asked to"):
        cancel_job(run, ray)
    assert read_json(run.state)["outcome"] is None


def test_cancelling_the_farm_of_a_run_that_is_done_leaves_it_done(run: RunFolder) -> None:
    ray = FakeRay()
    begin_attempt(run, backend="ray", job=submit(run, ray))
    end_run(run, 0, ExitCode.DONE)
    cancel_job(run, ray)
    assert [info.status for info in ray.jobs.values()] == [Status.STOPPED]
    assert run_state(run) == "done"


def test_a_queued_job_is_told_of_in_state(run: RunFolder) -> None:
    job = submit(run, FakeRay())
    assert read_json(run.state)["ray_job"] == {"id": job}
