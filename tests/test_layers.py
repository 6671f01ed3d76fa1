"""The house has floors: imports point one way, and the parent process starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "model": set(),
    "surfaces": {"model"},
    "prompts": {"model"},
    "tools": {"model", "surfaces", "prompts"},
    "personas": {"model", "prompts"},
    "graph": {"model", "surfaces", "prompts", "tools", "personas"},
    "ui": {"model", "surfaces", "tools", "personas", "graph"},
}
TORCH = {
    Path("model") / name
    for name in (
        "component_trials.py",
        "dense.py",
        "embedding.py",
        "layers.py",
        "network.py",
        "optimizers.py",
        "train.py",
        "updates.py",
    )
}


def _imports(path: Path) -> list[tuple[str, bool]]:
    """(module, at module level) for every import statement of a file."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) in top))
    return found


@pytest.mark.parametrize("folder", FLOORS)
def test_a_folder_imports_only_from_the_floors_below(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for module, _ in _imports(path):
            if module.startswith("evorank."):
                assert module.split(".")[1] in FLOORS[folder] | {folder}, f"{path} imports {module}"


def test_torch_is_imported_at_module_level_only_where_the_network_lives() -> None:
    for folder in FLOORS:
        for path in (ROOT / folder).rglob("*.py"):
            heavy = [module for module, top in _imports(path) if top and module.split(".")[0] == "torch"]
            assert not heavy or path.relative_to(ROOT) in TORCH, path


def test_help_needs_neither_torch_nor_langgraph_nor_google() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from evorank.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'langgraph', 'google.genai', 'duckdb', 'scipy', 'fastapi', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
