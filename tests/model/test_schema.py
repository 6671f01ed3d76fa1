"""The reader of JSON Schemas agrees with pydantic, and points at what is wrong."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evorank.model.schema import defects, lookup, slips, violations


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Layer(Strict):
    width: int = Field(ge=1, le=64, description="Units")
    rate: float | None = Field(gt=0, lt=1, description="Dropout")


class Net(Strict):
    kind: Literal["tower", "cross"] = Field(description="Family")
    layers: list[Layer] = Field(min_length=1, max_length=2, description="Bottom first")
    names: dict[str, str] = Field(default_factory=dict, max_length=1, description="Free names")
    tag: str = Field(default="ab", min_length=2, max_length=3, pattern="^[a-z]+$", description="Lower case")


SCHEMA = Net.model_json_schema()
VALID = {"kind": "tower", "layers": [{"width": 8, "rate": 0.5}], "names": {"a": "b"}, "tag": "abc"}

_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.sampled_from([0.25, 0.5, 1.5, -0.5]),
    st.sampled_from(["tower", "cross", "ab", "AB", "abcd", ""]),
)
_layers = st.dictionaries(st.sampled_from(["width", "rate", "other"]), _leaves, max_size=3)
_documents = st.dictionaries(
    st.sampled_from(["kind", "layers", "names", "tag", "other"]),
    st.one_of(_leaves, st.lists(st.one_of(_layers, _leaves), max_size=3), _layers),
)
_pointers = [
    "/kind",
    "/layers",
    "/layers/0",
    "/layers/0/width",
    "/layers/0/rate",
    "/names",
    "/names/a",
    "/tag",
]
_edits = st.tuples(st.sampled_from(_pointers), st.one_of(_leaves, st.lists(_layers, max_size=3), _layers))


def _edited(pointer: str, value: Any) -> Any:
    document = Net.model_validate(VALID).model_dump()
    head, _, key = pointer.rpartition("/")
    container = lookup(document, head)
    container[int(key) if isinstance(container, list) else key] = value
    return document


@given(st.one_of(_documents, _edits.map(lambda edit: _edited(*edit)), _leaves))
def test_a_document_obeys_the_schema_exactly_where_pydantic_accepts_it(document: Any) -> None:
    try:
        Net.model_validate(document)
    except ValidationError:
        accepted = False
    else:
        accepted = True
    assert (violations(document, SCHEMA) == []) == accepted, violations(document, SCHEMA)


def test_both_answers_occur() -> None:
    assert violations(VALID, SCHEMA) == []
    assert violations({}, SCHEMA) != []


@pytest.mark.parametrize(
    ("document", "pointer", "rule"),
    [
        (_edited("/layers/0/width", 65), "/layers/0/width", "must be at most 64"),
        (_edited("/layers/0/width", 2.5), "/layers/0/width", "must be of type integer"),
        (_edited("/layers/0/rate", float("nan")), "/layers/0/rate", "must be greater than 0"),
        (_edited("/kind", "mixer"), "/kind", "must be one of ['tower', 'cross']"),
        (_edited("/names", {"a/b": 1}), "/names/a~1b", "must be of type string"),
        ({"kind": "tower"}, "/layers", "is required"),
        ([], "", "must be of type object"),
    ],
)
def test_a_violation_names_pointer_and_rule(document: Any, pointer: str, rule: str) -> None:
    found = [finding for finding in violations(document, SCHEMA) if finding.pointer == pointer]
    assert any(finding.rule.startswith(rule) for finding in found), violations(document, SCHEMA)


@pytest.mark.parametrize(
    ("schema", "value", "obeys"),
    [
        ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, 3, True),
        ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, 7, False),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, 3, False),
        ({"multipleOf": 0.1}, 0.3, True),
        ({"multipleOf": 8}, 12, False),
        ({"const": 1}, True, False),
        ({"type": "integer"}, True, False),
        ({"type": "integer"}, 3.0, True),
        ({"prefixItems": [{"type": "string"}], "items": False}, ["a"], True),
        ({"prefixItems": [{"type": "string"}], "items": False}, ["a", 1], False),
        ({"patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False}, {"x1": None}, True),
        ({"patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False}, {"y": None}, False),
        ({"propertyNames": {"maxLength": 2}}, {"abc": 1}, False),
        (False, 1, False),
    ],
)
def test_the_keywords_that_pydantic_seldom_writes(schema: Any, value: Any, obeys: bool) -> None:
    assert (violations(value, schema) == []) is obeys


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "array"}, ""),
        ({"type": "object"}, ""),
        ("object", ""),
        (
            {"type": "object", "properties": {"a": {"type": "float", "description": "x"}}},
            "/properties/a/type",
        ),
        ({"type": "object", "properties": {"a": {"enum": [], "description": "x"}}}, "/properties/a/enum"),
        ({"type": "object", "properties": {"a/b": {"type": "null"}}}, "/properties/a~1b"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}, "/properties/a/$ref"),
        ({"type": "object", "properties": {"a": {"$ref": "other.json"}}}, "/properties/a/$ref"),
        ({"type": "object", "properties": {"a": 3}}, "/properties/a"),
    ],
)
def test_a_defect_of_the_schema_is_found_where_it_is(schema: Any, pointer: str) -> None:
    assert pointer in [finding.pointer for finding in defects(schema)]


def test_a_schema_that_refers_to_itself_ends() -> None:
    chain = {"type": "object", "properties": {"next": {"$ref": "#/$defs/A", "description": "x"}}}
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A", "description": "x"}},
        "$defs": {"A": chain, "B": {"$ref": "#/$defs/B"}},
    }
    assert [finding.pointer for finding in defects(schema)] == ["/$defs/B/$ref"]
    assert violations({"a": {"next": {"next": 3}}}, schema)[0].pointer == "/a/next/next"


def test_a_description_may_stand_at_the_definition() -> None:
    assert defects(SCHEMA) == []


def test_slips_cover_every_place_and_kind() -> None:
    found = dict(slips(VALID, SCHEMA))
    assert all(violations(document, SCHEMA) for document in found.values())
    for what in (
        "NaN at /layers/0/width",
        "nothing at /layers/0/rate",
        "[] at /layers",
        "True at /names/a",
        "an unknown field in /layers/0",
        "an unknown field",
        "{} as the whole Φ",
        "[] as the whole Φ",
    ):
        assert what in found, list(found)
    assert "nothing at /tag" not in found  # it has a default
