from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from scripted import rates
from typing_extensions import TypedDict

from evorank.graph.context import Context, close_sessions, context_of, open_session
from evorank.graph.offline import graph
from evorank.model.errors import ConfigurationError, JournalError


def test_the_form_that_studio_shows_describes_every_field_and_hides_live_handles():
    schema = graph.get_context_jsonschema()
    live = {"chat_model", "pool", "listeners"}
    assert set(schema["properties"]) == set(Context.model_fields) - live
    assert all(field.get("description") for field in schema["properties"].values())
    assert not schema.get("required")
    assert not live & set(Context().model_dump())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"surfaec": "x"}, r"`context\.surfaec`.*Fields are surface, home"),
        ({"seeds": 1}, r"`context\.seeds`.*greater than or equal to 2.*got 1"),
        ({"parallel": "many"}, r"`context\.parallel`"),
        ({"proposals": "a few"}, r"`context\.proposals`"),
        ({"proposals": "2/2/1"}, r"5 in one call, and `parallel` is 4: set parallel to 5"),
        ({"proposals": "0/0/0"}, r"at least"),
    ],
)
def test_a_wrong_field_of_a_context_is_named(given, told):
    with pytest.raises(ConfigurationError, match=told):
        context_of(given, SimpleNamespace(context=None))


def test_a_context_is_found_wherever_the_graph_runs():
    def found(context, given=None):
        return context_of(given, SimpleNamespace(context=context)).seed

    assert found(None) == 0
    assert found(Context(seed=1)) == 1
    assert found({"seed": 2}) == 2
    assert found({"team": "x", "evorank": {"seed": 3}}) == 3
    assert found(SimpleNamespace(evorank=Context(seed=4))) == 4
    assert found(SimpleNamespace(team="x"), given={"seed": 5}) == 5
    with pytest.raises(ConfigurationError, match="SimpleNamespace, which says nothing about evorank"):
        found(SimpleNamespace(team="x"))


def test_a_graph_with_another_context_embeds_the_loop_and_passes_evoranks_in_a_field(context):
    @dataclass
    class Theirs:
        team: str
        evorank: Context

    class State(TypedDict, total=False):
        steps: int
        attempts: list
        team: str

    parent = StateGraph(State, context_schema=Theirs)
    parent.add_node("offline", graph)
    parent.add_node("sign", lambda state, runtime: {"team": runtime.context.team})
    parent.add_edge(START, "offline")
    parent.add_edge("offline", "sign")
    parent.add_edge("sign", END)
    answer = parent.compile().invoke({"steps": 1}, context=Theirs("ranking", context(rates(0.05))))
    assert answer["team"] == "ranking"
    assert [attempt["surface"] for attempt in answer["attempts"]] == ["tiny"]


def test_one_context_is_one_session_and_homes_are_absolute(context, home, monkeypatch):
    given = context(rates(0.05))
    found = []
    threads = [threading.Thread(target=lambda: found.append(open_session(given))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(session) for session in found}) == 1
    monkeypatch.chdir(home.parent)
    assert open_session(given.model_copy(update={"home": "home"})) is found[0]
    other = open_session(context(rates(0.05), seed=5))
    assert other is not found[0]
    assert other.workbench is found[0].workbench
    assert other.journal is found[0].journal


def test_the_home_comes_from_the_environment_unless_it_is_given(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVORANK_HOME", raising=False)
    assert Context().home_path() == tmp_path / ".evorank"
    monkeypatch.setenv("EVORANK_HOME", str(tmp_path / "env"))
    assert Context().home_path() == tmp_path / "env"
    assert Context(home=str(tmp_path / "given")).home_path() == tmp_path / "given"


def test_an_unknown_surface_is_told_with_those_that_exist(home):
    with pytest.raises(ConfigurationError, match="tiny"):
        open_session(Context(home=str(home), surface="tyni"))
    close_sessions()


def test_a_persona_that_cannot_work_here_is_refused_with_the_reason(context, home):
    path = home / "surfaces" / "tiny" / "surface.toml"
    text = path.read_text()
    start, end = text.index("[north_star]"), text.index("[[guardrails]]")
    path.write_text(text[:start] + text[end:])
    session = open_session(context(rates(0.05), personas=None))
    assert session.proposers == ["optimizer", "architecture"]
    assert "no north star" in session.switched_off["reward"]
    with pytest.raises(ConfigurationError, match=r"`personas`.*\['reward'\].*no north star"):
        open_session(context(rates(0.05), personas=["reward"]))
    with pytest.raises(ConfigurationError, match="no persona 'optimiser'"):
        open_session(context(rates(0.05), personas=["optimiser"]))


def test_a_north_star_that_the_validation_period_cannot_show_switches_the_reward_engineer_off(context, home):
    path = home / "surfaces" / "tiny" / "surface.toml"
    path.write_text(path.read_text().replace("horizon_days = 1", "horizon_days = 300"))
    session = open_session(context(rates(0.05), personas=None))
    assert session.proposers == ["optimizer", "architecture"]
    assert "horizon of 300 days" in session.switched_off["reward"]


FRUGAL = """---
title: frugal engineer
tools: [compute_loss]
patches: [/optimizer/epochs, /optimizer/batch_size]
metric: CPU-seconds
---
You spend little.
"""


@pytest.mark.parametrize("folder", [None, "team"])
def test_a_persona_is_added_by_adding_a_file_and_kept_to_what_its_file_opens(context, home, folder):
    where = home / (folder or "personas")
    where.mkdir()
    (where / "frugal.md").write_text(FRUGAL)
    asked = {"persona_folder": str(where)} if folder else {}
    session = open_session(context(rates(0.05), personas=None, **asked))
    assert session.proposers == ["optimizer", "architecture", "reward", "frugal"]
    assert session.patchable("frugal") == ["/optimizer/epochs", "/optimizer/batch_size"]
    answer = graph.invoke({"steps": 1}, context=context(rates(0.05), personas=["frugal"], **asked))
    (attempt,) = answer["attempts"]
    assert (attempt["persona"], attempt["outcome"]) == ("frugal", "refused")
    assert "outside what this persona may patch" in attempt["reason"]


def test_a_persona_that_may_patch_nothing_here_says_why(context, home):
    (home / "personas").mkdir()
    (home / "personas" / "frugal.md").write_text(
        FRUGAL.replace("/optimizer/epochs, /optimizer/batch_size", "/x")
    )
    session = open_session(context(rates(0.05), personas=None))
    assert "lets it patch nothing" in session.switched_off["frugal"]
    with pytest.raises(ConfigurationError, match="`patches` in its file is empty, so it proposes nothing"):
        open_session(context(rates(0.05), personas=["linter"]))


def test_a_file_in_the_home_replaces_a_built_in_persona(context, home):
    (home / "personas").mkdir()
    (home / "personas" / "optimizer.md").write_text(FRUGAL)
    session = open_session(context(rates(0.05)))
    assert session.personas["optimizer"].title == "frugal engineer"
    assert session.patchable("optimizer") == ["/optimizer/epochs", "/optimizer/batch_size"]


def test_a_broken_file_of_run_places_is_named(context, home):
    session = open_session(context(rates(0.05)))
    with session.checkpointer() as saver:
        assert isinstance(saver, SqliteSaver)
        saver.setup()
    (home / "runs" / "checkpoints.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(JournalError, match=r"checkpoints\.sqlite"), session.checkpointer() as saver:
        saver.get_tuple({"configurable": {"thread_id": "t"}})


def test_the_journal_is_imported_without_langchain_and_the_graph_without_torch():
    code = (
        "import sys; import evorank.graph; "
        "assert 'langchain_core' not in sys.modules; "
        "import evorank.graph.offline; "
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parent)
