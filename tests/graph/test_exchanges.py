"""What was asked and answered is kept word for word, without keys, and only the newest of it."""

from __future__ import annotations

import pytest

from evorank.graph import exchanges
from evorank.graph.exchanges import Exchanges
from evorank.graph.recording import Line
from evorank.graph.state import Usage


@pytest.fixture
def kept(open_store):
    return Exchanges(open_store(), "films")


def line(step, said="ok", **fields):
    prompt = [{"role": "system", "content": "You rank."}, {"role": "human", "content": f"Φ of step {step}"}]
    return Line(
        step=step, persona="reward", role="think", messages=prompt, answer={"content": said}, **fields
    )


def test_a_step_gives_back_its_exchanges_in_their_order_and_no_others(kept, open_store):
    first, second = line(3, usage=Usage(calls=1, input_tokens=7)), line(3, "again")
    for each in (first, second, line(4), line(None)):
        kept.keep("r", each)
    kept.keep("other", line(3))
    Exchanges(open_store(), "songs").keep("r", line(3))
    assert Exchanges(open_store(), "films").of("r", 3) == [first, second]
    assert kept.of("r", 5) == []


def test_only_the_newest_of_a_surface_are_kept(kept, open_store, monkeypatch):
    monkeypatch.setattr(exchanges, "KEPT", 3)
    Exchanges(open_store(), "songs").keep("r", line(0))
    for step in range(5):
        kept.keep("r", line(step))
    assert [step for step in range(5) if kept.of("r", step)] == [2, 3, 4]
    assert len(Exchanges(open_store(), "songs").of("r", 0)) == 1


def test_no_key_is_kept(kept, monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-AIzaSy-0123456789")
    kept.keep("r", line(1, "your key is planted-AIzaSy-0123456789"))
    (found,) = kept.of("r", 1)
    assert "planted" not in found.model_dump_json()
