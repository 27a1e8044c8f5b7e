"""What this machine has: cores, memory, shared memory, and what a process may open."""

import os
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.rendezvous import cores
from launcher.doctor.finding import Finding, lacks, not_needed, ok
from launcher.recipe import Recipe

GIB = 2**30
MEMINFO = Path("/proc/meminfo")
# Of this process's control group, version 2 and 1: a container or a job may have less.
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
SHARED_MEMORY = Path("/dev/shm")
# NCCL's advice for containers; batches and Ray's objects lie there too. Docker gives 64 MiB.
SHARED_GIB = 1.0
OPEN_FILES = 4096  # below it Ray warns of what it has seen fail
INFINIBAND = Path("/sys/class/infiniband")


def machine_findings(recipe: Recipe, tensors_bytes: float | None) -> Iterator[Finding]:
    """Rows on the machine itself; `tensors_bytes` is what the ranks of a CPU recipe hold here."""
    yield ok("python", f"{sys.version.split()[0]} in {sys.prefix}")
    yield _cores(recipe)
    yield _memory(tensors_bytes)
    yield _shared_memory()
    yield _open_files()
    yield _locked_memory()


def free_memory() -> tuple[int, int]:
    """Bytes that can be had, and that there are, within this control group's limit."""
    found = dict(re.findall(r"(\w+):\s+(\d+) kB", MEMINFO.read_text()))
    free, total = (int(found[key]) * 1024 for key in ("MemAvailable", "MemTotal"))
    for path in MEMORY_LIMITS:
        text = path.read_text().strip() if path.exists() else "max"
        if text != "max":
            total = min(total, int(text))
    return min(free, total), total


def _cores(recipe: Recipe) -> Finding:
    here, ranks = cores(), recipe.ranks.per_node
    found = f"{here}, load {os.getloadavg()[0]:.1f}"
    if recipe.train.device == "cpu" and here < ranks:
        return lacks(
            "cores", f"{found}; the recipe has {ranks} ranks", f"--set ranks.per_node={here}"
        )
    return ok("cores", found)


def _memory(tensors_bytes: float | None) -> Finding:
    free, total = free_memory()
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if tensors_bytes is None:
        return ok("memory", found)
    found += f"; the ranks' tensors take {tensors_bytes / GIB:.1f}"
    if tensors_bytes > free:
        return lacks("memory", found, "--set train.micro_batch=1, or fewer ranks.per_node")
    return ok("memory", found)


def _shared_memory() -> Finding:
    usage = shutil.disk_usage(SHARED_MEMORY)
    found = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {SHARED_MEMORY}"
    if usage.free >= SHARED_GIB * GIB:
        return ok("shared memory", found)
    mend = "in a container `docker run --shm-size=8g …`; else remove what lies there"
    return lacks("shared memory", f"{found}; {SHARED_GIB:g} is needed", mend)


def _open_files() -> Finding:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= OPEN_FILES:
        shown = "no limit" if most == resource.RLIM_INFINITY else f"up to {most:,}"
        return ok("open files", shown)
    mend = f"`ulimit -n {OPEN_FILES}`, which root may raise"
    return lacks("open files", f"up to {most:,}; Ray needs {OPEN_FILES:,}", mend)


def _locked_memory() -> Finding:
    most, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = most == resource.RLIM_INFINITY
    shown = "no limit" if unlimited else f"up to {most / 2**20:,.0f} MiB"
    if not INFINIBAND.exists() or not any(INFINIBAND.iterdir()):
        return not_needed("locked memory", f"{shown}; for InfiniBand, which is not here")
    if unlimited:
        return ok("locked memory", f"{shown}; InfiniBand needs that")
    return lacks("locked memory", f"{shown}; InfiniBand needs no limit", "`ulimit -l unlimited`")
