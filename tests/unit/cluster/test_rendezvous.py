"""Where ranks meet: ports that are free, addresses that are published."""

import socket
from pathlib import Path

import pytest

from cluster import rendezvous
from cluster.exit_codes import MachineFault
from cluster.rendezvous import (
    await_address,
    free_port,
    local_node,
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


def test_other_nodes_read_what_the_first_published(tmp_path: Path) -> None:
    attempt = RunFolder(tmp_path).attempt(0)
    published = publish_address(attempt, local_node(ranks=2), key="a run")
    assert await_address(attempt) == published


def test_a_first_node_that_never_speaks_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineFault, match="the first node published no address"):
        await_address(RunFolder(tmp_path).attempt(0), wait_s=0.1)


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
