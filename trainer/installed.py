"""What torch and DeepSpeed say of themselves and of this machine's GPUs, as one line of JSON.

    python -m trainer.installed

For those who may not import them (`letterpress doctor`). A GPU counts as good once it has added.
"""

import json
from typing import Any

import torch
from torch import distributed


def installed() -> dict[str, Any]:
    """Versions, what torch was built with, and what is wrong: null where nothing is."""
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": _nccl_version(),
        "gloo": distributed.is_available() and distributed.is_gloo_available(),
        "gpu_fault": _gpu_fault() if torch.version.cuda else None,
        **_deepspeed(),
    }


def _nccl_version() -> str | None:
    if not (torch.version.cuda and distributed.is_nccl_available()):
        return None
    from torch.cuda import nccl

    return ".".join(map(str, nccl.version()))


def _gpu_fault() -> str | None:
    """What the first GPU that cannot add says: a driver too old, a kernel not built for it."""
    try:
        torch.cuda.init()
        for number in range(torch.cuda.device_count()):
            (torch.ones(1, device=f"cuda:{number}") + 1).item()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return None


def _deepspeed() -> dict[str, str | None]:
    try:
        import deepspeed
    except Exception as error:  # it runs its accelerators' code when it is imported
        return {"deepspeed": None, "deepspeed_fault": f"{type(error).__name__}: {error}"}
    return {"deepspeed": deepspeed.__version__, "deepspeed_fault": None}


if __name__ == "__main__":
    found = installed()  # first: DeepSpeed prints while it is imported
    print(json.dumps(found))
