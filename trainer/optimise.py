"""One plain training loop, for networks that are too small for the trainer's."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig
from trainer.engine import learning_rate


def optimise(
    network: nn.Module, next_loss: Callable[[], Tensor], optim: OptimConfig, steps: int
) -> Iterator[float]:
    """Take AdamW steps on `next_loss`, yielding the loss of each."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, optim, steps)
        loss = next_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def follow(name: str, losses: Iterable[float], steps: int) -> None:
    """Print the mean loss now and then while a network trains."""
    recent: list[float] = []
    for step, loss in enumerate(losses, 1):
        recent.append(loss)
        if step % 200 == 0 or step == steps:
            print(
                f"{name}: step {step} of {steps}, loss {sum(recent) / len(recent):.4f}", flush=True
            )
            recent.clear()
