"""What lines of a log say about why a program ended: ordered rules, of which the first counts.

Each rule's comment says whose words they are; `python -m benchmarks.verdicts`, how well they do.
"""

from cluster.verdict.log_rules import Weight, rule
from cluster.verdict.verdict import Cause

# Xids whose remedy is to drain the node: memory 48 63 64 94 95, NVLink 74, bus 79, GSP 119 120 …
# 13, 31, 43 and 45 are a program's own (NVIDIA, "XID Errors").
XIDS = "48|61|62|63|64|74|79|92|94|95|109|110|119|120|122|123|124|125|136|140|143"

NOISE = (
    # NCCL's log level, Python's and c10d's warnings, urllib3's retries, stacks.
    rule(
        "chatter",
        Weight.NOTHING,
        Cause.UNKNOWN,
        r"NCCL INFO|\b\w*Warning: |^(WARNING|warning:|\[W)|\b[Rr]etry(ing)?\b",
        r"^(File \"|frame #)",
    ),
    # Summaries of what a rank has said before: torchrun, DeepSpeed's launcher, C++'s runtime.
    rule(
        "summary",
        Weight.NOTHING,
        Cause.UNKNOWN,
        r"ChildFailedError|sigkill_handler|^terminate called|^KeyboardInterrupt",
    ),
)

SCHEDULER = (
    # slurmstepd, for the signals that slurmctld sends.
    rule(
        "taken back",
        Weight.CAUSE,
        Cause.PREEMPTED,
        r"CANCELLED AT \S+ DUE TO (TIME LIMIT|PREEMPTION|JOB REQUEUE)",
    ),
    # srun, slurmstepd.
    rule(
        "lost node",
        Weight.CAUSE,
        Cause.HARDWARE,
        r"Node failure on (?P<node>\S+)|CANCELLED AT \S+ DUE TO NODE FAILURE",
        r"launch for \S+ failed on node (?P<where>[^\s:]+)",
    ),
    # srun, while SLURM's controller is away.
    rule(
        "no answer of SLURM",
        Weight.CAUSE,
        Cause.NETWORK,
        r"srun: error: Unable to .*: (Socket timed out|Unable to contact|Connection refused)",
        r"srun: error: Unable to .*: (Zero Bytes were transmitted|Connection timed out)",
    ),
    # srun, sbatch: what was asked for cannot be had.
    rule(
        "refused request",
        Weight.CAUSE,
        Cause.USER_ERROR,
        r"error: Unable to (create step|allocate resources)|error: Batch job submission failed",
        r"^srun: (unrecognized|invalid) option|^srun: option .* requires an argument",
    ),
    # Ray's driver: raylets that do not answer, actors whose node is gone.
    rule(
        "lost node of Ray",
        Weight.CAUSE,
        Cause.HARDWARE,
        r"has been marked dead because|NodeDiedError|LocalRayletDiedError|node has crashed",
        r"the node it was running on is dead|because its node has died",
    ),
)

HARDWARE = (
    # The NVIDIA driver in the kernel's log, where a wrapper or a container copies it.
    rule(
        "driver",
        Weight.CAUSE,
        Cause.HARDWARE,
        rf"NVRM: Xid \(.*?\): ({XIDS}),|NVRM: RmInitAdapter failed|NV_ERR_RESET_REQUIRED",
        r"fallen off the bus",
    ),
    # NVML: nvidia-smi, pynvml, slurmstepd.
    rule(
        "NVML",
        Weight.CAUSE,
        Cause.HARDWARE,
        r"GPU is lost|GPU requires reset|Unable to determine the device handle",
        r"Driver/library version mismatch",
    ),
    # CUDA's runtime by its error strings: cudaErrorECCUncorrectable and its neighbours.
    rule(
        "chip",
        Weight.CAUSE,
        Cause.HARDWARE,
        r"uncorrectable (ECC|NVLink)|ECC_UNCORRECTABLE|double bit error|hardware stack error",
    ),
    # The same, and torch.cuda, where a node offers no GPU that works.
    rule(
        "no device",
        Weight.CAUSE,
        Cause.HARDWARE,
        r"CUDA-capable device.* busy or unavailable|no CUDA-capable device is detected",
        r"No CUDA GPUs are available|CUDA unknown error - this may be due to",
        r"system not yet initialized|Fabric Manager or NVSwitches",
    ),
    # Linux: machine checks and AER.
    rule(
        "machine check",
        Weight.CAUSE,
        Cause.HARDWARE,
        r"\[Hardware Error\]|PCIe Bus Error: severity=Uncorrect",
    ),
    # torch's shared memory, whose file system is memory: before the rule for full disks.
    rule("full /dev/shm", Weight.CAUSE, Cause.OUT_OF_MEMORY, r"</torch_\d+|shared memory\(shm\)"),
    # errno, as Python's OSError prints it and as glibc's strerror does: EIO, ENXIO, ENODEV, EROFS,
    # EBADMSG, ENOTCONN, ESHUTDOWN, ESTALE, EUCLEAN, EREMOTEIO; the kernel's NFS client.
    rule(
        "storage of a node",
        Weight.CAUSE,
        Cause.HARDWARE,
        r"\[Errno (5|6|19|30|74|107|108|116|117|121)\]",
        r"(Input/output|I/O) error|Read-only file system|Stale (NFS )?file handle",
        r"Structure needs cleaning|[Tt]ransport endpoint (shutdown|is not connected)",
        r"nfs: server \S+ not responding",
    ),
)

MEMORY = (
    # The kernel's OOM killer, slurmstepd, srun, Ray's memory monitor and object store.
    rule(
        "killed for memory",
        Weight.CAUSE,
        Cause.OUT_OF_MEMORY,
        r"\boom[-_]kill|Memory cgroup out of memory|Out of memory: Killed process",
        r"error: (?P<node>\S+): tasks? \S+: Out Of Memory|Exceeded (job|step) memory limit",
        r"running low on memory|due to memory pressure|ObjectStoreFullError",
    ),
    # torch's allocators, the CUDA runtime and its libraries, NCCL.
    rule(
        "no memory on the GPU",
        Weight.CAUSE,
        Cause.OUT_OF_MEMORY,
        r"\bout of memory\b|STATUS_ALLOC_FAILED|OutOfMemoryError",
    ),
    # torch's loader, malloc, fork, numpy, C++.
    rule(
        "no memory on the node",
        Weight.CAUSE,
        Cause.OUT_OF_MEMORY,
        r"killed by signal: (Killed|Bus error)|insufficient shared memory",
        r"[Cc]an(no|')t allocate memory|[Uu]nable to allocate|\[Errno 12\]",
        r"^MemoryError|std::bad_alloc",
    ),
)

MISTAKES = (
    # errno ENOSPC and EDQUOT; torch.save on a full disk; SQLite; Ray.
    rule(
        "full storage",
        Weight.CAUSE,
        Cause.USER_ERROR,
        r"\[Errno (28|122)\]|No space left on device|Disk quota exceeded|disk is full",
        r"inline_container\.cc.* unexpected pos|OutOfDiskError",
    ),
    # CUDA's runtime: what the program does, or was built for, cannot be.
    rule(
        "kernel's mistake",
        Weight.CAUSE,
        Cause.USER_ERROR,
        r"device-side assert|: block: \[.*Assertion .* failed",
        r"illegal memory access|misaligned address|invalid program counter",
    ),
    rule(
        "wrong build",
        Weight.CAUSE,
        Cause.USER_ERROR,
        r"no kernel image is available|invalid device (ordinal|function)",
        r"driver (on your system is too old|version is insufficient)",
    ),
    # NCCL's result codes, and what precedes them.
    rule(
        "misused NCCL",
        Weight.CAUSE,
        Cause.USER_ERROR,
        r"ncclInvalid(Usage|Argument)|invalid usage|Duplicate GPU detected",
    ),
    # cluster/program.py: a clear line, and an exit code that says who is to mend it.
    rule("our own line", Weight.CAUSE, None, r"^error: (?!the first node published)"),
)

UNEXPLAINED = (
    # CUDA, cuBLAS, cuDNN: errors that fit a bad chip as well as a bad kernel.
    rule(
        "CUDA",
        Weight.CRASH,
        Cause.UNKNOWN,
        r"unspecified launch failure|CUDA error: (unknown|initialization) error",
        r"the launch timed out|CUBLAS_STATUS_|CUDNN_STATUS_|unhandled cuda error",
    ),
    # CPython's faulthandler, glibc, shells.
    rule(
        "native crash",
        Weight.CRASH,
        Cause.UNKNOWN,
        r"^Fatal Python error:|[Ss]egmentation fault|Segfault encountered|\(core dumped\)",
    ),
    # torch, of itself.
    rule("bug of torch", Weight.CRASH, Cause.UNKNOWN, r"INTERNAL ASSERT FAILED"),
    # Ray, of workers of which it knows no more.
    rule(
        "Ray",
        Weight.CRASH,
        Cause.UNKNOWN,
        r"(ActorDied|RayActor|WorkerCrashed)Error|because its worker process has died",
    ),
)

SEEN_OF_OTHERS = (
    # ProcessGroupNCCL's watchdog and its monitor, gloo's buffers, monitored_barrier, Ray.
    rule(
        "waited for others",
        Weight.WAIT,
        Cause.HANG,
        r"Watchdog caught collective operation timeout|watchdog got stuck",
        r"failure detected by watchdog|due to a collective timeout|Timeout at collective",
        r"Timed out waiting \d+ms for (recv|send) operation|failed to pass monitoredBarrier",
        r"ray\.exceptions\.GetTimeoutError",
    ),
    # NCCL's transports and sockets, c10d's store, torchrun's rendezvous, cluster/rendezvous.py;
    # errno from EADDRINUSE to EHOSTUNREACH, getaddrinfo.
    rule(
        "failed link",
        Weight.LINK,
        Cause.NETWORK,
        r"NCCL WARN (NET/|socket)|ibv_\w+ failed|ncclSystemError|unhandled system error",
        r"DistNetworkError|DistStoreError|Rendezvous\w*Error|the first node published no address",
        r"client socket has (timed out|failed to connect)|[Ss]ocket\.?\s?[Tt]imeout",
        r"\[Errno (98|99|100|101|110|112|113)\]|EADDRINUSE|[Aa]ddress already in use",
        r"No route to host|[Nn]etwork is (unreachable|down)|[Cc]onnection timed out",
        r"gaierror|[Nn]ame ?[Rr]esolution|Name or service not known|Unable to find address",
    ),
    # What ranks say when another has gone: NCCL, gloo, sockets, c10d, Python's pipes.
    rule(
        "parted",
        Weight.PARTED,
        Cause.NETWORK,
        r"remote process exited|nccl\w+Error|NCCL WARN|communicator was aborted|DistBackendError",
        r"[Cc]onnection (closed|reset|refused|aborted)|Connection\w*Error|Broken ?[Pp]ipe",
        r"[Gg]loo/transport|Gloo \w+ failed|\[Errno (32|103|104|111)\]|^EOFError",
    ),
)

CRASHES = (
    # Any exception that ends a Python program, as its traceback's last line begins; argparse.
    rule(
        "traceback",
        Weight.CRASH,
        Cause.USER_ERROR,
        r"^([\w.]+\.)?[A-Z]\w*(Error|Exception)\b|^Exception: |No module named",
        r": error: (unrecognized arguments|the following arguments|argument )",
    ),
)

RULES = (
    *NOISE,
    *SCHEDULER,
    *HARDWARE,
    *MEMORY,
    *MISTAKES,
    *UNEXPLAINED,
    *SEEN_OF_OTHERS,
    *CRASHES,
)
