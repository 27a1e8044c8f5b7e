"""How long a rank works on a step before it has to wait for the others.

From the backward pass on, all ranks take the time of the slowest. What comes before is a rank's
own: reading samples, the frozen networks, the forward pass. (At ZeRO stage 3 the forward pass
gathers weights, so that it waits, too, and a slow rank shows less.)
"""

import time
from types import TracebackType

import torch


class OwnTime:
    """Adds up the seconds inside its `with` blocks, on the GPU by events that nobody waits for."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._began_s = 0.0
        self._spent_s = 0.0

    def __enter__(self) -> None:
        if self._on_gpu:
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            self._events.append((began, ended))
        self._began_s = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._on_gpu:
            self._events[-1][1].record()
        else:
            self._spent_s += time.perf_counter() - self._began_s

    def take_s(self) -> float:
        """The seconds since this was last asked. The GPU must have come to the end of them."""
        on_gpu_ms: float = sum(began.elapsed_time(ended) for began, ended in self._events)
        spent_s = self._spent_s + on_gpu_ms / 1000
        self._spent_s, self._events = 0.0, []
        return spent_s
