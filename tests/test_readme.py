"""The README is true: its tree exists, its surface.toml is valid, its commands are commands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from evorank.cli import app
from evorank.graph.settings import Settings
from evorank.surfaces.surface import SurfaceSpec

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def _block(after: str) -> str:
    return README.split(after)[1].split("```")[1].split("\n", 1)[1]


def test_every_file_of_the_tree_exists_and_every_module_of_the_main_folders_is_in_it() -> None:
    folder, named = "", set()
    for line in _block("## The tree").splitlines():
        names = re.findall(r"(?<![\w/.])(?:\w+/|\w+\.py)(?![\w/])", line)
        if not line.startswith(" "):
            folder = names[0] if names[0].endswith("/") else ""
        inside = names[1:] if not line.startswith(" ") and folder else names
        named |= {folder + name for name in inside} | ({folder} if folder else set())
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"in the README's tree only: {missing}"
    for main in ("graph", "tools", "model", "surfaces"):
        for path in (ROOT / main).glob("*.py"):
            assert path.name == "__init__.py" or f"{main}/{path.name}" in named, f"not in the tree: {path}"


def _toml(first: str) -> dict[str, Any]:
    """The TOML of the README that begins so."""
    (text,) = [each for each in re.findall(r"```toml\n(.*?)```", README, re.S) if each.startswith(first)]
    return tomllib.loads(text)


def test_the_settings_file_of_the_readme_is_valid() -> None:
    settings = Settings(**_toml("# evorank.toml"))
    assert settings.models
    assert settings.providers
    assert settings.prices


def test_the_surface_file_of_the_readme_is_valid() -> None:
    spec = SurfaceSpec.model_validate(_toml("name = "))
    assert [feature.name for feature in spec.log.features] == [
        "user_id",
        "item_id",
        "duration_s",
        "recent_items",
    ]


def test_every_command_of_the_readme_is_one() -> None:
    commands = re.findall(r"python cli\.py ([a-z]+)(?: ([a-z]+))?", README)
    assert len(commands) >= 6
    groups = {"surface", "journal", "online", "steer", "inspect"}
    for first, second in commands:
        arguments = [first, second] if first in groups else [first]
        shown = CliRunner().invoke(app, [*arguments, "--help"])
        assert shown.exit_code == 0, f"python cli.py {' '.join(arguments)}"
