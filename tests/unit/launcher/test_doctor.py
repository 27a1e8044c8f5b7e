"""What the doctor says of machines, from what their programs print."""

import json
import os
import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.ask import Answer
from cluster.exit_codes import ExitCode
from launcher.doctor import page
from launcher.doctor.examine import Answers, examine, what_it_takes
from launcher.doctor.files import farm_findings
from launcher.doctor.finding import Finding
from launcher.doctor.gpus import gpu_findings, torch_findings
from launcher.doctor.machine import machine_findings
from launcher.doctor.packages import package_findings, requirements
from launcher.doctor.schedulers import ask_ray, read_slurm, slurm_finding, srun_finding
from launcher.doctor.storage import storage_findings
from launcher.recipe import Recipe, load_recipe
from tests.conftest import CHECKOUT

MINI = CHECKOUT / "recipes" / "mini.yaml"
NO_SMI = Answer(silence="no nvidia-smi on PATH")
ON_GPUS = ["train.device=cuda", "train.precision=bf16", "ranks.per_node=2", "eval=null"]
# As `nvidia-smi --query-gpu=… --format=csv,noheader,nounits` prints it.
TWO_A100 = "NVIDIA A100-SXM4-80GB, 81920, 4, 535.183.01\n" * 2
TORCH: dict[str, Any] = {
    "torch": "2.13.0+cu130",
    "cuda": "13.0",
    "nccl": "2.28.3",
    "gloo": True,
    "gpu_fault": None,
    "deepspeed": "0.19.8",
    "deepspeed_fault": None,
}
# sinfo 22.05.8 on slurm/testbed printed the first line; the others differ in what its page lists.
SINFO = """\
main|2|idle|gpu:a100:8|64|infinite|22.05.8
big|3|mix|gpu:h100:8(S:0-1),nvme:1|96|2-00:00:00|22.05.8
big|1|drain*|gpu:h100:8(S:0-1)|96|2-00:00:00|22.05.8
cpu|4|alloc|(null)|32|1:00:00|22.05.8
"""


@pytest.fixture
def mini() -> Recipe:
    return load_recipe(MINI)


@pytest.fixture
def on_gpus() -> Recipe:
    return load_recipe(MINI, ON_GPUS)


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def said(**changes: Any) -> Answer:
    """What `python -m trainer.installed` prints, DeepSpeed's own words first."""
    return Answer(text=f"Setting accelerator to CPU\n{json.dumps(TORCH | changes)}\n")


def measured(**changes: Any) -> Answer:
    facts = {"free_bytes": 1e12, "free_inodes": 1e8, "write_bytes_per_s": 1e9}
    return Answer(text=json.dumps({**facts, "rename_s": 0.001, "clock_lead_s": 0.0, **changes}))


def test_a_laptop_without_slurm_and_gpus_lacks_nothing_for_the_mini_recipe(mini: Recipe) -> None:
    answers = Answers(
        slurm=Answer(silence="no sinfo on PATH"),
        ray=Answer(silence="RAY_ADDRESS is not set"),
        gpus=NO_SMI,
        installed=said(torch="2.13.0+cpu", cuda=None, nccl=None),
        storage=measured(),
        farm=Answer(text=""),
    )
    found = by_name(f for _, rows in examine(mini, Path("runs"), answers) for f in rows)
    assert found["SLURM"].found == "no sinfo on PATH; --on local does without"
    for name in ("SLURM", "GPUs", "Ray"):
        assert found[name].state == "not needed"
    assert [f.what for f in found.values() if f.state == "lacks"] == []


def test_gpus_that_a_recipe_wants_and_that_are_not_here_are_lacking(on_gpus: Recipe) -> None:
    (finding,) = gpu_findings(on_gpus, NO_SMI, in_scheduler=False, needed_gib=None)
    assert finding.state == "lacks"
    assert "--set train.device=cpu" in str(finding.mend)
    (finding,) = gpu_findings(on_gpus, NO_SMI, in_scheduler=True, needed_gib=None)
    assert finding.state == "not needed"  # a login node


def test_gpus_are_counted_and_what_is_free_on_them(on_gpus: Recipe) -> None:
    answer = Answer(text=TWO_A100)
    gpus, memory = gpu_findings(on_gpus, answer, in_scheduler=False, needed_gib=14.2)
    assert gpus.found == "2 NVIDIA A100-SXM4-80GB of 80 GiB; driver 535.183.01"
    assert memory.state == "ok"
    more = replace(on_gpus, ranks=replace(on_gpus.ranks, per_node=8))
    gpus, _ = gpu_findings(more, answer, in_scheduler=False, needed_gib=14.2)
    assert gpus.mend == "--set ranks.per_node=2"


def test_a_gpu_that_another_computes_on_is_named(on_gpus: Recipe) -> None:
    busy = Answer(text=TWO_A100.replace(", 4,", ", 70000,", 1))
    _, memory = gpu_findings(on_gpus, busy, in_scheduler=False, needed_gib=14.2)
    assert memory.state == "lacks"
    assert "others compute on 0" in memory.found


def test_a_gpu_that_tells_nothing_of_its_memory_is_taken_as_it_is(on_gpus: Recipe) -> None:
    answer = Answer(text="NVIDIA GB10, [N/A], [N/A], 580.95.05\n" * 2)
    gpus, memory = gpu_findings(on_gpus, answer, in_scheduler=False, needed_gib=14.2)
    assert gpus.found == "2 NVIDIA GB10; driver 580.95.05"
    assert (memory.state, memory.found) == ("ok", "the driver does not tell")


def test_a_torch_that_cannot_use_the_gpus_says_why(on_gpus: Recipe, mini: Recipe) -> None:
    fault = "The NVIDIA driver on your system is too old (found version 12020)"
    old = said(gpu_fault=fault)
    assert by_name(torch_findings(on_gpus, old, gpus_here=True))["torch"].state == "lacks"
    assert fault in by_name(torch_findings(on_gpus, old, gpus_here=True))["torch"].found
    assert by_name(torch_findings(mini, old, gpus_here=True))["torch"].state == "not needed"
    # Where there are none, as on a login node, it cannot be tried.
    assert by_name(torch_findings(on_gpus, old, gpus_here=False))["torch"].state == "ok"


def test_a_torch_for_the_cpu_is_no_torch_for_gpus(on_gpus: Recipe, mini: Recipe) -> None:
    cpu = said(torch="2.13.0+cpu", cuda=None, nccl=None)
    wrong = by_name(torch_findings(on_gpus, cpu, gpus_here=True))
    assert [wrong[name].state for name in ("torch", "communication")] == ["lacks", "lacks"]
    assert [f.state for f in torch_findings(mini, cpu, gpus_here=False)] == ["ok", "ok", "ok"]


def test_a_torch_that_takes_too_long_is_not_called_lacking(mini: Recipe) -> None:
    slow = Answer(silence="python gave no answer in 17 s", timed_out=True)
    (finding,) = torch_findings(mini, slow, False)
    assert (finding.state, finding.found) == ("no answer", "python gave no answer in 17 s")


def test_a_torch_and_a_deepspeed_that_fail_are_lacking(mini: Recipe) -> None:
    failing = Answer(silence="python: ImportError: libgomp.so.1: cannot open shared object file")
    (finding,) = torch_findings(mini, failing, False)
    assert (finding.state, finding.found) == ("lacks", failing.silence)
    assert finding.mend == "`python -m trainer.installed` shows more"
    gone = Answer(silence="python: ModuleNotFoundError: No module named 'torch'")
    (finding,) = torch_findings(mini, gone, False)
    assert finding.mend == "`make install`"
    broken = said(deepspeed=None, deepspeed_fault="ImportError: no module named hjson")
    found = by_name(torch_findings(mini, broken, gpus_here=False))["DeepSpeed"]
    assert (found.state, found.found) == ("lacks", "ImportError: no module named hjson")


def test_partitions_and_their_gpus_are_read_from_one_sinfo() -> None:
    slurm = read_slurm(SINFO)
    assert slurm.version == "22.05.8"
    assert {name: (p.up, p.nodes, p.gpus) for name, p in slurm.partitions.items()} == {
        "main": (2, 2, {"a100:8"}),
        "big": (3, 4, {"h100:8"}),
        "cpu": (4, 4, set()),
    }
    assert slurm.has_gpus
    assert not read_slurm(SINFO.splitlines()[3]).has_gpus


def test_slurm_is_needed_for_more_than_one_node(mini: Recipe) -> None:
    wide = replace(mini, ranks=replace(mini.ranks, nodes=2))
    assert slurm_finding(mini, None, "no sinfo on PATH").state == "not needed"
    assert slurm_finding(wide, None, "no sinfo on PATH").state == "lacks"
    assert slurm_finding(wide, read_slurm(SINFO), "").state == "ok"
    wider = replace(mini, ranks=replace(mini.ranks, nodes=5))
    assert slurm_finding(wider, read_slurm(SINFO), "").state == "lacks"


def test_srun_gives_one_core_a_task_since_22_05_unless_it_is_told() -> None:
    job = {"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "32"}
    slurm = read_slurm(SINFO)
    assert srun_finding({}, slurm).state == "not needed"
    trapped = srun_finding(job, slurm)
    assert trapped.state == "lacks"
    assert trapped.mend == "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
    assert srun_finding({**job, "SRUN_CPUS_PER_TASK": "32"}, slurm).state == "ok"
    assert srun_finding(job, replace(slurm, version="21.08.8")).state == "ok"


def test_a_ray_is_asked_where_it_should_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ask_ray(f"127.0.0.1:{port}").text is not None
    assert f"no Ray at RAY_ADDRESS 127.0.0.1:{port}" in ask_ray(f"127.0.0.1:{port}").silence


def test_a_disk_that_the_run_will_fill_is_said_before(mini: Recipe) -> None:
    room, *_ = storage_findings(Path("runs"), measured(free_bytes=5e9), run_bytes=6e9)
    assert room.state == "lacks"
    assert "the run's checkpoints and exports take 6.00 GB" in room.found
    room, speed, clock = storage_findings(
        Path("runs"), measured(free_inodes=10, rename_s=2.0, clock_lead_s=-90.0), run_bytes=None
    )
    assert [f.state for f in (room, speed, clock)] == ["lacks", "lacks", "lacks"]
    assert clock.found == "the storage of runs/ is 90 s behind this machine"


def test_a_folder_that_cannot_be_written_is_lacking() -> None:
    answer = Answer(silence="python: Permission denied: /data/runs/.letterpress")
    (finding,) = storage_findings(Path("runs"), answer, run_bytes=None)
    assert (finding.state, finding.found) == ("lacks", "Permission denied: /data/runs/.letterpress")


def test_what_the_run_takes_is_what_plan_counts(mini: Recipe) -> None:
    takes = what_it_takes(mini)
    # 3 checkpoints of 1.53 MB and exports of 0.51 MB, as `letterpress plan` prints.
    assert takes.run_bytes == pytest.approx(3 * (1.53e6 + 0.51e6), rel=0.01)
    assert takes.gpu_gib is None
    kept = replace(mini.train, keep=replace(mini.train.keep, newest=1))
    assert what_it_takes(replace(mini, train=kept)).run_bytes == pytest.approx(3.06e6, rel=0.01)


def test_more_ranks_than_cores_and_more_tensors_than_memory_are_lacking(mini: Recipe) -> None:
    here = len(os.sched_getaffinity(0))
    more = replace(mini, ranks=replace(mini.ranks, per_node=here + 1))
    found = by_name(machine_findings(more, tensors_bytes=1e15))
    assert found["cores"].mend == f"--set ranks.per_node={here}"
    assert found["memory"].state == "lacks"


def test_packages_are_held_against_what_the_project_asks_for(mini: Recipe, tmp_path: Path) -> None:
    project = """
[project]
[project.optional-dependencies]
train = ["numpy>=1,<99", "PyYAML[fast]>=99", "no-such-package>=1"]
eval = ["letterpress[train]", "pillow<2"]
"""
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / "constraints.txt").write_text("# tested with\nnumpy==1.0.0\nno-such-package==1.0\n")
    packages, versions = package_findings(mini, tmp_path)
    assert packages.state == "lacks"
    assert "PyYAML is" in packages.found
    assert "no-such-package is not there" in packages.found
    assert "numpy" not in packages.found
    assert packages.mend == "pip install -c constraints.txt -e '.[eval]'"
    assert versions.state == "ok"  # others may work, and are named
    assert "numpy is" in versions.found


def test_this_checkout_asks_for_nothing_that_ranges_cannot_say(mini: Recipe) -> None:
    assert [f.what for f in package_findings(mini)] == ["packages: eval", "versions"]
    assert requirements("b", {"a": ["x>1"], "b": ["letterpress[a]", "y"]}) == ["x>1", "y"]


def test_what_the_farm_lacks_comes_with_the_command_that_fetches_it(mini: Recipe) -> None:
    table = (
        "          prompts\nmini           48\n"
        "suite mini: without clip_score: some/clip is neither a path nor in the Hugging Face cache "
        "(/cache): put it there, or set eval.networks.clip_b32\n"
    )
    (finding,) = farm_findings(mini, Answer(text=table))
    assert finding.what == "suite mini"
    assert finding.mend == "`hf download some/clip`, or put it there, or set eval.networks.clip_b32"
    (finding,) = farm_findings(mini, Answer(text="mini  48\n"))
    assert finding.state == "ok"


def test_the_table_is_within_a_hundred_columns_but_for_commands(
    mini: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        Finding(what="model", state="lacks", found="word " * 60, mend="hf download " + "x" * 120),
        Finding(what="disk", state="ok", found="1 GB"),
    ]
    monkeypatch.setattr(page, "ask_all", lambda *_: None)
    monkeypatch.setattr(page, "examine", lambda *_: [("files", rows)])
    text, code = page.doctor(mini, Path("runs"))
    assert all(len(line) <= 100 for line in text.splitlines() if "→" not in line)
    assert "mini lacks 1 thing: model; asked in" in text
    assert code == ExitCode.BAD_INPUT
    monkeypatch.setattr(page, "examine", lambda *_: [("files", rows[1:])])
    assert page.doctor(mini, Path("runs"))[1] == ExitCode.DONE
    silent = Finding(what="torch", state="no answer", found="python gave no answer in 17 s")
    monkeypatch.setattr(page, "examine", lambda *_: [("files", [*rows[1:], silent])])
    text, code = page.doctor(mini, Path("runs"))
    assert "nothing that answered is lacking for mini; no answer of torch; asked in" in text
    assert code == ExitCode.RETRY_ELSEWHERE
