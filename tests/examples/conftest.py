from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from evorank.graph import close_sessions

EXAMPLES = Path(__file__).parents[2] / "examples"

# `tiny`, `planted` and `scripted` help the tests of the graphs, and these.
sys.path.insert(0, str(Path(__file__).parents[1] / "graph"))


@pytest.fixture
def home(tmp_path):
    """A home with the encoded surface "tiny"."""
    from tiny import make_surface

    make_surface(tmp_path / "home")
    yield tmp_path / "home"
    close_sessions()
    shutil.rmtree(tmp_path / "home")


@pytest.fixture
def load(monkeypatch):
    """load("subgraph/weekly_review.py", word ...) -> the module, as if it were started with these words."""

    def module(path: str, *words: object):
        name = Path(path).stem
        found = importlib.util.spec_from_file_location(name, EXAMPLES / path)
        example = importlib.util.module_from_spec(found)
        monkeypatch.setitem(sys.modules, name, example)
        monkeypatch.setattr(sys, "argv", [path, *map(str, words)])
        found.loader.exec_module(example)
        return example

    return module
