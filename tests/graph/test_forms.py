from __future__ import annotations

import json

import pytest
from langchain_core.messages import AIMessage

from evorank.graph.forms import delta_fields, form_schema, instruction, read_answer
from evorank.model.config import SystemConfig, default_phi
from evorank.model.schema import violations
from evorank.prompts import answers
from evorank.prompts.answers import Configuration, Delta, Review

PHI = SystemConfig.model_json_schema()
WHOLE = SystemConfig.model_validate(default_phi(label="clicked", factors={})).model_dump(mode="json")
FORMS = [getattr(answers, name) for name in answers.__all__ if name not in ("Category", "Claim", "Operation")]


def nodes(schema):
    """Every schema in a schema."""
    yield schema
    children = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    children += [schema[name] for name in ("items", "additionalProperties") if schema.get(name)]
    for child in children:
        yield from nodes(child)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_schema_on_the_wire_says_only_what_every_provider_takes(form, closed):
    fields = delta_fields(PHI, ["/optimizer", "/components"]) if form is Delta else {}
    schema = form_schema(form, fields, closed)
    assert schema["title"] == form.__name__
    allowed = {"title", "description", "type", "enum", "anyOf", "items", "properties", "required"}
    for each in nodes(schema):
        assert set(each) <= allowed | {"additionalProperties"}
        assert "type" in each or "anyOf" in each, "an answer of no type is refused by some"
        if each.get("type") == "object" and "properties" in each:
            assert each["required"] == [*each["properties"]]
        if each.get("type") == "object" and closed:
            assert each["additionalProperties"] is False
        assert len(each.get("description", "")) <= 300


@pytest.mark.parametrize(
    ("patchable", "value"),
    [
        (["/optimizer"], 0.1),
        (["/optimizer"], "RMSprop"),
        (["/optimizer"], {"lr": 0.1, "betas": [0.9, 0.99]}),
        (["/optimizer"], {"name": "cosine", "args": {"warmup": 0.1}}),
        (["/architecture"], "relu(dense(inputs, 8))"),
        (["/architecture"], {"h1": "inputs"}),
        (["/components"], {"kind": "layer", "source": "class X: ...", "description": ""}),
        (["/reward"], {"watched": "1.0"}),
        (["/reward"], None),
    ],
)
def test_whatever_a_persona_may_write_is_a_value_of_its_delta(patchable, value):
    schema = form_schema(Delta, delta_fields(PHI, patchable), False)
    operation = {"op": "add", "path": f"{patchable[0]}/x", "value": value, "from": None}
    assert violations({"patch": [operation], "explanation": ""}, schema) == []


def test_a_delta_cannot_write_a_part_of_phi_whole_nor_what_is_in_no_part():
    schema = form_schema(Delta, delta_fields(PHI, ["/reward"]), False)
    for value in ({"name": "cosine", "args": {}}, [1], True, 1):
        operation = {"op": "replace", "path": "/reward", "value": value, "from": None}
        assert violations({"patch": [operation], "explanation": ""}, schema), value


def test_the_schema_of_a_whole_configuration_is_that_of_phi():
    schema = form_schema(Configuration, {"phi": PHI}, False)
    assert violations({"phi": WHOLE, "explanation": ""}, schema) == []
    wrong = WHOLE | {"optimizer": WHOLE["optimizer"] | {"batch_size": "large"}}
    assert violations({"phi": wrong, "explanation": ""}, schema)


def message(text="", **more):
    return AIMessage(text, **more)


@pytest.mark.parametrize(
    "text",
    [
        '{"verdict": "accept", "findings": []}',
        'I think so:\n```json\n{"verdict": "accept", "findings": []}\n```\nThat is all.',
        'Verdict: {"verdict": "accept", "findings": []} as I said.',
    ],
)
def test_an_answer_is_found_in_json_in_a_fence_and_in_words(text):
    assert read_answer(message(text), Review) == Review(verdict="accept")


def test_an_answer_is_found_in_blocks_beside_thinking():
    blocks = [
        {"type": "thinking", "thinking": '{"verdict": "revise"}'},
        {"type": "text", "text": '{"verdict": "accept"}'},
    ]
    assert read_answer(message(blocks), Review) == Review(verdict="accept")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (message(""), "it was empty"),
        (message("I will not."), "it holds no JSON object"),
        (message('{"verdict": "accept", "findings": ['), "its JSON is malformed"),
        (message('{"verdict": "maybe"}'), "`verdict` input should be 'accept' or 'revise', got maybe"),
        (message('{"findings": []}'), "`verdict` field required"),
        (message('{"verdict": "accept", "mood": "good"}'), "`mood` extra inputs are not permitted"),
        (message("{}", response_metadata={"finish_reason": "MAX_TOKENS"}), "cut off"),
        (message("{}", response_metadata={"finish_reason": "length"}), "cut off"),
        (message("{}", response_metadata={"stop_reason": "max_tokens"}), "cut off"),
        (message("", response_metadata={"finish_reason": "RECITATION"}), "withheld by the provider"),
    ],
)
def test_what_is_no_answer_is_told_so_that_the_model_can_mend_it(raw, told):
    assert told in read_answer(raw, Review)


def test_the_arguments_of_a_malformed_tool_call_are_told():
    wrong = {"name": "Review", "args": '{"verdict": ', "id": "1", "error": "Unterminated string"}
    assert "Unterminated string" in read_answer(message(invalid_tool_calls=[wrong]), Review)


def test_a_whole_configuration_in_place_of_a_delta_is_refused_with_the_reason():
    told = read_answer(message(json.dumps(WHOLE)), Delta)
    assert "must not be a whole configuration (architecture, " in told
    assert "`patch`, which holds only what changes" in told


def test_a_model_without_structured_output_is_told_the_schema():
    schema = form_schema(Review, {}, False)
    assert '"enum": ["accept", "revise"]' in instruction(schema)
    assert "```json" in instruction(schema)
