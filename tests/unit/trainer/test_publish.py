"""What a kill cut short is finished when the run goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.exit_codes import Superseded
from cluster.run_folder import LATEST, RunFolder, publish, published_steps, staging_folder
from tests.conftest import train_config
from trainer.config import KeepConfig
from trainer.publish import Publisher

ALONE: Any = SimpleNamespace(is_main=True, share=lambda value: value, barrier=lambda: None)
NOTHING: Any = SimpleNamespace(family=None, prediction=None)


def publish_all(run: RunFolder, step: int) -> None:
    """A checkpoint and an export; of step 0 the export alone."""
    facts = {"step": step, "shapes": {}, "history": {}}
    for final in (run.checkpoint(step), run.export(step)) if step else (run.export(0),):
        staging = staging_folder(final, attempt=0)
        staging.mkdir(parents=True)
        publish(staging, final, facts)


@pytest.mark.parametrize("steps", [(0, 2, 4), (0, 2), (0,)])
def test_what_a_kill_cut_short_is_finished_at_the_start(
    steps: tuple[int, ...], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    for step in steps:
        publish_all(run, step)
    # The kill came before LATEST named what was published, and before the old was removed.
    for parent in (run.checkpoints, run.exports):
        (parent / LATEST).unlink(missing_ok=True)
    config = train_config(tmp_path, keep=KeepConfig(newest=1))
    publisher = Publisher(run, 1, config, ALONE, SimpleNamespace(note=print), NOTHING)  # type: ignore[arg-type]
    publisher.sweep()
    checkpoint, _ = publisher.newest_checkpoint()

    last = steps[-1]
    assert (checkpoint.step if checkpoint else 0) == last
    assert [step for step, _ in published_steps(run.checkpoints)] == ([last] if last else [])
    assert [step for step, _ in published_steps(run.exports)] == list(steps)
    assert (run.exports / LATEST).read_text().strip() == run.export(last).name
    if last:
        assert (run.checkpoints / LATEST).read_text().strip() == run.checkpoint(last).name
    publisher.close()


def test_nothing_is_removed_before_its_successor_is_exported(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    publish_all(run, 2)
    publish_all(run, 4)
    (run.export(4) / "manifest.json").unlink()
    config = train_config(tmp_path, keep=KeepConfig(newest=1))
    publisher = Publisher(run, 1, config, ALONE, SimpleNamespace(note=print), NOTHING)  # type: ignore[arg-type]
    publisher.newest_checkpoint()
    assert [step for step, _ in published_steps(run.checkpoints)] == [2, 4]
    publisher.close()


def test_an_attempt_that_is_superseded_sweeps_nothing_and_removes_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin_attempt()
    publish_all(run, 2)
    publish_all(run, 4)
    config = train_config(tmp_path, keep=KeepConfig(newest=1))
    publisher = Publisher(run, 0, config, ALONE, SimpleNamespace(note=print), NOTHING)  # type: ignore[arg-type]
    run.begin_attempt()
    under_way = staging_folder(run.checkpoint(6), attempt=1)
    under_way.mkdir()
    for act in (publisher.sweep, publisher.newest_checkpoint):
        with pytest.raises(Superseded):
            act()
    assert under_way.is_dir()
    assert [step for step, _ in published_steps(run.checkpoints)] == [2, 4]
    publisher.close()
