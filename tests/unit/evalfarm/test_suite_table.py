"""The table of suites says what each asks and what it lacks here."""

from pathlib import Path

from evalfarm.config import EvalConfig
from evalfarm.suite_files import suite_names
from evalfarm.suite_table import suite_table
from trainer.models.config import NetworksConfig

METRICS = ("ocr", "clip_score", "frechet")


def test_the_suites_that_come_along_name_metrics_that_there_are(tmp_path: Path) -> None:
    table = suite_table(suite_names(), EvalConfig(suite_data=tmp_path))
    rows = [line.split()[0] for line in table.splitlines()[1 : len(suite_names()) + 1]]
    assert rows == suite_names()  # an unknown metric would be an error


def test_a_suite_is_a_row_and_what_it_lacks_is_a_line(tiny_model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "{name: mine, lines: {path: list.txt}, metrics: [ocr], samples_per_prompt: 4,"
        " sampler: pndm, guidance: 5}"
    )
    names = ["mini", str(mine)]
    head, mini, row, *lines = suite_table(names, EvalConfig(suite_data=tmp_path)).splitlines()
    assert head.split() == [
        "prompts",
        "pictures",
        "sampler",
        "steps",
        "guidance",
        "size",
        "metrics",
    ]
    assert mini.split() == ["mini", "48", "48", "ddim", "20", "3", "96x32", *METRICS]
    assert row.split() == ["mine", "–", "–", "pndm", "50", "5", "512x512", "ocr"]
    without, missing = sorted(lines, reverse=True)
    assert without == "suite mini: without clip_score, frechet: set eval.networks.clip"
    assert missing.startswith(f"suite mine: {tmp_path / 'list.txt'} does not exist")

    (tmp_path / "list.txt").write_text("a 'cat'\na 'dog'\n")
    networks = NetworksConfig(clip=str(tiny_model / "clip"))
    config = EvalConfig(suite_data=tmp_path, networks=networks)
    _, _, row, *lines = suite_table(names, config).splitlines()
    assert row.split()[:3] == ["mine", "2", "8"]
    assert lines == []
