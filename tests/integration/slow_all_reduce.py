"""The program that makes all-reduces, on a node whose link is slow or dead."""

import os
import sys
import time
from typing import Any

import torch.distributed as dist

from cluster.preflight import all_reduce

DELAY_S = 2.0  # over three times what the others take, on a busy machine too

real = dist.all_reduce


def slow(*values: Any, **options: Any) -> Any:
    """An all-reduce over a link that takes its time."""
    time.sleep(DELAY_S)
    return real(*values, **options)


def dead(*values: Any, **options: Any) -> Any:
    """A node that falls over when it is needed."""
    os._exit(1)


if __name__ == "__main__":
    dist.all_reduce = slow if sys.argv.pop(1) == "slow" else dead
    all_reduce.main()
