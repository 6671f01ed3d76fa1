from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evorank.model.delta import apply_delta, canonical, check_json, diff, fingerprint
from evorank.model.errors import Finding, RefusedDelta

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine too

PHI: dict[str, Any] = {
    "optimizer": {"name": "Adagrad", "args": {"lr": 0.1, "betas": [0.9, 0.999]}, "grad_clip": None},
    "architecture": {"layers": {"output": "inputs"}},
    "a/b": {"~": 1},
}

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
PHIS = st.dictionaries(TEXT, JSON, max_size=5)

# What a chat model may send instead of a patch: anything at all, and things that look nearly right.
POINTERS = st.sampled_from(
    [
        "", "/", "/optimizer", "/optimizer/args/lr", "/optimizer/args/betas/0", "/optimizer/args/betas/-",
        "/optimizer/args/betas/9", "/optimizer/args/betas/01", "/optimizer/args/betas/-1",
        "/optimizer/name/0", "/a~1b/~0", "/a/b", "optimizer", "/~2", "/optimizer/args/lr/x", "/nothing/at",
    ]
)  # fmt: skip
ANYTHING = JSON | st.floats() | st.integers() | st.text(max_size=3) | st.binary(max_size=2) | st.just({1: 2})
OPERATION = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]) | ANYTHING,
        "path": POINTERS | ANYTHING,
        "from": POINTERS | ANYTHING,
        "value": ANYTHING,
        "extra": ANYTHING,
    },
)
PATCHES = st.lists(OPERATION | ANYTHING, max_size=6) | ANYTHING


def refused(patch: Any, phi: Any = PHI, **options: Any) -> Finding:
    with pytest.raises(RefusedDelta) as caught:
        apply_delta(phi, patch, **options)
    return caught.value.findings[0]


# ------------------------------------------------------------------ laws


@given(PATCHES, st.none() | st.lists(st.sampled_from(["/optimizer", "/architecture", ""]), max_size=2))
@settings(LAW, max_examples=400)
def test_an_arbitrary_patch_gives_a_candidate_or_a_refusal_and_leaves_phi_alone(patch, prefixes):
    before = copy.deepcopy(PHI)
    try:
        after = apply_delta(PHI, patch, prefixes)
    except RefusedDelta as refusal:
        said = str(refusal)
    else:
        said = canonical(after)
        assert check_json(after) == []
    assert said
    assert before == PHI


@given(PHIS, PATCHES)
@LAW
def test_an_arbitrary_phi_never_breaks_the_refusal(phi, patch):
    try:
        result = apply_delta(phi, patch)
    except RefusedDelta as refusal:
        result = refusal.findings
    assert result is not None


@given(PHIS, PHIS)
@LAW
def test_applying_a_diff_gives_the_other_configuration(a, b):
    patch = diff(a, b)
    assert fingerprint(apply_delta(a, patch)) == fingerprint(b)
    assert diff(apply_delta(a, patch), b) == []


@given(PHIS, PHIS)
@LAW
def test_applying_then_diffing_gives_an_equivalent_patch(a, b):
    once = apply_delta(a, diff(a, b))
    again = diff(a, once)
    assert fingerprint(apply_delta(a, again)) == fingerprint(once)
    assert again == diff(a, b)


@given(PHIS)
@LAW
def test_a_configuration_does_not_differ_from_itself(phi):
    assert diff(phi, copy.deepcopy(phi)) == []


@given(PHIS, st.randoms(use_true_random=False))
@LAW
def test_the_fingerprint_is_independent_of_key_order(phi, random):
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            random.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(inner) for inner in value] if isinstance(value, list) else value

    assert fingerprint(shuffled(phi)) == fingerprint(phi)


@given(PHIS, PHIS)
@LAW
def test_fingerprints_are_equal_exactly_when_the_canonical_texts_are(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (canonical(a) == canonical(b))


@given(PHIS)
@LAW
def test_the_fingerprint_survives_a_trip_through_json(phi):
    assert fingerprint(json.loads(json.dumps(phi))) == fingerprint(phi)
    assert fingerprint(json.loads(canonical(phi))) == fingerprint(phi)


# ------------------------------------------------------------------ identity


def test_canonical_text_is_sorted_and_compact():
    assert canonical({"b": 1.0, "a": [True, None, 0.5, "é"]}) == '{"a":[true,null,0.5,"\\u00e9"],"b":1}'


def test_integer_valued_floats_are_integers_and_booleans_are_not():
    assert fingerprint({"x": 1.0}) == fingerprint({"x": 1})
    assert fingerprint({"x": -0.0}) == fingerprint({"x": 0})
    assert fingerprint({"x": True}) != fingerprint({"x": 1})
    assert fingerprint({"x": "1"}) != fingerprint({"x": 1})
    assert fingerprint({"x": None}) != fingerprint({})


def test_a_fingerprint_is_the_sha256_of_the_canonical_text():
    assert fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (math.nan, "must be a finite number"),
        (-math.inf, "must be a finite number"),
        (10**400, "must be an integer within"),
        pytest.param(10**5000, "must be an integer within", id="more digits than Python prints"),
        ("\ud800", "must be Unicode text"),
        ("a\0b", "must be Unicode text"),
        ({1: 2}, "must have text as keys"),
        ({"\ud800": 2}, "must have keys of Unicode text"),
        ((1, 2), "must be JSON"),
        (b"x", "must be JSON"),
        ({1, 2}, "must be JSON"),
        pytest.param("x" * 300_000, "must not hold more than 256000 characters", id="long"),
        pytest.param([0] * 30_000, "must not hold more than 20000 values", id="many"),
        ({10**5000: 1}, "must have text as keys"),
    ],
)
def test_what_is_not_json_is_refused_where_it_stands(value, rule):
    with pytest.raises(RefusedDelta) as caught:
        fingerprint({"a": {"b": value}})
    (finding,) = caught.value.findings
    assert rule in finding.rule
    assert finding.pointer in ("", "/a/b")


def test_a_document_that_holds_itself_or_is_very_deep_is_refused():
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with pytest.raises(RefusedDelta, match="nested more than 32 deep"):
        canonical(endless)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested more than 32 deep" in refused([{"op": "add", "path": "/x", "value": deep}]).rule


# ------------------------------------------------------------------ patches


def test_all_six_operations_apply_and_phi_is_left_alone():
    before = copy.deepcopy(PHI)
    result = apply_delta(
        PHI,
        [
            {"op": "test", "path": "/optimizer/name", "value": "Adagrad"},
            {"op": "replace", "path": "/optimizer/name", "value": "RMSprop"},
            {"op": "add", "path": "/optimizer/args/alpha", "value": 0.9},
            {"op": "remove", "path": "/optimizer/args/betas/1"},
            {"op": "copy", "from": "/architecture/layers/output", "path": "/architecture/layers/h1"},
            {"op": "move", "from": "/a~1b/~0", "path": "/moved"},
        ],
    )
    assert before == PHI
    assert result == {
        "optimizer": {
            "name": "RMSprop",
            "args": {"lr": 0.1, "betas": [0.9], "alpha": 0.9},
            "grad_clip": None,
        },
        "architecture": {"layers": {"output": "inputs", "h1": "inputs"}},
        "a/b": {},
        "moved": 1,
    }


def test_the_result_shares_nothing_with_the_patch():
    value = {"lr": 1}
    result = apply_delta(PHI, [{"op": "replace", "path": "/optimizer/args", "value": value}])
    value["lr"] = 2
    assert result["optimizer"]["args"] == {"lr": 1}


def test_a_failed_test_says_what_was_expected_and_what_is_there():
    finding = refused([{"op": "test", "path": "/optimizer/name", "value": "Adam"}])
    assert finding.pointer == "/optimizer/name"
    assert finding.rule == 'failed its test for "Adam"'
    assert finding.value == "Adagrad"


def test_test_compares_json_values_not_python_values():
    one = {"x": 1}
    assert apply_delta(one, [{"op": "test", "path": "/x", "value": 1.0}]) == one
    assert "failed its test" in refused([{"op": "test", "path": "/x", "value": True}], one).rule
    assert apply_delta(one, [{"op": "test", "path": "", "value": {"x": 1}}]) == one


@pytest.mark.parametrize(
    ("patch", "pointer", "rule", "hint"),
    [
        ([{"op": "replace", "path": "/optimizer/nam", "value": 1}],
         "/optimizer/nam", "has no 'nam'", "'name'"),
        ([{"op": "remove", "path": "/optimiser"}], "/optimiser", "Φ has no 'optimiser'", "'optimizer'"),
        ([{"op": "add", "path": "/opt/x", "value": 1}], "/opt", "has no 'opt'", "There are"),
        ([{"op": "add", "path": "/optimizer/name/x", "value": 1}], "/optimizer/name/x", "neither object", ""),
        ([{"op": "copy", "from": "/optimizer/name/0", "path": "/x"}],
         "/optimizer/name/0", "does not exist", ""),
        ([{"op": "remove", "path": "/optimizer/args/betas/2"}], "/optimizer/args/betas/2", "2 elements", ""),
        ([{"op": "remove", "path": "/optimizer/args/betas/-1"}],
         "/optimizer/args/betas/-1", "has no '-1'", ""),
        ([{"op": "add", "path": "/optimizer/args/betas/9", "value": 1}],
         "/optimizer/args/betas/9", "cannot", ""),
        ([{"op": "move", "from": "/optimizer", "path": "/optimizer/x"}],
         "/optimizer/x", "cannot be applied", ""),
        ([{"op": "replace", "path": "", "value": {}}], "/patch/0/path", "must not be the whole of Φ", ""),
        ([{"op": "copy", "from": "", "path": "/x"}], "/patch/0/from", "must not be the whole of Φ", ""),
        ([{"op": "replace", "path": "/optimizer/name"}], "/patch/0/value", "is required by replace", ""),
        ([{"op": "move", "path": "/x"}], "/patch/0/from", "is required by move", ""),
        ([{"path": "/x"}], "/patch/0/op", "must be one of add, remove", ""),
        ([{"op": "set", "path": "/x"}], "/patch/0/op", "must be one of add, remove", ""),
        ([{"op": ["add"], "path": "/x"}], "/patch/0/op", "must be one of add, remove", ""),
        ([{"op": "add", "value": 1}], "/patch/0/path", "is required by add", ""),
        ([{"op": "add", "path": "x", "value": 1}], "/patch/0/path", "starts with /", "/optimizer/args/lr"),
        ([{"op": "add", "path": "/~x", "value": 1}], "/patch/0/path", "~ is written ~0", ""),
        ([{"op": "add", "path": 3, "value": 1}], "/patch/0/path", "JSON Pointer, as text", ""),
        ([{"op": "add", "path": "/x", "value": math.nan}], "/patch/0/value", "finite", ""),
        (["x"], "/patch/0", "must be an object", ""),
        ({"op": "remove", "path": "/x"}, "/patch", "must be a list of operations", ""),
        (None, "/patch", "must be a list of operations", ""),
        ([{"op": "remove", "path": "/x"}] * 201, "/patch", "at most 200 operations", ""),
    ],
)  # fmt: skip
def test_a_bad_patch_is_refused_with_pointer_rule_and_hint(patch, pointer, rule, hint):
    finding = refused(patch)
    assert finding.pointer == pointer
    assert rule in finding.rule
    assert hint in finding.hint


def test_all_malformed_operations_are_reported_together():
    with pytest.raises(RefusedDelta) as caught:
        apply_delta(PHI, [{"op": "set"}, {"op": "add", "path": "/ok", "value": 1}, {"op": "move"}])
    assert [finding.pointer for finding in caught.value.findings] == [
        "/patch/0/op",
        "/patch/2/path",
        "/patch/2/from",
    ]


def test_a_patch_writes_only_below_the_allowed_prefixes():
    allowed = ["/optimizer", "/components"]
    ok = [
        {"op": "test", "path": "/architecture/layers/output", "value": "inputs"},
        {"op": "add", "path": "/components", "value": {}},
        {"op": "copy", "from": "/architecture/layers", "path": "/optimizer/x"},
    ]
    assert apply_delta(PHI, ok, allowed)["optimizer"]["x"] == {"output": "inputs"}
    for operation in (
        {"op": "remove", "path": "/architecture/layers"},
        {"op": "add", "path": "/optimizer2", "value": 1},
        {"op": "move", "from": "/architecture", "path": "/optimizer/x"},
        {"op": "move", "from": "/optimizer/name", "path": "/architecture/x"},
        {"op": "add", "path": "/optimizer~1x", "value": 1},
    ):
        finding = refused([operation], allowed_prefixes=allowed)
        assert finding.rule == "is outside what this persona may patch"
        assert finding.hint == "Allowed: /optimizer, /components."
    assert "Allowed: nothing." in refused([{"op": "remove", "path": "/optimizer"}], allowed_prefixes=[]).hint


def test_copies_that_double_are_stopped_before_they_fill_the_memory():
    patch = [{"op": "add", "path": "/x", "value": {}}]
    patch += [{"op": "copy", "from": "/x", "path": f"/x/{index}"} for index in range(100)]
    assert "must not" in refused(patch).rule


def test_operations_apply_all_or_none():
    phi = copy.deepcopy(PHI)
    refused([{"op": "remove", "path": "/optimizer"}, {"op": "remove", "path": "/missing"}], phi)
    assert phi == PHI


# ------------------------------------------------------------------ diff


def test_a_diff_names_only_the_changed_fields():
    changed = copy.deepcopy(PHI)
    changed["optimizer"]["args"]["lr"] = 0.01
    changed["optimizer"]["args"]["betas"] = [0.8, 0.999]
    del changed["optimizer"]["grad_clip"]
    changed["a/b"]["~"] = 2
    changed["new"] = {"x": 1}
    assert diff(PHI, changed) == [
        {"op": "replace", "path": "/a~1b/~0", "value": 2},
        {"op": "add", "path": "/new", "value": {"x": 1}},
        {"op": "replace", "path": "/optimizer/args/betas", "value": [0.8, 0.999]},
        {"op": "replace", "path": "/optimizer/args/lr", "value": 0.01},
        {"op": "remove", "path": "/optimizer/grad_clip"},
    ]


def test_a_diff_sees_json_values_not_python_values():
    assert diff({"x": 1}, {"x": 1.0}) == []
    assert diff({"x": 1}, {"x": True}) == [{"op": "replace", "path": "/x", "value": True}]
    assert diff({"x": None}, {}) == [{"op": "remove", "path": "/x"}]
