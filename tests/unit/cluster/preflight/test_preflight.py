"""Preflight of an attempt whose nodes are threads; their all-reducing programs only say hello."""

import json
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.exit_codes import ExitCode
from cluster.preflight import facts, leader, reducers
from cluster.preflight.check import Check
from cluster.preflight.participant import Participant
from cluster.preflight.preflight import preflight
from cluster.preflight.storage import measure
from cluster.rendezvous import Node, free_port, local_node
from cluster.run_folder import AttemptFolder, RunFolder, read_json

WAITS = (sys.executable, "-c", "print('1', flush=True); input()")
ANSWERS = """
import sys, time
print('"2.13.0"', flush=True)
for line in sys.stdin:
    print(0.01, flush=True)
"""
HANGS = ANSWERS.replace("print(0.01, flush=True)", "time.sleep(600)")
# Once it is started anew it answers, and takes its time to start.
HANGS_AT_FIRST = f"""
import pathlib
mark = pathlib.Path("hung")
if mark.exists():
    import time; time.sleep(3)
    exec({ANSWERS!r})
mark.touch()
exec({HANGS!r})
"""


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptFolder:
    """An attempt that has begun."""
    run = RunFolder(tmp_path)
    return run.attempt(run.begin_attempt())


def participants(attempt: AttemptFolder, nodes: int) -> list[Participant]:
    """Each node of an attempt on this machine."""
    hosts = tuple(f"n{number}" for number in range(nodes))
    return [
        Participant(
            node=Node(
                name=host, number=number, nodes=nodes, address="127.0.0.1", ranks=1, hosts=hosts
            ),
            attempt=attempt,
            program=WAITS,
        )
        for number, host in enumerate(hosts)
    ]


def meet(taking_part: list[Participant]) -> dict[str, Check | None]:
    """What each node is told, by host."""
    port = free_port(str(taking_part[0].attempt.root))
    told: dict[str, Check | None] = {}

    def take_part(one: Participant) -> None:
        told[one.node.name] = preflight(one, "127.0.0.1", port)

    threads = [threading.Thread(target=take_part, args=(one,)) for one in taking_part]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def checks(attempt: AttemptFolder) -> dict[str, Any]:
    """The checks in preflight.json, by name."""
    return {check["name"]: check for check in read_json(attempt.preflight)["checks"]}


def test_one_node_starts_no_all_reduce_and_says_so(attempt: AttemptFolder) -> None:
    never = (sys.executable, "-c", "raise SystemExit('started in vain')")
    alone = Participant(node=local_node(ranks=1), attempt=attempt, program=never)
    assert preflight(alone, "127.0.0.1", 1) is None
    assert checks(attempt)["all-reduce"]["verdict"] == "absent"
    facts = read_json(attempt.preflight_of(alone.node.name))
    assert facts["storage"]["write_s"] > 0
    assert facts["versions"]["torch"]


def test_a_wrong_environment_on_one_node_ends_the_attempt_on_all(
    attempt: AttemptFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gather = facts.gather

    def gather_here(node: Node, *rest: Any) -> facts.Facts:
        found = gather(node, *rest)
        return replace(found, versions={"torch": "2.9.1"}) if node.number else found

    monkeypatch.setattr("cluster.preflight.participant.gather", gather_here)
    told = meet(participants(attempt, 2))
    assert told["n0"] == told["n1"]
    assert told["n1"] is not None
    assert (told["n1"].name, told["n1"].code) == ("versions", ExitCode.BAD_INPUT)
    assert read_json(attempt.preflight)["verdict"] == "fails"
    assert "error: preflight: versions: deepspeed differs" in capsys.readouterr().err


def test_a_node_that_does_not_come_is_named(
    attempt: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "MEET_S", 1.0)
    told = meet(participants(attempt, 3)[:2])
    for failed in told.values():
        assert failed is not None
        assert (failed.line, failed.code) == ("n2: did not come within 1 s", 75)


def test_a_node_of_another_attempt_is_sent_away(
    attempt: AttemptFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "MEET_S", 1.0)
    older = AttemptFolder(tmp_path / "attempts" / "007")
    older.root.mkdir()
    mine = participants(attempt, 2)
    told = meet([mine[0], replace(mine[1], attempt=older)])
    assert told["n0"] is not None
    assert told["n0"].hosts == ("n1",)
    assert told["n1"] is not None
    assert told["n1"].line.startswith("n0: left during preflight")


def test_a_first_node_that_dies_is_named_by_the_others(attempt: AttemptFolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def accept_and_die() -> None:
            listener.accept()[0].close()

        dying = threading.Thread(target=accept_and_die)
        dying.start()
        failed = preflight(participants(attempt, 2)[1], "127.0.0.1", port)
        dying.join()
    assert failed is not None
    assert failed.hosts == ("n0",)


def test_who_hung_with_a_dead_node_is_not_blamed_for_the_time_to_start_anew(
    attempt: AttemptFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "ROUND_S", 1.0)
    monkeypatch.setattr(reducers, "MARGIN_S", 1.0)
    monkeypatch.chdir(tmp_path)
    scripts = (HANGS_AT_FIRST, HANGS, ANSWERS, ANSWERS)
    nodes = zip(participants(attempt, 4), scripts, strict=True)
    told = meet([replace(node, program=(sys.executable, "-c", script)) for node, script in nodes])
    for host in ("n0", "n1", "n2", "n3"):
        failed = told[host]
        assert failed is not None
        assert failed.line == "n1: no all-reduce with it came to an end"


def test_a_folder_that_cannot_be_written_to_is_told_of(tmp_path: Path) -> None:
    assert measure(tmp_path / "absent", "n1").error == "No such file or directory"
    assert measure(tmp_path, "n1").error is None
    assert list(tmp_path.iterdir()) == []  # the probe is gone


def test_preflight_json_is_strict_json(attempt: AttemptFolder) -> None:
    preflight(Participant(node=local_node(ranks=1), attempt=attempt), "127.0.0.1", 1)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(attempt.preflight.read_text(), parse_constant=refuse)
