from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import evorank.model
from evorank.model.errors import LockError
from evorank.tools.evaluator.readable import readable_code

CHECKOUT = Path(evorank.model.__path__[0]).resolve().parent


def covers(folders, path):
    path = Path(path).resolve()
    return any(folder == path or folder in path.parents for folder in folders)


def test_code_that_is_imported_late_is_readable():
    import duckdb
    import numpy
    import torch

    folders = readable_code()
    for module in (subprocess, numpy, torch, duckdb, evorank.model, evorank.tools.evaluator.readable):
        assert covers(folders, (getattr(module, "__file__", None) or module.__path__[0])), module


def test_all_exist_are_resolved_and_none_lies_below_another():
    folders = readable_code()
    for folder in folders:
        assert folder.exists()
        assert folder == folder.resolve()
        assert not any(other in folder.parents for other in folders)


def test_neither_the_checkout_nor_its_tests_nor_homes_in_it_are_readable(tmp_path):
    folders = readable_code()
    for secret in (CHECKOUT, CHECKOUT / ".evorank", CHECKOUT / "tests", CHECKOUT / ".git", tmp_path, "/etc"):
        assert not covers(folders, secret), secret
    assert readable_code(hidden=[CHECKOUT / ".evorank", tmp_path]) == folders


def test_a_users_own_system_is_readable_as_a_folder_or_a_single_file(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "ranker.py").touch()
    home = tmp_path / ".evorank"
    folders = readable_code([tmp_path / "package", tmp_path / "ranker.py"], hidden=[home])
    assert {tmp_path / "package", tmp_path / "ranker.py"} <= set(folders)


@pytest.mark.parametrize("home", [".", ".evorank", "deep/down/.evorank"])
def test_a_home_within_readable_code_is_refused_with_what_to_do(tmp_path, home):
    with pytest.raises(LockError, match="--home"):
        readable_code([tmp_path], hidden=[tmp_path / home])


def test_a_link_does_not_hide_where_a_home_lies(tmp_path):
    (tmp_path / "code" / "home").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "code" / "home")
    with pytest.raises(LockError):
        readable_code([tmp_path / "code"], hidden=[tmp_path / "link"])
    (tmp_path / "away").symlink_to(tmp_path / "code")
    with pytest.raises(LockError):
        readable_code([tmp_path / "away"], hidden=[tmp_path / "code" / "home"])


def test_a_virtual_environment_inside_the_checkout_is_readable_without_the_checkout(tmp_path):
    venv = tmp_path / "checkout" / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    code = (
        f"import sys; sys.path[:0] = {[*sys.path, str(CHECKOUT / '.pkg')]!r}\n"
        "from evorank.tools.evaluator.readable import readable_code\n"
        "print(*readable_code(), sep='\\n')"
    )
    shown = subprocess.run([venv / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    folders = [Path(line) for line in shown.stdout.splitlines()]
    assert any(venv in folder.parents for folder in folders)
    assert not covers(folders, tmp_path / "checkout" / ".evorank")
