"""Who does the work: a name, a device and versions, as the ledger keeps them."""

import json
import os
import socket
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from evalfarm.rows import WorkerFacts

PACKAGES = ("letterpress", "torch", "diffusers", "transformers", "paddleocr", "onnxruntime")
"""Those whose version may change a picture or a number."""


def worker_facts(kind: str, device: str) -> WorkerFacts:
    """The facts of this process; its name holds where and when it started."""
    started = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return WorkerFacts(
        worker=f"{socket.gethostname()}:{kind}:{started}:{os.getpid()}",
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        versions=_versions(),
    )


@cache
def _versions() -> str:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout, or not needed here
            continue
    return json.dumps(found)
