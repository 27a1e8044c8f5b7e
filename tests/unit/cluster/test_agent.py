"""The agent: what a node's exit code says, from how its ranks ended."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster import agent
from cluster.agent import rank_environment, run_node
from cluster.exit_codes import ExitCode
from cluster.hangs.silence import Silence
from cluster.preflight.check import Check
from cluster.ranks.ending import Ending, exit_code
from cluster.rendezvous import Node, local_node
from cluster.run_folder import RunFolder, read_json, write_json
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
    assert exit_code(codes, Ending(first_failed=first_failed)) == expected


def test_ranks_are_numbered_over_the_nodes() -> None:
    node = Node(name="n2", number=1, nodes=3, address="n1", ranks=4)
    environment = rank_environment(node, 2, "n1", 23456)
    wanted = {"RANK": "6", "LOCAL_RANK": "2", "WORLD_SIZE": "12"}
    wanted |= {"MASTER_ADDR": "n1", "MASTER_PORT": "23456"}
    assert wanted.items() <= environment.items()


# srun ends all nodes once one has failed: here the other's record is there, and then SIGTERM comes.
ENDED_FOR_ANOTHER = """
import os, signal, sys, time
from cluster.run_folder import RunFolder, write_json
record = RunFolder(sys.argv[1]).attempt(0).node_record("other")
write_json(record, {"exit_code": int(sys.argv[2]), "ended": time.time()})
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(600)
"""


def test_an_agent_that_srun_ends_for_another_ones_failure_asks_for_no_save(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    number = run.begin_attempt()
    failed = str(int(ExitCode.BAD_INPUT))
    rank = [sys.executable, "-c", ENDED_FOR_ANOTHER, str(tmp_path), failed]
    assert run_node(run, number, local_node(ranks=1), rank) == ExitCode.RETRY_ELSEWHERE
    assert not run.stop_request.exists()


def test_ranks_of_a_failed_one_are_ended_and_the_record_says_who_was_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 5])  # of the kernel, before and after
    monkeypatch.setattr(agent, "oom_kills", lambda: next(counts))
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
    waited, failed = record["ranks"]
    assert (waited["exit_code"], waited["signal"], waited["first_error"]) == (None, "SIGTERM", None)
    assert (failed["exit_code"], failed["signal"]) == (2, None)
    assert failed["first_error"] == "error: the dog ate it"
    assert record["started"] < failed["ended"] <= waited["ended"]
    assert record["oom_kills"] == 2
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


CRASH = """
import os
from pathlib import Path
from cluster.hangs.heartbeat import Heartbeat
from cluster.run_folder import RunFolder
beat = Heartbeat(RunFolder(os.environ["LETTERPRESS_RUN"]).attempt(0).heartbeat(0), 0)
beat("train", step=41)
print("a library: a note, no error", flush=True)
try:
    [][0]
except IndexError:
    raise RuntimeError("CUDA error: an illegal memory access") from None
"""


def test_the_record_of_a_rank_that_crashed_holds_its_first_error_and_its_last_step(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path)
    number = run.begin_attempt()
    code = run_node(run, number, local_node(ranks=1), [sys.executable, "-c", CRASH])
    assert code == ExitCode.DO_NOT_RESTART
    (record,) = run.attempt(number).node_records()
    (rank,) = record["ranks"]
    assert rank["first_error"] == "RuntimeError: CUDA error: an illegal memory access"
    assert rank["last_step"] == 41
    assert not record["superseded"]
    assert record["hang"] is None


def test_a_rank_that_fails_because_another_node_ended_its_hanging_ranks_is_part_of_the_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None will come of a rank that ended.
    monkeypatch.setattr("cluster.hangs.hang.STACKS_WAIT_S", 0.0)
    run = RunFolder(tmp_path)
    number = run.begin_attempt()
    silence = Silence(rank=5, phase="train", step=7, silent_s=400.0, limit_s=300.0)
    write_json(run.attempt(number).hang, asdict(silence))
    command = [sys.executable, "-c", "raise RuntimeError('connection closed by peer')"]
    assert run_node(run, number, local_node(ranks=1), command) == ExitCode.RETRY_ELSEWHERE
    (record,) = run.attempt(number).node_records()
    assert (record["hang"]["silent_s"], record["hang"]["limit_s"]) == (400.0, 300.0)
    assert record["ranks"][0]["first_error"] == "RuntimeError: connection closed by peer"


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
