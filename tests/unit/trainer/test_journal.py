"""What could not be judged is counted, and named the first time that it happens."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.hangs.heartbeat import read_heartbeats
from cluster.run_folder import RunFolder
from trainer.distributed import World
from trainer.journal import Journal


def test_counts_are_named_once_whatever_zeros_came_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    number = run.begin_attempt()
    nobody: Any = None
    world = World(rank=0, ranks=1, device=torch.device("cpu"), control=nobody)
    with (
        caplog.at_level(logging.WARNING),
        Journal(run, number, world, steps=1, images_per_step=1) as journal,
    ):
        journal.count({"ocr_unreadable": 0})
        assert not caplog.records
        journal.count({"ocr_unreadable": 5})
        journal.count({"ocr_unreadable": 2, "ocr_too_long": 0})
        journal.beat("ended", step=1)
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == [
        "ocr_unreadable"
    ]
    (beat,) = read_heartbeats(run.attempt(number))
    assert beat["left_out"] == {"ocr_unreadable": 7}
