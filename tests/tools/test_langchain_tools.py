from __future__ import annotations

import pytest
from langchain_core.utils.function_calling import convert_to_openai_tool

from evorank.model.errors import ConfigurationError
from evorank.tools.langchain_tools import as_langchain_tools


@pytest.fixture
def tools(bench):
    return {tool.name: tool for tool in as_langchain_tools(bench)}


def call(tool, **arguments):
    return tool.invoke({"type": "tool_call", "id": "1", "name": tool.name, "args": arguments})


def test_every_tool_and_argument_is_described_for_a_model(tools):
    assert set(tools) == {"compute_loss", "compute_eval", "run_sql_query", "label_alignment"}
    for tool in tools.values():
        told = convert_to_openai_tool(tool)["function"]
        assert len(told["description"]) > 100
        for argument in told["parameters"]["properties"].values():
            assert argument["description"]


def test_compute_loss_takes_a_patch_and_answers_a_sentence_and_the_whole_comparison(tools, bench):
    patch = [{"op": "replace", "path": "/steps", "value": 12}]
    message = call(tools["compute_loss"], patch=patch)
    assert message.content.startswith("better. Better beyond noise: log_loss -0.")
    assert message.artifact["seeds"] == list(range(bench.seeds))
    assert bench.production["steps"] == 3


def test_what_a_candidate_did_wrong_comes_back_as_text(tools):
    refused = call(tools["compute_loss"], patch=[{"op": "replace", "path": "/lr", "value": -1}])
    assert refused.status == "error"
    assert "/lr must be a positive number" in refused.content
    assert "/nowhere" in call(tools["compute_loss"], patch=[{"op": "remove", "path": "/nowhere"}]).content
    assert call(tools["compute_loss"], patch=[]).status == "error"
    assert call(tools["run_sql_query"], sql="DROP TABLE log").status == "error"


def test_queries_and_labels_can_be_looked_at(tools):
    assert "| n |" in call(tools["run_sql_query"], sql="SELECT COUNT(*) AS n FROM log").content
    message = call(tools["label_alignment"], label="liked * 2", factors={"liked": 'CAST("like" AS DOUBLE)'})
    assert "speaks for the north star" in message.content
    assert call(tools["label_alignment"], label="nothing_here").status == "error"


def test_without_a_north_star_there_are_no_reward_tools(bench):
    bench.surface.spec.north_star = None
    assert {tool.name for tool in as_langchain_tools(bench)} == {"compute_loss", "run_sql_query"}


def test_what_the_user_must_mend_is_not_hidden_in_an_answer(tools, bench):
    bench.surface.spec.north_star.sql = "SELECT 1"
    with pytest.raises(ConfigurationError, match="north_star"):
        call(tools["label_alignment"], label="click")
