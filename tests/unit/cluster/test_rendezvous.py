"""Where ranks meet: ports that are free, addresses that are published."""

import socket
from pathlib import Path

import pytest

from cluster import rendezvous
from cluster.exit_codes import MachineFault
from cluster.rendezvous import (
    await_address,
    free_port,
    free_ports,
    local_node,
    node_of,
    publish_address,
    slurm_node,
)
from cluster.run_folder import RunFolder


def test_the_port_lies_below_those_that_the_kernel_hands_out() -> None:
    first_ephemeral = int(rendezvous.EPHEMERAL_RANGE.read_text().split()[0])
    assert 1024 <= free_port("a run") < first_ephemeral


def test_a_port_that_is_taken_is_not_chosen() -> None:
    port = free_port("a run")
    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        assert free_port("a run") != port


def test_ports_in_a_row_are_all_free() -> None:
    row = free_ports("a run", 12)
    assert row == list(range(row[0], row[0] + 12))
    with socket.socket() as taken:
        taken.bind(("", row[5]))
        taken.listen()
        assert row[5] not in free_ports("a run", 12)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_port_that_is_taken_at_ipv6_alone_is_not_chosen() -> None:
    port = free_port("a run")
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::", port))
        taken.listen()
        assert free_port("a run") != port


@pytest.mark.parametrize(
    ("handed_out", "first", "last"),
    [
        ("32768\t60999", rendezvous.FIRST_PORT, rendezvous.LAST_PORT),
        ("9000 65535", 1024, 8999),
        ("1024 65535", rendezvous.FIRST_PORT, rendezvous.LAST_PORT),
    ],
)
def test_a_site_may_hand_out_other_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handed_out: str, first: int, last: int
) -> None:
    ports = tmp_path / "ip_local_port_range"
    ports.write_text(handed_out)
    monkeypatch.setattr(rendezvous, "EPHEMERAL_RANGE", ports)
    assert first <= free_port("a run") <= last


def test_attempts_meet_at_ports_of_their_own(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    node = local_node(ranks=1)
    one, other = (publish_address(run.attempt(number), node, "a run")[1] for number in (0, 1))
    assert one != other


def test_other_nodes_read_what_the_first_published(tmp_path: Path) -> None:
    attempt = RunFolder(tmp_path).attempt(0)
    published = publish_address(attempt, local_node(ranks=2), key="a run")
    assert await_address(attempt) == published


def test_a_first_node_that_never_speaks_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineFault, match="the first node published no address"):
        await_address(RunFolder(tmp_path).attempt(0), wait_s=0.1)


def test_nodes_are_known_by_their_addresses_or_by_names_and_the_first_one_s_address() -> None:
    node = node_of(["10.0.0.1", "10.0.0.2"], 1, ranks=8)
    assert (node.name, node.nodes, node.address) == ("10.0.0.2", 2, "10.0.0.1")
    assert node_of(["n1", "n2"], 1, ranks=8, address="10.0.0.1").address == "10.0.0.1"
    with pytest.raises(ValueError, match="--node 2 is none of the 2 hosts, counted from 0"):
        node_of(["10.0.0.1", "10.0.0.2"], 2, ranks=8)


def test_a_job_without_gpus_is_told_so() -> None:
    environment = {
        "SLURM_JOB_NODELIST": "localhost",
        "SLURMD_NODENAME": "localhost",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NUM_NODES": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendezvous, "expand_hosts", lambda nodelist: [nodelist])
        with pytest.raises(ValueError, match="SLURM_GPUS_ON_NODE is not set"):
            slurm_node(environment)
        node = slurm_node({**environment, "SLURM_GPUS_ON_NODE": "8"})
    assert (node.number, node.nodes, node.ranks, node.address) == (0, 1, 8, "localhost")
