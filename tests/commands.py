"""Commands as a user types them: in this process, as if in one of its own, or really in one.

A fresh interpreter pays seconds for its imports. So what a command says and writes is looked at in this
process, and what only a process can show (a kill, an interrupt, a full disk) in a real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from evorank.cli import app
from evorank.graph.context import close_sessions

ROOT = Path(__file__).resolve().parents[1]


def typed(*words: str, exits: int = 0, home: Path | None = None, **environment: str) -> Result:
    """What a command printed. Whatever it held open is closed behind it: the next one finds files only."""
    arguments = [*words, *(("--home", str(home)) if home else ())]
    try:
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"} | environment)
    finally:
        close_sessions()
    said = f"{words}: exit {done.exit_code}\n{done.stdout}\n{done.stderr}"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(said) from done.exception
    assert done.exit_code == exits, said
    return done


def one_error(*words: str, exits: int = 2, home: Path | None = None, **environment: str) -> str:
    """The error that a command ends with, which is one, and no traceback."""
    said = typed(*words, exits=exits, home=home, **environment).stderr
    assert said.count("error:") + said.count("─ Error ─") == 1, said  # ours, or of the arguments
    return said


def told(*words: str, exits: int = 0, home: Path | None = None) -> Any:
    """What a command says to a program."""
    return json.loads(typed(*words, "--json", exits=exits, home=home).stdout)


def command(*words: str, home: Path) -> list[str]:
    """The same for an interpreter of its own."""
    return [sys.executable, str(ROOT / "cli.py"), *words, "--home", str(home)]


def process(*words: str, home: Path, exits: int = 0) -> subprocess.CompletedProcess[str]:
    """As `typed`, in a process of its own, in the folder of its home."""
    done = subprocess.run(
        command(*words, home=home),
        capture_output=True,
        text=True,
        cwd=home.parent,
        env=os.environ | {"COLUMNS": "200"},
        timeout=600,
    )
    assert done.returncode == exits, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Kept:
    """An executor that outlives those who use it."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


@contextmanager
def trained_by(pool: Any) -> Iterator[None]:
    """Commands in this process train in a pool that is there already, instead of one of their own each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evorank.graph.context.open_executor", lambda *_, **__: Kept(pool))
        yield
