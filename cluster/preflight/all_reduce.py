"""All-reduce with another node, timed: a process per GPU, or one on a node without.

    python -m cluster.preflight.all_reduce (gloo|nccl) LOCAL_RANK

A program of its own, for it needs torch. It says torch's version once that is imported; then each
line on its standard input is a meeting, answered by how many seconds an all-reduce took there, or
by null, with the reason on standard error.
"""

import json
import os
import sys
import time
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

# Enough that its time is the link's and not the latency's: 13 ms on 10 Gb/s Ethernet.
GLOO_BYTES = 16 << 20
NCCL_BYTES = 512 << 20
REPEATS = 3  # the quickest counts: other work on the machine only ever adds


def main() -> None:
    """Answer each line until there are no more."""
    backend, local_rank = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # NCCL and others print to standard output
    print(json.dumps(torch.__version__), file=answers, flush=True)
    for line in sys.stdin:
        seconds = None
        try:
            seconds = _meet(backend, local_rank, **json.loads(line))
        except (RuntimeError, ValueError):  # torch.distributed's are RuntimeErrors
            traceback.print_exc()
        print(json.dumps(seconds), file=answers, flush=True)


def _meet(
    backend: str, local_rank: int, *, address: str, first_rank: int, ranks: int, limit_s: float
) -> float:
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address}",
        rank=first_rank + local_rank,
        world_size=ranks,
        timeout=timedelta(seconds=limit_s),
    )
    try:
        return time_all_reduce(device, NCCL_BYTES if backend == "nccl" else GLOO_BYTES)
    finally:
        dist.destroy_process_group()


def time_all_reduce(device: torch.device, size_bytes: int) -> float:
    """Seconds of the quickest of some all-reduces; RuntimeError if a sum is wrong."""
    ranks = dist.get_world_size()
    seconds = []
    for _ in range(REPEATS + 1):  # the first makes the connections
        values = torch.ones(size_bytes // 4, device=device)
        started_s = time.monotonic()
        dist.all_reduce(values)
        total = values.sum(dtype=torch.float64).item()  # waits for the GPU
        seconds.append(time.monotonic() - started_s)
        if total != ranks * len(values):
            raise RuntimeError(f"the sum of {ranks} ones came to {total / len(values)}")
    return min(seconds[1:])


if __name__ == "__main__":
    main()
