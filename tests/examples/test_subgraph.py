from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from evorank.graph import Context, Journal, close_sessions

EXAMPLE = Path(__file__).parents[2] / "examples" / "subgraph" / "weekly_review.py"
HELPERS = Path(__file__).parents[1] / "graph"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HELPERS))
    from tiny import make_surface

    make_surface(tmp_path)
    yield tmp_path
    close_sessions()
    shutil.rmtree(tmp_path)


@pytest.mark.heavy
def test_the_loop_runs_inside_an_app_with_another_state_in_both_ways(home, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--steps", "2", "--home", str(home), "--surface", "tiny"])
    found = importlib.util.spec_from_file_location("weekly_review", EXAMPLE)
    example = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "weekly_review", example)
    found.loader.exec_module(example)
    example.main()
    memo = capsys.readouterr().out
    assert memo.startswith("Memo to ranking: 2 candidates were tried.")
    assert len(Journal.open(home).attempts(surface="tiny")) == 2

    theirs = example.AppContext(
        evorank=Context(home=str(home), surface="tiny", parallel=1, personas=["optimizer"])
    )
    answer = example.shared_app().invoke({"steps": 1}, context=theirs)
    assert len(answer["attempts"]) == 1
    assert answer["wins"] in (0, 1)
    assert len(Journal.open(home).attempts(surface="tiny")) == 3
