"""All ranks' logs as one."""

from pathlib import Path

import pytest

from cluster.run_folder import AttemptFolder, RunFolder, write_json, write_text
from launcher.view.merged_log import RankLog, print_merged


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptFolder:
    run = RunFolder(tmp_path)
    attempt = run.attempt(run.begin_attempt())
    for rank, node in enumerate(("n1", "n2")):
        write_json(attempt.heartbeat(rank), {"rank": rank, "node": node, "phase": "train"})
    return attempt


def test_lines_come_by_time_with_node_and_rank_and_tracebacks_stay_together(
    attempt: AttemptFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(
        attempt.rank_log(0),
        "10:00:00 loads\n10:00:09 fails\nTraceback (most recent call last):\nOSError: gone\n",
    )
    write_text(attempt.rank_log(1), "10:00:05 loads\n10:00:12 waits\n10:00:13 is half wri")
    print_merged(attempt, follow=False)
    assert capsys.readouterr().out.splitlines() == [
        "n1:0  10:00:00 loads",
        "n2:1  10:00:05 loads",
        "n1:0  10:00:09 fails",
        "n1:0  Traceback (most recent call last):",
        "n1:0  OSError: gone",
        "n2:1  10:00:12 waits",
    ]


def test_a_night_is_crossed_in_order(
    attempt: AttemptFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(attempt.rank_log(0), "23:59:59 late\n00:00:03 early\n")
    write_text(attempt.rank_log(1), "23:59:58 late\n00:00:01 early\n")
    print_merged(attempt, follow=False)
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["n2:1", "n1:0", "n2:1", "n1:0"]


def test_a_log_that_grows_is_read_on_from_where_it_was(attempt: AttemptFolder) -> None:
    write_text(attempt.rank_log(0), "10:00:00 one\n10:00:01 tw")
    log = RankLog(attempt.rank_log(0))
    assert [line.text for line in log.new_lines(ended=False)] == ["10:00:00 one"]
    with attempt.rank_log(0).open("a") as file:
        file.write("o\n")
        file.write("and its last wor")
    assert [line.text for line in log.new_lines(ended=False)] == ["10:00:01 two"]
    assert [line.text for line in log.new_lines(ended=True)] == ["and its last wor"]
