"""How often the kernel has killed for memory, as either version of cgroups counts it."""

from pathlib import Path

import pytest

from cluster.ranks.oom_kills import oom_kills


@pytest.mark.parametrize(
    ("membership", "file", "text"),
    [
        ("0::/slurm/job_7\n", "slurm/job_7/memory.events", "low 0\noom 3\noom_kill 2\n"),
        (
            "5:cpu,cpuacct:/x\n4:memory:/slurm/job_7\n0::/\n",
            "memory/slurm/job_7/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ),
        ("0::/\n", "memory.events", "oom_kill 2\noom_group_kill 1\n"),
    ],
)
def test_the_kernel_s_own_count_is_read(
    membership: str, file: str, text: str, tmp_path: Path
) -> None:
    own, cgroups = tmp_path / "own", tmp_path / "cgroups"
    own.write_text(membership)
    (cgroups / file).parent.mkdir(parents=True, exist_ok=True)
    (cgroups / file).write_text(text)
    assert oom_kills(own, cgroups) == 2


def test_a_container_that_does_not_see_its_cgroup_counts_from_0(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/elsewhere\n")
    assert oom_kills(tmp_path / "own", tmp_path) == 0
