"""The direction of imports: launcher > evalfarm > trainer > cluster (docs/design.md)."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("launcher", "evalfarm", "trainer", "cluster")
MAY_IMPORT = {
    "launcher": ("launcher", "cluster", "trainer.config", "evalfarm.config"),
    "evalfarm": ("evalfarm", "cluster", "trainer.models"),
    "trainer": ("trainer", "cluster"),
    "cluster": ("cluster",),
}
TORCH = {"torch", "diffusers", "transformers", "deepspeed", "ray"}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down_only(package: str) -> None:
    for path in sorted((CHECKOUT / package).rglob("*.py")):
        for module in imports_of(path):
            if module.partition(".")[0] in PACKAGES:
                allowed = MAY_IMPORT[package]
                assert any(module == a or module.startswith(f"{a}.") for a in allowed), (
                    f"{path.relative_to(CHECKOUT)} imports {module}; "
                    f"{package} may import {', '.join(allowed)}"
                )


@pytest.mark.parametrize(
    "module", ["launcher.__main__", "launcher.local", "launcher.view.status", "cluster.agent"]
)
def test_launcher_and_agent_start_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({TORCH!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


def test_no_command_goes_through_a_shell() -> None:
    for path in CHECKOUT.rglob("*.py"):
        if path.relative_to(CHECKOUT).parts[0] in PACKAGES:
            assert "shell=True" not in path.read_text(), path
