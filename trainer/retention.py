"""Which checkpoints stay: the newest, and the best."""

from collections.abc import Callable, Sequence

from cluster.run_folder import Permit, RunFolder, anyone, published_steps, remove_step
from trainer.checkpoint import Checkpoint
from trainer.config import KeepConfig
from trainer.early_stop import Series, read_series


def remove_old(run: RunFolder, step: int, config: KeepConfig, permit: Permit = anyone) -> list[int]:
    """Remove the checkpoints that `config` does not keep, once that of `step` is complete.

    The steps that were removed. Checkpoints of later steps are broken, or `step` would not have
    been saved again: they count for nothing until they are replaced.
    """
    steps = [saved for saved, _ in published_steps(run.checkpoints) if saved <= step]

    def series() -> Series:
        return read_series(run, config.metric, Checkpoint(run.checkpoint(step)).history)

    removed = retired(steps, config, series)
    for old in removed:
        remove_step(run.checkpoint(old), permit)
    return removed


def retired(steps: Sequence[int], config: KeepConfig, series: Callable[[], Series]) -> list[int]:
    """Which of the checkpoints at `steps`, oldest first, are to be removed.

    What is best counts among those that are still there and have a value.
    """
    if not config.newest or len(steps) <= config.newest:
        return []
    kept = set(steps[-config.newest :])
    if config.best:
        known = series()
        there = {step: value for step, value in known.values.items() if step in steps}
        kept |= set(known._replace(values=there).best(config.best))
    return [step for step in steps if step not in kept]
