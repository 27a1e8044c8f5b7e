"""SLURM's commands as small scripts on the PATH: they note how they are called, and answer."""

import shutil
from pathlib import Path

import pytest


class FakeSlurm:
    """A login node whose scheduler does what a test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin = folder / "bin"
        self.log = folder / "calls"
        self.bin.mkdir()
        self.log.touch()
        for name in ("cat", "touch"):  # all that the scripts need, for a real SLURM may be there
            (self.bin / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        monkeypatch.delenv("LETTERPRESS_SITE", raising=False)
        monkeypatch.delenv("SLURM_CONF", raising=False)

    def answers(self, command: str, stdout: str = "", stderr: str = "", code: int = 0) -> None:
        """From now on a command prints this and ends so."""
        self.does(command, f"printf '%s' '{stdout}'; printf '%s' '{stderr}' >&2; exit {code}")

    def does(self, command: str, script: str) -> None:
        """From now on a command is this script."""
        path = self.bin / command
        path.write_text(f'#!/bin/sh\necho "{command} $*" >> "{self.log}"\n{script}\n')
        path.chmod(0o755)

    def calls(self, command: str = "") -> list[str]:
        """How the commands were called, in order."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(command)]
