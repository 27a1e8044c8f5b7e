"""What would wait in the queue for ever is said before the queue."""

from dataclasses import replace

import pytest

from cluster.slurm.nodes import Asked, check_asked, check_fits, down_nodes, parse_gpus, parse_sinfo
from tests.fake_slurm import FakeSlurm

# As `sinfo --exact` prints it: a group of like nodes a line, in each of their partitions.
SINFO = """\
gpu*|up|4|gpu:a100:8(S:0-1)|128|1031000|2-00:00:00
gpu*|up|2|gpu:v100:4|40|380000|2-00:00:00
short|up|4|gpu:a100:8(S:0-1)|128|1031000|30:00
cpu|up|20|(null)|64+|256000|infinite
old|down|1|gpu:2|16|64000|1:00:00
"""
GROUPS = parse_sinfo(SINFO)
FITS = Asked(
    partition=None,
    nodes=4,
    gpus_per_node=8,
    gpu_type="a100",
    cpus_per_node=32,
    memory_gb=None,
    minutes=1440,
)


def test_what_a_partition_has_is_let_through() -> None:
    check_fits(FITS, GROUPS)
    check_fits(replace(FITS, gpu_type=None, nodes=6, gpus_per_node=4), GROUPS)
    check_fits(replace(FITS, partition="short", minutes=30), GROUPS)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"partition": "gpus"},
            "slurm.partition 'gpus' does not exist: there is gpu, short, cpu, old",
        ),
        ({"partition": "old"}, "partition old takes no jobs now"),
        ({"nodes": 5}, "partition gpu has 4 nodes such as the job asks for, ranks.nodes is 5"),
        ({"gpu_type": "h100"}, "no GPUs of slurm.gpu_type 'h100': it has a100, v100"),
        ({"gpu_type": "v100"}, "has at most 4 GPUs a node, ranks.per_node is 8"),
        ({"partition": "cpu"}, "no GPUs of slurm.gpu_type 'a100': it names no types"),
        ({"cpus_per_node": 256}, "has at most 128 cores a node, the job asks for 256"),
        ({"memory_gb": 2000}, "has at most 1031000 MB a node, the job asks for 2048000"),
        ({"partition": "short"}, "ends jobs after 0.5 h, slurm.hours asks for 24"),
    ],
)
def test_what_it_does_not_have_is_one_line(changes: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match="partition") as refused:
        check_fits(replace(FITS, **changes), GROUPS)  # type: ignore[arg-type]
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_cluster_without_a_default_partition_says_which_there_are() -> None:
    with pytest.raises(ValueError, match=r"set slurm\.partition: there is gpu, short"):
        check_fits(FITS, parse_sinfo(SINFO.replace("*", "")))


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:a100:8(S:0-1)", {"a100": 8}),
        ("gpu:2,nic:1", {"": 2}),
        ("gpu:a100_3g.20gb:4(S:0,1),gpu:a100:2", {"a100_3g.20gb": 4, "a100": 2}),
        ("(null)", {}),
    ],
)
def test_gpus_are_read_as_sites_write_them(gres: str, gpus: dict[str, int]) -> None:
    assert parse_gpus(gres) == gpus


def test_the_check_is_one_question(fake_slurm: FakeSlurm) -> None:
    fake_slurm.answers("sinfo", SINFO)
    check_asked(FITS)
    assert len(fake_slurm.calls()) == 1


def test_a_node_of_1024_cores_is_asked_for_in_full(fake_slurm: FakeSlurm) -> None:
    row = "gpu*|up|4|gpu:a100:8|{}|1031000|2-00:00:00"
    in_full, cut_short = row.format("1024"), row.format("1K")  # as SLURM 22.05 prints it
    fake_slurm.does(
        "sinfo", f'case "$*" in *noconvert*) echo "{in_full}";; *) echo "{cut_short}"; esac'
    )
    check_asked(FITS)


def test_nodes_that_do_not_answer_count_as_down(fake_slurm: FakeSlurm) -> None:
    states = "n1|allocated|none\nn2|down*|Not responding\nn3|allocated*|none\nn4|drained|fan\n"
    fake_slurm.answers("sinfo", states)
    assert down_nodes(["n1", "n2", "n3", "n4"]) == ["n2", "n3"]


def test_a_node_that_is_down_is_known_by_its_reason_while_slurm_still_counts_its_cores(
    fake_slurm: FakeSlurm,
) -> None:
    # 22.05.8, seconds after `scontrol update state=down reason=lost` of a node with a job.
    fake_slurm.answers("sinfo", "n7|mixed|lost\nn8|mixed|none\nn9|draining|fan\n")
    assert down_nodes(["n7", "n8", "n9"]) == ["n7"]
