"""slurm/testbed itself: its nodes are apart where that is allowed, and nothing of it is left."""

import os
import shutil
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run

import pytest

from tests.conftest import CHECKOUT, wait_until
from tests.integration.test_accounting_on_slurm import needs_accounting
from tests.integration.test_slurm import (
    TESTBED,
    Cluster,
    processes,
    processes_about,
    pytestmark,
)

__all__ = ["pytestmark"]  # where it is skipped

NO_NAMESPACES = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
WHO = "echo $SLURMD_NODENAME $(hostname) $(readlink /proc/self/ns/net)"
STAYS = "trap '' TERM; setsid sleep 100000 & sleep 100000"


def namespaces_are_allowed() -> bool:
    """Whether this machine grants a network and processes of one's own."""
    if not all(map(shutil.which, ("unshare", "ip"))):
        return False
    return not run(["unshare", "--net", "--pid", "--fork", "true"], stderr=DEVNULL).returncode


@pytest.mark.skipif(not namespaces_are_allowed(), reason="namespaces take root, and iproute2")
def test_nodes_are_machines_of_their_own_and_leave_nothing_when_the_testbed_is_killed() -> None:
    with Popen([sys.executable, str(TESTBED), "--nodes=2"], stdout=PIPE, text=True) as testbed:
        names, hostnames, networks = who_is_there(testbed)
    assert names == hostnames == {"n1", "n2"}
    assert len(networks) == 2


def test_where_namespaces_are_not_allowed_nodes_are_addresses_and_leave_nothing_either() -> None:
    become = NO_NAMESPACES if os.geteuid() == 0 else ()
    command = [*become, sys.executable, str(TESTBED), "--nodes=2"]
    with Popen(command, stdout=PIPE, text=True) as testbed:
        names, hostnames, networks = who_is_there(testbed)
    assert names == {"127.0.0.11", "127.0.0.12"}
    assert len(hostnames) == len(networks) == 1


@needs_accounting
def test_slurmdbd_and_its_database_are_gone_when_the_testbed_is_killed() -> None:
    command = [sys.executable, str(TESTBED), "--nodes=1", "--accounting"]
    with Popen(command, stdout=PIPE, text=True) as testbed:
        slurm_conf = slurm_conf_of(testbed)
        marked = [words for _, words, marks in processes() if f"SLURM_CONF={slurm_conf}" in marks]
        testbed.kill()
    assert {"mariadbd", "slurmdbd"} < {Path(words[0]).name for words in marked}
    wait_until_gone(slurm_conf)


def who_is_there(testbed: Popen[str]) -> list[set[str]]:
    """The nodes' names, hostnames and networks; then it is killed, jobs or no jobs, and gone."""
    slurm_conf = slurm_conf_of(testbed)
    try:
        cluster = Cluster(str(slurm_conf), CHECKOUT)
        lines = cluster.type("srun", "--nodes=2", "bash", "-c", WHO).splitlines()
        cluster.sbatch("--nodes=2", "--output=/dev/null", f"--wrap={STAYS}")
        before = len(processes_about(slurm_conf))
        wait_until(lambda: len(processes_about(slurm_conf)) >= before + 3)
    finally:
        testbed.kill()
    wait_until_gone(slurm_conf)
    return [set(column) for column in zip(*map(str.split, lines), strict=True)]


def slurm_conf_of(testbed: Popen[str]) -> Path:
    """The first that it prints, once it is up."""
    assert testbed.stdout is not None
    return Path(testbed.stdout.readline().strip().removeprefix("SLURM_CONF="))


def wait_until_gone(slurm_conf: Path) -> None:
    """Until neither a folder nor a process is left."""
    wait_until(lambda: not slurm_conf.parent.exists() and not processes_about(slurm_conf))
