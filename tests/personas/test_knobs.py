"""Knobs: what can be turned is read off a schema, and turned without touching anything else."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evorank.model.delta import apply_delta
from evorank.personas.embedded.knobs import Knob, changes, generic_knobs, get, ladder, put

SCHEMA = {
    "type": "object",
    "properties": {
        "trees": {
            "type": "object",
            "properties": {
                "leaves": {"type": "integer", "minimum": 2, "maximum": 256},
                "rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
                "penalty": {"type": "number", "minimum": 0, "maximum": 100},
                "growth": {"enum": ["leaf", "level"]},
                "bagging": {"type": "boolean"},
                "name": {"type": "string"},
            },
        }
    },
}
PHI = {"trees": {"leaves": 31, "rate": 0.1, "penalty": 0.0, "growth": "leaf", "bagging": True, "name": "x"}}


def knobs() -> dict[str, Knob]:
    return {knob.name: knob for knob in generic_knobs(SCHEMA, PHI, ["/trees"])}


def test_numbers_enums_and_booleans_become_knobs_and_free_text_does_not() -> None:
    assert set(knobs()) == {f"/trees/{name}" for name in ("leaves", "rate", "penalty", "growth", "bagging")}


def test_a_knob_outside_what_may_be_patched_is_left_out() -> None:
    assert [knob.name for knob in generic_knobs(SCHEMA, PHI, ["/trees/rate"])] == ["/trees/rate"]


def test_every_setting_lies_within_the_bounds_of_the_schema() -> None:
    found = knobs()
    assert all(2 <= s <= 256 and isinstance(s, int) for s in found["/trees/leaves"].settings)
    assert all(0 < s <= 0.5 for s in found["/trees/rate"].settings)
    assert 0.0 in found["/trees/penalty"].settings
    assert max(found["/trees/penalty"].settings) == 100


def test_a_range_over_decades_is_walked_in_ratios() -> None:
    assert ladder(1e-4, 1.0, log=True, integer=False, steps=5) == (0.0001, 0.001, 0.01, 0.1, 1.0)
    assert ladder(0, 4, log=False, integer=True, steps=5) == (0, 1, 2, 3, 4)


def test_a_jump_over_a_range_that_only_a_schema_gives_mostly_lands_near() -> None:
    knob = knobs()["/trees/leaves"]
    others, likely = knob.others(31)
    assert likely is not None
    assert sum(likely) == pytest.approx(1)
    last = len(knob.settings) - 1
    distance = [abs(knob.position(s) - knob.position(31)) * last for s in others]
    near = sum(p for p, far in zip(likely, distance, strict=True) if far <= 4)
    assert near > 0.75
    assert all(p > 0 for p in likely), "the far ends are rare, not forbidden"


def test_a_knob_of_a_playbook_jumps_anywhere() -> None:
    knob = Knob("k", "k", (1, 2, 4, 8), True, lambda phi: phi["k"], lambda phi, v: phi | {"k": v})
    assert knob.others(2) == ([1, 4, 8], None)


@given(st.sampled_from(sorted(knobs())), st.data())
def test_turning_a_knob_changes_its_own_leaf_and_nothing_else(name: str, data: st.DataObject) -> None:
    knob, before = knobs()[name], copy.deepcopy(PHI)
    setting = data.draw(st.sampled_from(knob.settings))
    turned = knob.write(PHI, setting)
    assert before == PHI, "the original stays as it was"
    assert knob.read(turned) == setting
    assert put(turned, name, get(PHI, name)) == PHI
    patch = changes(PHI, turned)
    assert apply_delta(PHI, patch) == turned if patch else turned == PHI
