"""A tick from cron with a chat model that costs money: asked when there is something new to ask."""

from __future__ import annotations

from datetime import timedelta

from planted import METRICS
from scripted import ScriptedChatModel

from evorank.graph.operations import open_operations
from evorank.graph.rankings import Rankings
from evorank.graph.state import Usage
from evorank.graph.tick import propose, tick
from evorank.prompts.answers import Ranking
from evorank.surfaces.online import Online
from evorank.surfaces.surface import open_surface, save_surface


def change(rate: float) -> list[dict[str, object]]:
    return [{"op": "replace", "path": "/optimizer/args/lr", "value": rate}]


def test_ticks_ask_the_strategist_once_until_a_candidate_is_added(home, context):
    spec = open_surface(home, "tiny").spec
    online = Online(
        platform="planted:Planted", metrics=METRICS, holdback=0.0, wanted_lift=0.1, minimum_rows=100
    )
    save_surface(home, spec.model_copy(update={"online": online}))
    ids: list[str] = []
    model = ScriptedChatModel(
        script=lambda form, messages: {"order": list(ids), "reason": "the newest first"}
    )
    given = context(model, selection="ranked")
    operations = open_operations(given)
    for rate in (0.05, 0.06):
        ids.insert(0, propose(operations, change(rate), why="a smaller step", by="ada"))
    first = tick(given)
    assert (first.usage.calls, first.usage.input_tokens, first.usage.output_tokens) == (1, 100, 10)
    for _ in range(3):
        later = tick(given, until=operations.platform.now() + timedelta(days=1))
        assert later.usage == Usage()
    assert model.count("Ranking") == 1
    ids.append(propose(operations, change(0.07), why="a smaller step", by="ada"))
    assert tick(given).usage.calls == 1
    assert operations.session.chats.desk.spending.total(None).calls == 2


def test_an_answer_is_there_for_every_process(open_store):
    answer = Ranking(order=["b", "a"], reason="because")
    Rankings(open_store(), "tiny").keep("q", answer, "r")
    Rankings(open_store(), "tiny").keep("q2", None, None)
    found = Rankings(open_store(), "tiny")
    assert found.recall("q") == answer
    assert found.recall("q2") is None
    assert Rankings(open_store(), "other").recall("q") is None
    found.keep("q2", answer, None)
    assert found.recall("q") is None, "only the last answer counts"
