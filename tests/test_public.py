"""What others may import: every package says it in `__all__`, docs/api.md says which of it is stable."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = [Path(*name.split(".")[1:]) for name in PROJECT["tool"]["setuptools"]["packages"] if "." in name]
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))
API = (ROOT / "docs" / "api.md").read_text()


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["evorank", *(part for part in parts if part != "__init__")])


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def exported(tree: ast.Module) -> set[str] | None:
    """The names in `__all__`; None: it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return {name.value for name in node.value.elts}
    return None


PUBLIC = {name_of(path): exported(tree_of(path)) for path in MODULES}
STABLE = {
    name: set(re.findall(r"^- `(\w+)`", section, re.MULTILINE))
    for name, section in re.findall(r"^## `([\w.]+)`\n(.*?)(?=^## |\Z)", API, re.MULTILINE | re.DOTALL)
}


def test_every_module_that_defines_something_says_what_of_it_is_for_others() -> None:
    scripts = {"evorank.tools.evaluator.trial", "evorank.tools.sql_worker"}  # run by path, never imported
    for path in MODULES:
        defines = any(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in tree_of(path).body)
        if defines and name_of(path) not in scripts:
            assert PUBLIC[name_of(path)] is not None, f"{path} has no __all__"


def test_what_one_package_takes_from_another_is_for_others() -> None:
    for path in MODULES:
        mine = name_of(path).split(".")[1]
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("evorank."):
                continue
            names = PUBLIC.get(node.module)
            if node.module.split(".")[1] == mine or names is None:
                continue
            missing = {alias.name for alias in node.names} - names
            missing = {name for name in missing if f"{node.module}.{name}" not in PUBLIC}
            assert not missing, f"{path} imports {missing} from {node.module}: not in its __all__"


@pytest.mark.parametrize("name", sorted(STABLE))
def test_what_is_called_stable_is_there_and_described(name: str) -> None:
    module = importlib.import_module(name)
    assert STABLE[name], f"docs/api.md lists nothing of {name}"
    for each in STABLE[name]:
        assert each in (PUBLIC[name] or ()), f"{name}.{each} is in docs/api.md and not in __all__"
        found = getattr(module, each)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert (found.__doc__ or "").strip(), f"{name}.{each} has no docstring"


def test_all_of_the_main_package_is_stable_and_can_be_imported_by_itself() -> None:
    graph = importlib.import_module("evorank.graph")
    assert STABLE["evorank.graph"] == set(graph.__all__) == set(dir(graph))
    with pytest.raises(AttributeError, match="no_such_name"):
        graph.no_such_name  # noqa: B018


def test_the_changelog_begins_with_this_version_and_versions_are_semantic() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", PROJECT["project"]["version"])
    assert PROJECT["project"]["version"] in headings
    for heading in set(headings) - {"Unreleased"}:
        assert re.fullmatch(r"\d+\.\d+\.\d+", heading)
