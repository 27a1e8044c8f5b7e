"""The checks that need no more than what each node found out about itself. Pure functions."""

from collections.abc import Mapping, Sequence
from statistics import median_low

from cluster.preflight.check import Check, blames, told, warns
from cluster.preflight.facts import Facts
from cluster.preflight.storage import PROBE_BYTES

GIB = 1 << 30

# Less than an export of Stable Diffusion 1.5 in 16 bits takes.
LOW_DISK_BYTES = 2 * GIB
# A suite of published prompts leaves a file for each of some thousand pictures and checkpoints.
LOW_FILES = 20_000
# NCCL's manual asks for it (`--shm-size=1g`); Docker's default of 64 MiB kills loaders by SIGBUS.
LOW_SHARED_MEMORY_BYTES = GIB
# Nodes share the storage, so they should be alike; a busy one is now and then a few times slower.
SLOWER_THAN_OTHERS = 5
# Heartbeats are written twice a second: storage that takes longer for a small file is a burden.
SLOW_WRITE_S, SLOW_RENAME_S = 5.0, 1.0
# The earliest of the nodes' records says why an attempt failed (cluster/state.py).
SKEW_WARNS_S = 1.0
# A run whose heartbeat is older than this is taken for dead (launcher/run_state.py).
SKEW_FAILS_S = 60.0


def judge(nodes: Sequence[Facts]) -> list[Check]:
    """Every check of what the nodes say of themselves."""
    of = {facts.host: facts for facts in nodes}
    checks = (check_versions, check_gpus, check_cores, check_shared_memory, check_storage)
    return [check(of) for check in checks]


def check_versions(of: Mapping[str, Facts]) -> Check:
    """The same packages on all nodes: else each rank computes something else, or none starts."""
    packages = sorted({name for facts in of.values() for name in facts.versions})
    for package in packages:
        hosts_of: dict[str, list[str]] = {}
        for host, facts in of.items():
            hosts_of.setdefault(facts.versions.get(package, "not installed"), []).append(host)
        if len(hosts_of) > 1:
            found = "; ".join(f"{version} on {', '.join(on)}" for version, on in hosts_of.items())
            remedy = "use one environment that all nodes share, or install the same on each"
            line = f"{package} differs: {found}: {remedy}"
            return Check(name="versions", verdict="fails", line=line)
    return Check(name="versions", verdict="ok", line=f"the same of {len(packages)} packages")


def check_gpus(of: Mapping[str, Facts]) -> Check:
    """As many GPUs as were promised, and nobody else on them."""
    lacking = {host: reason for host, facts in of.items() if (reason := _lacks_gpus(facts, of))}
    if lacking:
        return blames("GPUs", lacking)
    if not any(facts.gpus for facts in of.values()):
        return Check(name="GPUs", verdict="absent", line=told({h: _none(of[h]) for h in of}))
    used = {host: users for host, facts in of.items() if (users := _users(facts))}
    promised = {host: users for host, users in used.items() if of[host].promised_gpus is not None}
    if promised:
        return blames("GPUs", promised)
    shown = ", ".join(sorted({f"{len(f.gpus)} × {f.gpus[0].name}" for f in of.values()}))
    return warns("GPUs", used, f"{shown}, free")


def check_cores(of: Mapping[str, Facts]) -> Check:
    """A core for each rank, and all that the job was given."""
    reasons = {}
    for host, facts in of.items():
        given = min(facts.job_cores or facts.cores, facts.machine_cores)
        if facts.cores < given and facts.srun_cpus_per_task is None:
            reasons[host] = (
                f"the agent has {facts.cores} of the job's {given} cores: srun passes them on "
                "after `export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK`"
            )
        elif facts.cores < facts.ranks:
            reasons[host] = f"{facts.ranks} ranks share {facts.cores} cores"
    each = min(facts.cores / facts.ranks for facts in of.values())
    return warns("cores", reasons, f"{each:g} for each rank")


def check_shared_memory(of: Mapping[str, Facts]) -> Check:
    """Room in /dev/shm, through which NCCL and the loaders' processes speak."""
    free = {host: facts.shared_memory_bytes or 0 for host, facts in of.items()}
    reasons = {
        host: f"{room / GIB:.2f} GiB are free in /dev/shm, {LOW_SHARED_MEMORY_BYTES / GIB:.0f} are "
        "wanted; a container gets them by --shm-size=1g"
        for host, room in free.items()
        if room < LOW_SHARED_MEMORY_BYTES
    }
    return warns("shared memory", reasons, f"{min(free.values()) / GIB:.0f} GiB free or more")


def check_storage(of: Mapping[str, Facts]) -> Check:
    """The run folder can be written to from every node, and as quickly as from the others."""
    errors = {host: facts.storage.error for host, facts in of.items() if facts.storage.error}
    if errors:
        reasons = {host: f"the run folder cannot be written to: {e}" for host, e in errors.items()}
        return blames("run folder", reasons, nodes=len(of))
    reasons = {host: reason for host, facts in of.items() if (reason := _scarce(facts))}
    slower = _slower("write", {host: facts.storage.write_s for host, facts in of.items()})
    slower |= _slower("rename", {host: facts.storage.rename_s for host, facts in of.items()})
    slowest_s = max(facts.storage.write_s for facts in of.values())
    free = min(facts.storage.free_bytes for facts in of.values())
    speed = PROBE_BYTES / 1e6 / max(slowest_s, 1e-9)
    return warns(
        "run folder", slower | reasons, f"{free / GIB:.0f} GiB free, {speed:.0f} MB/s to the disk"
    )


def check_clocks(skew_s: Mapping[str, float]) -> Check:
    """Clocks that agree; `skew_s` is each node's time less that of the first."""
    spread_s = max(skew_s.values()) - min(skew_s.values())
    usual_s = median_low(skew_s.values())
    reasons = {
        host: f"its clock is {abs(skew - usual_s):.1f} s {'before' if skew > usual_s else 'behind'}"
        for host, skew in skew_s.items()
        if abs(skew - usual_s) > SKEW_WARNS_S
    }
    if reasons and len(skew_s) == 2:  # who is to say which of the two is right
        reasons = dict.fromkeys(skew_s, f"their clocks differ by {spread_s:.1f} s")
    if spread_s > SKEW_FAILS_S:
        return blames("clocks", reasons)
    return warns("clocks", reasons, f"within {spread_s:.3f} s of each other")


def _none(facts: Facts) -> str:
    return facts.no_gpus or facts.driver_error or "nvidia-smi shows none that is visible"


def _lacks_gpus(facts: Facts, of: Mapping[str, Facts]) -> str | None:
    """Why a node has fewer GPUs than it should; None where nobody counts on any."""
    promised = facts.promised_gpus
    if promised is not None and facts.no_gpus is None:  # they could be looked at
        if facts.driver_error:
            return facts.driver_error
        if len(facts.gpus) < promised:
            return f"{len(facts.gpus)} of {promised} GPUs are there"
    others_have = any(other.gpus for other in of.values())
    return _none(facts) if others_have and not facts.gpus else None


def _users(facts: Facts) -> str | None:
    """Who else uses a node's GPUs."""
    used = [
        f"GPU {gpu.index} is used by {', '.join(gpu.processes) or 'nobody known'}"
        f" ({gpu.used_mib or 0} MiB)"
        for gpu in facts.gpus
        if not gpu.is_free
    ]
    return ", ".join(used) or None


def _scarce(facts: Facts) -> str | None:
    """What a node's storage is short of, or slow at, whatever the others say."""
    found = facts.storage
    if found.free_bytes < LOW_DISK_BYTES:
        return f"{found.free_bytes / GIB:.2f} GiB are free in the run folder"
    if found.free_files is not None and found.free_files < LOW_FILES:
        return f"{found.free_files} files can still be made in the run folder"
    if found.write_s > SLOW_WRITE_S:
        return f"the run folder took {found.write_s:.1f} s for {PROBE_BYTES >> 20} MiB"
    if found.rename_s > SLOW_RENAME_S:
        return f"the run folder took {found.rename_s:.1f} s for a rename"
    return None


def _slower(act: str, seconds: Mapping[str, float]) -> dict[str, str]:
    """The nodes that are far slower at it than the usual one, where that can be felt."""
    usual_s = median_low(seconds.values())
    limit_s = max(SLOWER_THAN_OTHERS * usual_s, SLOW_RENAME_S)
    return {
        host: f"a {act} in the run folder took {took:.2f} s, {usual_s:.2f} s on other nodes"
        for host, took in seconds.items()
        if took > limit_s
    }
