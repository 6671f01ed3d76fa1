from __future__ import annotations

import os

import pytest
from langsmith.utils import get_env_var, tracing_is_enabled

from evorank.graph.keys import load_keys, scrub, trace


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Whatever a test sets is taken back."""
    for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("LANGSMITH_GATEWAY", "true")
    monkeypatch.setenv("PLANTED", "")
    yield
    monkeypatch.undo()
    get_env_var.cache_clear()  # or every later test would be traced


def test_the_value_of_every_variable_that_is_named_like_a_key_is_taken_out_of_a_text(monkeypatch):
    names = ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET", "PGPASSWORD", "MY_API_KEYS", "GROQ_API_KEY_2")
    for number, name in enumerate(names):
        monkeypatch.setenv(name, f"planted-value-{number}")
    monkeypatch.setenv("SHORT_KEY", "key")
    monkeypatch.setenv("EDITOR", "planted-editor")
    text = scrub("; ".join(f"{name}={os.environ[name]}" for name in (*names, "SHORT_KEY", "EDITOR")))
    assert "planted-value" not in text
    assert text.count("***") == len(names)
    assert text.endswith("SHORT_KEY=key; EDITOR=planted-editor")


def test_a_key_that_holds_another_is_taken_out_whole(monkeypatch):
    monkeypatch.setenv("A_KEY", "planted-1")
    monkeypatch.setenv("B_KEY", "planted-1-and-more")
    assert scrub("it is planted-1-and-more") == "it is ***"


def test_what_is_set_wins_over_the_file_and_what_is_empty_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_keys()
    (tmp_path / ".env").write_text("PLANTED=from-the-file\n")
    load_keys()
    assert os.environ["PLANTED"] == "from-the-file"
    monkeypatch.setenv("PLANTED", "from-the-shell")
    load_keys()
    assert os.environ["PLANTED"] == "from-the-shell"


def test_langsmith_is_switched_off_and_on_whatever_its_variables_said():
    trace(False)
    assert not tracing_is_enabled()
    assert "LANGSMITH_GATEWAY" not in os.environ
    trace(True)
    assert tracing_is_enabled()
