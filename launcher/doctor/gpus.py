"""The GPUs that this machine shows, and whether torch can use them."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.ask import Answer, ask
from cluster.nvidia_smi import ask_nvidia_smi, mib_of, rows_of
from launcher.doctor.finding import Finding, lacks, not_needed, ok, unanswered
from launcher.recipe import Recipe

FIELDS = "name,memory.total,memory.used,driver_version"
# What is there counts as the same version for pip, whatever it was built with.
INSTALL = "pip install --force-reinstall -c constraints.txt torch"
USED_MIB = 1024  # of memory: more is another's process, less is what a driver takes


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """As nvidia-smi shows it."""

    name: str
    memory_mib: int | None
    """None: the driver does not tell, where memory is the host's."""
    used_mib: int | None
    driver: str

    @property
    def shown(self) -> str:
        """Its name, and how much memory it has."""
        memory = "" if self.memory_mib is None else f" of {self.memory_mib / 1024:.0f} GiB"
        return self.name + memory


def ask_gpus(timeout_s: float) -> Answer:
    """nvidia-smi's list of GPUs."""
    return ask_nvidia_smi("gpu", FIELDS, timeout_s=timeout_s)


def ask_installed(timeout_s: float) -> Answer:
    """What torch and DeepSpeed say, in a process of their own."""
    code = Path(__file__).parents[2]
    return ask(
        [sys.executable, "-m", "trainer.installed"],
        timeout_s=timeout_s,
        environment={"PYTHONPATH": str(code)},
    )


def read_gpus(text: str) -> list[Gpu]:
    """The GPUs in nvidia-smi's answer."""
    return [
        Gpu(name=name, memory_mib=mib_of(memory), used_mib=mib_of(used), driver=driver)
        for name, memory, used, driver in rows_of(text, columns=4)
    ]


def gpu_findings(
    recipe: Recipe, answer: Answer, in_scheduler: bool, needed_gib: float | None
) -> Iterator[Finding]:
    """Rows on this machine's GPUs; `needed_gib` is what the recipe takes of each."""
    wanted = recipe.ranks.per_node if recipe.train.device == "cuda" else 0
    gpus = read_gpus(answer.text) if answer.text is not None else []
    if not gpus:
        why = answer.silence or "nvidia-smi shows none"
        yield _no_gpus(why, wanted, in_scheduler)
        return
    kinds = Counter(gpu.shown for gpu in gpus)
    names = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    found = f"{names}; driver {gpus[0].driver}"
    if len(gpus) < wanted:
        mend = f"--set ranks.per_node={len(gpus)}"
        yield lacks("GPUs", f"{found}; the recipe has {wanted} ranks a node", mend)
    else:
        yield ok("GPUs", found)
    yield _gpu_memory(gpus, needed_gib, wanted)


def torch_findings(recipe: Recipe, answer: Answer, gpus_here: bool) -> Iterator[Finding]:
    """Rows on torch, its CUDA, what the ranks talk by, and DeepSpeed."""
    if answer.text is None:
        lost = "No module named" in answer.silence
        mend = "`make install`" if lost else "`python -m trainer.installed` shows more"
        yield unanswered("torch", answer, mend)
        return
    said = json.loads(answer.text.splitlines()[-1])
    on_gpu = recipe.train.device == "cuda"
    yield _torch(said, on_gpu, gpus_here)
    yield _backend(said, on_gpu)
    if said["deepspeed"]:
        yield ok("DeepSpeed", said["deepspeed"])
    else:
        yield lacks(
            "DeepSpeed",
            said["deepspeed_fault"],
            "DS_BUILD_OPS=0 pip install -c constraints.txt --no-build-isolation deepspeed",
        )


def _no_gpus(why: str, wanted: int, in_scheduler: bool) -> Finding:
    if not wanted:
        return not_needed("GPUs", f"{why}; the recipe computes on the CPU")
    if in_scheduler:
        return not_needed("GPUs", f"{why}; SLURM's nodes have some")
    mend = "--set train.device=cpu train.precision=fp32, or run it where GPUs are"
    return lacks("GPUs", f"{why}; train.device is cuda", mend)


def _gpu_memory(gpus: list[Gpu], needed_gib: float | None, wanted: int) -> Finding:
    told = [gpu for gpu in gpus if gpu.memory_mib is not None and gpu.used_mib is not None]
    if len(told) < len(gpus):
        return ok("their memory", "the driver does not tell")
    least = min(((gpu.memory_mib or 0) - (gpu.used_mib or 0)) / 1024 for gpu in told)
    busy = [str(number) for number, gpu in enumerate(told) if (gpu.used_mib or 0) > USED_MIB]
    found = f"{least:.1f} GiB free on the fullest"
    found += f"; others compute on {', '.join(busy)}" if busy else ""
    found += f"; the recipe takes {needed_gib:.1f}" if needed_gib is not None and wanted else ""
    if wanted and needed_gib is not None and needed_gib > least:
        mend = "`letterpress plan RECIPE --gpu-memory-gb …` says what would fit"
        return lacks("their memory", found, mend)
    return ok("their memory", found)


def _torch(said: dict[str, Any], on_gpu: bool, gpus_here: bool) -> Finding:
    if said["cuda"] is None:
        found = f"{said['torch']}, built without CUDA"
        return lacks("torch", found, INSTALL) if on_gpu else ok("torch", found)
    found = f"{said['torch']}, built with CUDA {said['cuda']}"
    if gpus_here and said["gpu_fault"]:
        found += f", cannot use the GPUs: {said['gpu_fault']}"
        mend = "a newer driver, or a torch whose CUDA is no newer than nvidia-smi shows"
        return lacks("torch", found, mend) if on_gpu else not_needed("torch", found)
    return ok("torch", f"{found}, computes on every GPU" if gpus_here else found)


def _backend(said: dict[str, Any], on_gpu: bool) -> Finding:
    """Ranks on GPUs talk by NCCL, and agree by gloo; ranks on the CPU need gloo alone."""
    if not said["gloo"]:
        return lacks("gloo", "torch was built without it", INSTALL)
    if said["nccl"]:
        return ok("communication", f"NCCL {said['nccl']} and gloo")
    if on_gpu:
        return lacks("communication", "gloo; torch was built without NCCL", INSTALL)
    return ok("communication", "gloo, by which ranks on the CPU talk; no NCCL")
