"""Jobs on Ray, as far as the launcher goes: submitted once, refused early, told of clearly."""

import shlex
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from cluster.exit_codes import ExitCode, MachineFault
from cluster.ray import agents as ray_agents
from cluster.ray.agents import Room, agent_command, check_room
from cluster.run_folder import RunFolder, read_json
from cluster.state import begin_attempt, end_run
from launcher import ray_jobs
from launcher.freeze import freeze
from launcher.ray_jobs import check_folder, connect, submit, submit_run
from launcher.recipe import load_recipe
from launcher.status import run_state
from tests.conftest import CHECKOUT

RECIPE = load_recipe(CHECKOUT / "recipes" / "mini.yaml")


class Status(Enum):
    """As Ray's."""

    PENDING = "PENDING"
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


def test_room_that_a_cluster_will_never_have_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    def node(address: str, gpus: int, alive: bool = True) -> dict[str, Any]:
        resources = {"CPU": 32.0, "GPU": float(gpus)}
        return {"NodeManagerAddress": address, "Alive": alive, "Resources": resources}

    nodes = [node("n1", 8), node("n2", 8), node("n3", 4), node("n4", 8, alive=False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    check_room(Room(nodes=2, ranks=8, on_gpus=True))
    with pytest.raises(
        ValueError, match="with 8 CPU and 8 GPU: 3 of them, and of this Ray's 3 nodes 2 will"
    ):
        check_room(Room(nodes=3, ranks=8, on_gpus=True))
    with pytest.raises(ValueError, match="this Ray's 3 nodes 1 will do"):
        check_room(Room(nodes=2, ranks=8, on_gpus=True, without=("n1",)))


def test_each_node_s_agent_knows_all_of_them(tmp_path: Path) -> None:
    command = agent_command(RunFolder(tmp_path), 3, ["10.0.0.1", "10.0.0.2"], 1, 8)
    line = shlex.join(command)
    assert line.endswith("--attempt 3 --ranks 8 --node 1 --hosts 10.0.0.1 10.0.0.2")
    assert ray_agents.Room(nodes=2, ranks=8, on_gpus=False).bundle == {"CPU": 8}


def test_a_queued_job_is_told_of_in_state(run: RunFolder) -> None:
    job = submit(run, FakeRay())
    assert read_json(run.state)["ray_job"] == {"id": job}
