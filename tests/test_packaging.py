"""The wheel is the product: it must hold every folder, template and persona, and run on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in listed.splitlines()]


def test_every_folder_with_an_init_is_listed_as_a_package() -> None:
    folders = {path.parent for path in _tracked() if path.name == "__init__.py"}
    expected = {".".join(["evorank", *folder.parts]) for folder in folders} | {"evorank"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected


def test_nothing_that_would_ship_by_accident_lies_at_the_root() -> None:
    assert not (ROOT / "__init__.py").exists()
    assert not (ROOT / "conftest.py").exists()


def test_mypy_sees_every_package_through_a_link() -> None:
    links = {path.name for path in (ROOT / ".pkg" / "evorank").iterdir()} - {"__pycache__"}
    tops = {name.split(".")[1] for name in PROJECT["tool"]["setuptools"]["packages"] if "." in name}
    assert tops | {path.name for path in ROOT.glob("*.py")} | {"py.typed"} == links
    for name in links:
        link = ROOT / ".pkg" / "evorank" / name
        assert link.is_symlink(), f"{link} is a copy: mypy would check yesterday's code"
        assert link.resolve() == ROOT / name


def test_the_pinned_versions_satisfy_the_declared_ranges() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    pins = {canonicalize_name(name): pin for name, pin in pairs}
    for text in PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} has no pin in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} is outside {text}"


@pytest.mark.heavy
def test_the_wheel_runs_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for path in _tracked():
        if (ROOT / path).is_file():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes((ROOT / path).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("evorank-*.whl")

    shipped = set(zipfile.ZipFile(wheel).namelist())
    data = [p for p in _tracked() if p.parts[0] in {"personas", "prompts", "ui"} and p.suffix != ".py"]
    assert data, "personas and templates are tracked"
    for path in [*data, Path("py.typed"), Path("cli.py")]:
        assert f"evorank/{path}" in shipped
    assert not [name for name in shipped if name.startswith(("evorank/tests", "tests", "evorank/benchmarks"))]

    venv.create(tmp_path / "venv", with_pip=False)
    python, clean = tmp_path / "venv" / "bin" / "python", os.environ | {"PYTHONPATH": ""}
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        env=clean,
    )
    # The dependencies are those of this environment; evorank itself comes from the wheel alone.
    (purelib,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (purelib / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    where = subprocess.run(
        [str(python), "-c", "import evorank.cli; print(evorank.cli.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=clean,
    ).stdout
    assert where.startswith(str(purelib))
    shown = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "evorank"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=clean,
    )
    assert shown.returncode == 0, shown.stderr
    assert "run" in shown.stdout
    assert "journal" in shown.stdout
