"""What lines of a log say about why a program ended: ordered rules, each with its source."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from cluster.verdict import Cause


class Weight(IntEnum):
    """How much a line explains: the cause first, what others saw of it last."""

    CAUSE = 0
    """It names the cause."""
    CRASH = 1
    """A program's own error, whatever it came of."""
    LINK = 2
    """A way between nodes failed, which the end of a peer does, too."""
    WAIT = 3
    """A rank waited too long for others."""
    PARTED = 4
    """A rank saw another go."""
    NOTHING = 5
    """It only looks like an error."""


@dataclass(frozen=True)
class Rule:
    """A line that matches says so; of several rules the first one counts."""

    name: str
    weight: Weight
    cause: Cause | None
    """None: as the exit code of the rank says."""
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Finding:
    """A line of a log that a rule matched."""

    rule: Rule
    line: str

    @property
    def node(self) -> str | None:
        """The node that the line itself names."""
        found = self.rule.pattern.search(self.line)
        return found.groupdict().get("node") if found else None


def _rule(name: str, weight: Weight, cause: Cause | None, *patterns: str) -> Rule:
    return Rule(name, weight, cause, re.compile("|".join(patterns)))


# Xids whose remedy is to drain the node: memory 48 63 64 94 95, NVLink 74, bus 79, GSP 119 120 …
# 13, 31, 43 and 45 are a program's own (NVIDIA, "XID Errors").
XIDS = "48|61|62|63|64|74|79|92|94|95|109|110|119|120|122|123|124|125|136|140|143"

RULES = (
    # What tools say along the way: NCCL's log level, Python's warnings, urllib3's retries, stacks.
    _rule(
        "chatter",
        Weight.NOTHING,
        Cause.UNKNOWN,
        r"NCCL INFO",
        r"\b\w*Warning: ",
        r"^(WARNING|warning:|\[W)",
        r"\b[Rr]etry(ing)?\b",
        r"^(File \"|frame #)",
    ),
    # Summaries of what a rank has said before: torchrun, DeepSpeed's launcher, C++ runtime.
    _rule(
        "summary",
        Weight.NOTHING,
        Cause.UNKNOWN,
        r"ChildFailedError|sigkill_handler|^terminate called|^KeyboardInterrupt",
    ),
    # SLURM's slurmstepd and srun, in the job's own output.
    _rule("time limit", Weight.CAUSE, Cause.PREEMPTED, r"CANCELLED AT \S+ DUE TO TIME LIMIT"),
    _rule(
        "preemption",
        Weight.CAUSE,
        Cause.PREEMPTED,
        r"CANCELLED AT \S+ DUE TO (PREEMPTION|JOB REQUEUE)",
    ),
    _rule("node failure", Weight.CAUSE, Cause.HARDWARE, r"Node failure on (?P<node>\S+)"),
    _rule("lost node", Weight.CAUSE, Cause.HARDWARE, r"CANCELLED AT \S+ DUE TO NODE FAILURE"),
    # The NVIDIA driver in the kernel's log, where a wrapper or a container copies it.
    _rule("Xid", Weight.CAUSE, Cause.HARDWARE, rf"NVRM: Xid \(.*?\): ({XIDS}),"),
    _rule(
        "lost GPU", Weight.CAUSE, Cause.HARDWARE, r"fallen off the bus|GPU is lost|requires reset"
    ),
    # CUDA's runtime by its error strings (cudaErrorECCUncorrectable and its neighbours).
    _rule(
        "ECC", Weight.CAUSE, Cause.HARDWARE, r"uncorrectable ECC|ECC_UNCORRECTABLE|double bit error"
    ),
    _rule("NVLink", Weight.CAUSE, Cause.HARDWARE, r"uncorrectable NVLink error"),
    _rule(
        "no device",
        Weight.CAUSE,
        Cause.HARDWARE,
        r"CUDA-capable device.* busy or unavailable",
        r"no CUDA-capable device is detected",
        r"CUDA unknown error - this may be due to",
        r"Error 802: system not yet initialized",
        r"No CUDA GPUs are available|Unable to determine the device handle",
    ),
    # Linux: machine checks; errno by its number, as Python's OSError prints it, and by its text.
    _rule("machine check", Weight.CAUSE, Cause.HARDWARE, r"\[Hardware Error\]"),
    _rule(
        "storage of a node",
        Weight.CAUSE,
        Cause.HARDWARE,
        r"\[Errno (5|6|19|30|74|107|108|116|117|121)\]",
        r"(Input/output|Remote I/O) error|Read-only file system|Stale (NFS )?file handle",
        r"\bI/O error\b|Structure needs cleaning|No such device",
        r"[Tt]ransport endpoint (shutdown|is not connected)",
    ),
    _rule(
        "full storage",
        Weight.CAUSE,
        Cause.USER_ERROR,
        r"\[Errno (28|122)\]",
        r"No space left on device|Disk quota exceeded",
        r"inline_container\.cc.* unexpected pos",  # torch.save on a full disk
    ),
    # The kernel's OOM killer, slurmstepd and srun, Ray's memory monitor.
    _rule(
        "killed for memory",
        Weight.CAUSE,
        Cause.OUT_OF_MEMORY,
        r"\boom[-_]kill",
        r"Memory cgroup out of memory|Out of memory: Killed process",
        r"error: (?P<node>\S+): task \S+: Out Of Memory",
        r"running low on memory|due to memory pressure",
    ),
    # torch's allocators, the CUDA runtime, NCCL's allocations, the loader's workers, malloc, fork.
    _rule(
        "no memory",
        Weight.CAUSE,
        Cause.OUT_OF_MEMORY,
        r"CUDA out of memory|CUDA error: out of memory|Cuda failure.*out of memory",
        r"killed by signal: (Killed|Bus error)|insufficient shared memory",
        r"STATUS_ALLOC_FAILED|Unable to allocate",
        r"[Cc]an(no|')t allocate memory|\[Errno 12\]|^MemoryError|std::bad_alloc",
    ),
    # CUDA's runtime again: what the program asked for cannot be.
    _rule(
        "kernel's mistake",
        Weight.CAUSE,
        Cause.USER_ERROR,
        r"device-side assert|: block: \[.*Assertion `.*` failed",
        r"illegal memory access|misaligned address",
    ),
    _rule(
        "wrong build",
        Weight.CAUSE,
        Cause.USER_ERROR,
        r"no kernel image is available|invalid device ordinal",
        r"NVIDIA driver on your system is too old",
    ),
    # CUDA, cuBLAS, cuDNN: errors that fit a bad chip as well as a bad kernel.
    _rule(
        "CUDA, unexplained",
        Weight.CRASH,
        Cause.UNKNOWN,
        r"unspecified launch failure|CUDA error: unknown error",
        r"CUBLAS_STATUS_|CUDNN_STATUS_",
    ),
    # CPython's faulthandler.
    _rule("native crash", Weight.CRASH, Cause.UNKNOWN, r"^Fatal Python error:"),
    # ProcessGroupNCCL's watchdog and its monitor, gloo's buffers, monitored_barrier.
    _rule(
        "waited for others",
        Weight.WAIT,
        Cause.HANG,
        r"Watchdog caught collective operation timeout",
        r"Timed out waiting \d+ms for (recv|send) operation",
        r"failed to pass monitoredBarrier|watchdog got stuck",
    ),
    # NCCL's transports and sockets, c10d's store.
    _rule(
        "failed link",
        Weight.LINK,
        Cause.NETWORK,
        r"NCCL WARN (NET/|socket)|ibv_\w+ failed|\[Errno (98|99|100|101|110|112|113)\]",
        r"[Aa]ddress already in use|No route to host|[Nn]etwork is (unreachable|down)|Host is down",
        r"gaierror|in name resolution|Name or service not known|[Ss]ocket\.?\s?[Tt]imeout",
        r"ncclSystemError|unhandled system error",
        r"DistNetworkError|DistStoreError|EADDRINUSE",
        r"client socket has (timed out|failed to connect)|Rendezvous\w*Error",
        r"the first node published no address",  # cluster/rendezvous.py
    ),
    # What ranks say when another has gone: NCCL, gloo, sockets, c10d.
    _rule(
        "parted",
        Weight.PARTED,
        Cause.NETWORK,
        r"remote process exited|nccl\w+Error|NCCL WARN|communicator was aborted|DistBackendError",
        r"[Cc]onnection (closed|reset|refused|aborted)|Connection\w+Error|Broken ?[Pp]ipe",
        r"[Gg]loo/transport|Gloo \w+ failed|\[Errno (32|103|104|111)\]",
    ),
    # cluster/program.py: a clear line, and an exit code that says who is to mend it.
    _rule("our own line", Weight.CAUSE, None, r"^error: "),
    # Any exception that ends a Python program, as its traceback's last line begins.
    _rule("traceback", Weight.CRASH, Cause.USER_ERROR, r"^([\w.]+\.)?[A-Z]\w*(Error|Exception)\b"),
    _rule("exception", Weight.CRASH, Cause.USER_ERROR, r"^Exception: "),
)

# torch's and srun's marks of the rank, Ray's of the process.
PREFIX = re.compile(r"^\s*(\[(rank|default)\d+\]:\s*|\d+: |\([^)]*pid=\d+[^)]*\)\s*)*")
# What was said before a step was done did not end the program.
WENT_ON = re.compile(
    r"\b(step|iter|iteration|epoch)\b\W+\d+.*\bloss\b|\bpublished step-\d+|\bvalidation loss ",
    re.IGNORECASE,
)


def find(lines: Iterable[str]) -> list[Finding]:
    """What rules find in a log since the program last went on; what explains most comes first."""
    findings: list[Finding] = []
    for line in lines:
        text = PREFIX.sub("", line.rstrip())
        rule = next((rule for rule in RULES if rule.pattern.search(text)), None)
        if rule is None:
            if WENT_ON.search(text):
                findings.clear()
        elif rule.weight != Weight.NOTHING:
            findings.append(Finding(rule, text))
    return sorted(findings, key=lambda finding: finding.rule.weight)
