"""How one node's part of a Ray is started: with the job's share, at ports of its own."""

import re
import socket
import sys
from pathlib import Path

import pytest

from cluster import rendezvous
from cluster.exit_codes import MachineFault
from cluster.ray import node as node_module
from cluster.ray.node import (
    answers,
    neighbours,
    own_address,
    ray_part,
    share,
    start_command,
)
from cluster.ray.ports import plan_ports
from cluster.rendezvous import Node
from tests.fake_slurm import FakeSlurm

HOSTS = ("n1", "n2", "n3")
SLOW_RAY = """
import os, pathlib, socket, sys, time
(port,) = [flag.partition("=")[2] for flag in sys.argv if flag.startswith("--port=")]
with socket.create_server(("127.0.0.1", int(port))):
    time.sleep(0.5)
    pathlib.Path(os.environ["UP"]).touch()
    print("Ray runtime started.", flush=True)
    time.sleep(600)
"""


def node(number: int, hosts: tuple[str, ...] = HOSTS) -> Node:
    """A node with two GPUs of the job's."""
    return Node(
        name=hosts[number],
        number=number,
        nodes=len(hosts),
        address=hosts[0],
        ranks=2,
        hosts=hosts,
    )


def flags(number: int, head: str | None) -> set[str]:
    """What `ray start` is told on a node of two that are known by their addresses."""
    hosts = ("10.0.0.1", "10.0.0.2")
    ports = plan_ports("17", is_head=head is None)
    given = share(node(number, hosts), head, {"SLURM_CPUS_PER_TASK": "12"})
    return {*start_command(hosts[number], ports, Path("/tmp/x")), *given}


def test_a_node_gives_ray_what_is_the_jobs_and_is_known_by_its_own_address() -> None:
    joins = {"--address=10.0.0.1:20000", "--node-ip-address=10.0.0.2", "--temp-dir=/tmp/x"}
    assert joins | {"--num-cpus=12", "--num-gpus=2", "--block"} <= flags(1, "10.0.0.1:20000")


def test_the_head_gives_nothing_for_its_own_node_joins_it_like_any_other() -> None:
    assert {"--head", "--num-cpus=0", "--num-gpus=0", "--block"} <= flags(0, None)


def test_the_dashboard_is_off_and_each_port_is_below_those_that_the_kernel_hands_out() -> None:
    told = flags(0, None)
    assert "--include-dashboard=false" in told
    ports = [int(found[1]) for flag in told if (found := re.fullmatch(r".*port=(\d+)", flag))]
    planned = [port for port in ports if port]  # of workers it is 0: as the kernel says
    first_ephemeral = int(rendezvous.EPHEMERAL_RANGE.read_text().split()[0])
    assert len(set(planned)) == len(planned) == 9
    assert max(planned) < first_ephemeral


def test_two_jobs_on_a_node_have_ports_of_their_own() -> None:
    one, other = (plan_ports(job, is_head=True).numbers.values() for job in ("17", "18"))
    assert not set(one) & set(other)


def test_a_node_that_nobody_wants_to_reach_needs_no_address() -> None:
    assert own_address(node(0, ("n1",)), []) == "127.0.0.1"


def test_a_node_is_reached_at_the_side_that_looks_towards_the_others() -> None:
    # As where a node's own name means 127.0.1.1: it is not asked. Nor is one that is turned off.
    assert own_address(node(0, ("no-such-name",)), ["turned-off.invalid", "localhost"]) == (
        "127.0.0.1"
    )


def test_a_node_whose_others_have_no_address_is_reached_from_outside_or_says_that_it_cannot_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    off = ["turned-off.invalid"]
    monkeypatch.setattr(node_module, "OUTSIDE", "127.0.0.2")
    assert own_address(node(0, ("no-such-name",)), off) == "127.0.0.1"
    monkeypatch.setattr(node_module, "OUTSIDE", "also-off.invalid")
    with pytest.raises(MachineFault, match="no-such-name knows no address of turned-off"):
        own_address(node(0, ("no-such-name",)), off)


def test_to_a_node_that_is_alone_in_its_job_come_those_of_other_jobs_in_its_partition(
    fake_slurm: FakeSlurm,
) -> None:
    fake_slurm.answers("sinfo", "n1|mixed|none\nn7|idle|none\n")
    assert neighbours(node(0, ("n1",)), {"SLURM_JOB_PARTITION": "main"}) == ["n7"]
    assert neighbours(node(0), {}) == ["n2", "n3"]  # SLURM need not be asked
    assert len(fake_slurm.calls("sinfo")) == 1


def test_a_ray_that_does_not_come_up_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ray"
    script.write_text("#!/bin/sh\necho 'OSError: no room left'; echo; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(node_module.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    folder = tmp_path / "ray-files"
    folder.mkdir()
    monkeypatch.setattr(node_module.tempfile, "mkdtemp", lambda **_: str(folder))
    with (
        pytest.raises(MachineFault, match=r"Ray at 127\.0\.0\.1:\d+ ended: OSError: no room left"),
        ray_part(node(0, ("127.0.0.1",)), None, "0123"),
    ):
        pass
    assert not folder.exists()


def test_a_ray_is_up_when_it_says_so_and_not_when_its_port_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ray"
    script.write_text(f"#!{sys.executable}\n{SLOW_RAY}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("UP", str(tmp_path / "up"))
    with ray_part(node(0, ("127.0.0.1",)), None, "0123") as (_, address):
        assert answers(address)
        assert (tmp_path / "up").exists()


def test_who_listens_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert answers(address)
    assert not answers(address)
