"""The agent: what a node's exit code says, from how its ranks ended."""

import sys
from pathlib import Path

import pytest

from cluster import agent
from cluster.agent import exit_code, rank_environment, run_node
from cluster.exit_codes import ExitCode
from cluster.preflight.check import Check
from cluster.rendezvous import Node, local_node
from cluster.run_folder import RunFolder, read_json
from cluster.state import summed_up


@pytest.mark.parametrize(
    ("codes", "first_failed", "expected"),
    [
        ([0, 0], None, ExitCode.DONE),
        ([85, 85], None, ExitCode.STOPPED),
        ([2, -15], 0, ExitCode.BAD_INPUT),
        ([-15, 93], 1, ExitCode.DO_NOT_RESTART),
        ([-9, -15], 0, ExitCode.RETRY_ELSEWHERE),
        ([1, -15], 0, ExitCode.DO_NOT_RESTART),
        ([-9, -9], None, ExitCode.RETRY_ELSEWHERE),
    ],
)
def test_the_first_rank_that_failed_speaks_for_the_node(
    codes: list[int], first_failed: int | None, expected: ExitCode
) -> None:
    assert exit_code(codes, first_failed) == expected


def test_ranks_are_numbered_over_the_nodes() -> None:
    node = Node(name="n2", number=1, nodes=3, address="n1", ranks=4)
    environment = rank_environment(node, 2, "n1", 23456)
    wanted = {"RANK": "6", "LOCAL_RANK": "2", "WORLD_SIZE": "12"}
    wanted |= {"MASTER_ADDR": "n1", "MASTER_PORT": "23456"}
    assert wanted.items() <= environment.items()


def test_ranks_of_a_failed_one_are_ended_and_the_record_says_who_was_first(tmp_path: Path) -> None:
    # Rank 1 fails, rank 0 would wait for it for ever.
    code = (
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    print('error: the dog ate it'); sys.exit(2)\n"
        "time.sleep(600)\n"
    )
    run = RunFolder(tmp_path)
    number = run.begin_attempt()
    assert run_node(run, number, local_node(ranks=2), [sys.executable, "-c", code]) == 2
    (record,) = run.attempt(number).node_records()
    assert record["first_failed_rank"] == 1
    assert record["log_tail"] == ["error: the dog ate it"]
    assert record["ranks"][0]["signal"] == "SIGTERM"
    assert read_json(run.attempt(number).rendezvous)["address"] == "127.0.0.1"


def test_srun_sees_no_failure_in_a_stop_that_the_record_tells_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    number = run.begin_attempt()
    monkeypatch.setattr(agent, "slurm_node", lambda environment: local_node(ranks=1))
    rank = [sys.executable, "-c", f"raise SystemExit({int(ExitCode.STOPPED)})"]
    node = ["agent", "--run", str(tmp_path), "--attempt", str(number), "--slurm", "--", *rank]
    monkeypatch.setattr(sys, "argv", node)
    assert agent.main() == ExitCode.DONE
    assert summed_up(run, number) == ExitCode.STOPPED


@pytest.mark.parametrize(
    ("hosts", "code"), [(("n7",), ExitCode.RETRY_ELSEWHERE), ((), ExitCode.BAD_INPUT)]
)
def test_no_rank_starts_where_preflight_fails_and_the_record_names_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...], code: ExitCode
) -> None:
    failed = Check(name="GPUs", verdict="fails", line="n7: 7 of 8 GPUs are there", hosts=hosts)
    monkeypatch.setattr(agent, "preflight", lambda *_: failed)
    run = RunFolder(tmp_path)
    number = run.begin_attempt()
    started = tmp_path / "started"
    assert run_node(run, number, local_node(ranks=2), ["touch", str(started)]) == code
    assert not started.exists()
    (record,) = run.attempt(number).node_records()
    assert record["failed_check"]["hosts"] == list(hosts)
    assert record["ranks"] == []
    assert summed_up(run, number) == code
