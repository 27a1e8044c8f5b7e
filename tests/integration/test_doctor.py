"""The doctor on this machine, by the programs that are really here."""

from pathlib import Path

import pytest

from cluster.exit_codes import ExitCode
from launcher.doctor import examine, page
from launcher.recipe import load_recipe
from tests.conftest import CHECKOUT


def test_what_is_here_is_found_and_what_is_not_is_lacking_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM, no nvidia-smi
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(examine, "IMPORT_S", 120.0)  # what else this machine does is not ours
    recipe = load_recipe(CHECKOUT / "recipes" / "mini.yaml", ["ranks.nodes=2"])
    text, code = page.doctor(recipe, tmp_path / "runs")
    lines = {line[2:].split("  ")[0]: line for line in text.splitlines()}
    assert "lacks" in lines["SLURM"], text
    assert "no sinfo on PATH" in lines["SLURM"]
    assert "no nvidia-smi on PATH" in lines["GPUs"]
    for name in ("torch", "DeepSpeed", "train.model", "suites", "OCR models"):
        assert "  ok  " in lines[name], text
    assert code == ExitCode.BAD_INPUT
    assert list(tmp_path.iterdir()) == []
