"""What a run would ask, before anybody is asked."""

from __future__ import annotations

import sys

import pytest
from scripted import in_turn, learning_rate, proposal

from evorank.graph.context import open_session
from evorank.graph.offline import graph
from evorank.graph.preview import preview
from evorank.model.errors import ConfigurationError
from evorank.prompts.length import tokens


def test_it_shows_the_very_prompts_that_a_run_begins_with_and_asks_nobody(context):
    model = in_turn([proposal()], [learning_rate("no")])
    given = context(model, parallel=3, personas=None)
    found = preview(given, 30)
    assert model.asked == []
    graph.invoke({"steps": 3}, context=given)
    for call, form in (("think", "Proposal"), ("explore", "Inquiry")):
        shown = {
            prompt.text.replace("[system]\n", "").replace("[human]\n", "")
            for prompt in found.prompts
            if prompt.call == call
        }
        asked = {text for name, text in model.asked if name == form}
        assert shown == asked


def test_every_kind_of_call_is_shown_with_its_tokens(context):
    found = preview(context(in_turn(), parallel=3, personas=None), 30)
    assert [(each.call, each.persona) for each in found.prompts] == [
        ("think", "optimizer"),
        ("code", "optimizer"),
        ("review", "linter"),
        ("think", "architecture"),
        ("code", "architecture"),
        ("review", "linter"),
        ("explore", "reward"),
        ("think", "reward"),
        ("code", "reward"),
        ("review", "linter"),
        ("insight", "strategist"),
    ]
    assert all(tokens(each.text) >= each.tokens > 1000 for each in found.prompts)
    assert found.calls == {"explore": 30, "think": 30, "code": 30, "review": 30, "insight": 2}


def test_several_proposals_in_one_call_are_fewer_calls(context):
    given = context(in_turn(), parallel=4, proposals="2/1/1")
    found = preview(given, 40)
    assert (found.calls["think"], found.calls["code"]) == (10, 40)
    assert '{"explore": 2, "exploit": 1, "innovate": 1}' in found.prompts[0].text


def test_the_estimate_grows_with_the_journal_up_to_the_length_of_a_prompt(context, attempt):
    given = context(in_turn())
    one, many = preview(given, 1), preview(given, 400)
    assert one.input_tokens == sum(each.tokens for each in one.prompts if each.call != "insight")
    each_call = many.input_tokens / sum(many.calls.values())
    assert one.prompts[0].tokens + 10_000 < each_call < given.prompt_tokens
    short = preview(context(in_turn(), prompt_tokens=8_000), 400)
    assert short.input_tokens < many.input_tokens / 3
    for step in range(20):
        open_session(given).journal.append(attempt(step, run="old", surface="tiny"))
    assert preview(given, 1).input_tokens > one.input_tokens


def test_neither_a_key_nor_a_package_is_needed_where_nobody_is_asked(context, monkeypatch):
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "langchain_anthropic", None)
    roles = {"linter": "anthropic:claude-sonnet-4-5"}
    given = context(None, model="google_genai:gemini-2.5-pro", models=roles)
    found = preview(given, 5)
    assert found.usd > 0
    assert found.model == "google_genai:gemini-2.5-pro"
    with pytest.raises(ConfigurationError, match=r"pip install langchain-anthropic|GOOGLE_API_KEY"):
        open_session(given)
    with pytest.raises(ConfigurationError, match="form provider:model"):
        preview(context(None, model="nobody:model"), 5)


def test_the_cost_is_that_of_the_price_given_or_unknown(context):
    given = context(in_turn())
    assert preview(given, 5).usd is None
    found = preview(context(in_turn(), prices={"scripted": {"input": 1.0, "output": 4.0}}), 5)
    assert found.usd == pytest.approx((found.input_tokens + 4 * found.output_tokens) / 1e6)
    assert preview(context(None), 5).usd == 0.0
