from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evorank.model.errors import Finding, RefusedDelta
from evorank.model.expression import (
    FUNCTIONS,
    Call,
    Name,
    Number,
    Parameter,
    Plan,
    Sequence,
    Signature,
    Unshaped,
    Vector,
    arguments,
    parse_layer,
    plan,
    table_of,
)
from evorank.model.system import Feature, LogSchema

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine too

LOG = LogSchema(
    features=(
        Feature("user_id", "categorical", size=100),
        Feature("item_id", "categorical", size=200),
        Feature("age", "numeric"),
        Feature("watched", "history", size=200, length=10, of="item_id"),
    ),
    columns={"click": "BOOLEAN"},
)
DIM = 8
INPUTS = 3 * DIM + 1


def planned(output: str, **layers: str) -> Plan:
    return plan({**layers, "output": output}, LOG, DIM)


def refused(output: str, **layers: str) -> Finding:
    with pytest.raises(RefusedDelta) as caught:
        planned(output, **layers)
    assert len(caught.value.findings) == 1, caught.value.findings
    return caught.value.findings[0]


def findings(action: Callable[[], object]) -> tuple[Finding, ...]:
    try:
        action()
    except RefusedDelta as refusal:
        return refusal.findings
    return ()


# ------------------------------------------------------------------ parsing


def test_text_becomes_names_numbers_and_calls():
    assert parse_layer("relu(dense(inputs, 64, bias=False))") == Call(
        "relu", (Call("dense", (Name("inputs"), Number(64)), (("bias", Number(False)),)),)
    )


def test_operators_become_calls_and_constants_are_folded():
    x = Name("x")
    assert parse_layer("x + 2 * 3") == Call("add", (x, Number(6)))
    assert parse_layer("1 - x") == Call("subtract", (Number(1), x))
    assert parse_layer("-x * -0.5") == Call("multiply", (Call("multiply", (Number(-1), x)), Number(-0.5)))


def test_an_integer_valued_float_is_an_integer_literal():
    assert parse_layer("dense(x, 64.0)") == parse_layer("dense(x, 64)")


def test_an_expression_may_span_lines():
    assert parse_layer("relu(\n    x\n  )\n") == parse_layer("relu(x)")


@given(
    st.recursive(
        st.sampled_from(["inputs", "h1", "2", "0.25"]),
        lambda inner: st.one_of(
            st.builds(
                "{}({})".format,
                st.sampled_from(["relu", "concat", "dense"]),
                st.lists(inner, min_size=1, max_size=3).map(", ".join),
            ),
            st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
            st.builds("-{}".format, inner),
        ),
        max_leaves=8,
    )
)
@LAW
def test_a_node_printed_and_parsed_again_is_the_same_node(text: str):
    node = parse_layer(text)
    assert parse_layer(str(node)) == node


@given(st.text(max_size=200))
@LAW
def test_arbitrary_text_raises_nothing_but_a_refusal(text: str):
    assert all(finding.pointer == "/architecture/layers" for finding in findings(lambda: parse_layer(text)))


@given(st.text(alphabet="abx01(),.=*+-/ []{}:'\"%@~<>!&|^#\n\\", max_size=80))
@LAW
def test_text_made_of_syntax_raises_nothing_but_a_refusal(text: str):
    found = findings(lambda: planned(text))
    assert all(finding.pointer.startswith("/architecture/layers") for finding in found)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("__import__('os').system('id')", "must not contain"),
        ("inputs.__class__", "cannot use attribute"),
        ("inputs[0]", "must not contain '['"),
        ("lambda: inputs", "cannot use lambda"),
        ("(yield inputs)", "cannot use yield"),
        ("[x for x in inputs]", "must not contain '['"),
        ("inputs if age else age", "cannot use ifexp"),
        ("inputs / 2", "only the operators + - *"),
        ("inputs ** 9", "only the operators + - *"),
        ("(x := 1)", "cannot use namedexpr"),
        ("relu(*inputs)", "cannot use starred"),
        ("relu(**inputs)", "cannot use ** in a call"),
        ("relu(inputs)(age)", "cannot use call"),
        ("inputs; age", "is not an expression"),
        ("x = 3", "is not an expression"),
        ("", "must be an expression"),
        ("relu(" * 300 + "x" + ")" * 300, "is not an expression"),
        ("-" * 1500 + "x", "nested"),
        ("x + " * 400 + "x", "nested"),
        ("relu(x)" + " " * 2000, "at most 2000 characters"),
        ("x * 1e9", "must lie in [-1e6, 1e6]"),
        ("x * 1e999", "must lie in [-1e6, 1e6]"),
        ("x * 1j", "cannot use constant"),
        ("x\0", "must not contain"),
        ("ｘ + 1", "must not contain"),
    ],
)
def test_what_is_not_the_language_is_refused_with_the_rule(text: str, rule: str):
    with pytest.raises(RefusedDelta) as caught:
        parse_layer(text, "/architecture/layers/h1")
    (finding,) = caught.value.findings
    assert rule in finding.rule
    assert finding.pointer == "/architecture/layers/h1"


# ------------------------------------------------------------------ shapes and sizes


@pytest.mark.parametrize(
    ("text", "shape", "parameters"),
    [
        ("user_id", Vector(DIM), 0),
        ("age", Vector(1), 0),
        ("watched", Sequence(10, DIM), 0),
        ("inputs", Vector(INPUTS), 0),
        ("fields", Sequence(2, DIM), 0),
        ("dense(inputs, 64)", Vector(64), INPUTS * 64 + 64),
        ("dense(inputs, 64, bias=False)", Vector(64), INPUTS * 64),
        ("dense(watched, 4)", Sequence(10, 4), DIM * 4 + 4),
        ("layer_norm(inputs)", Vector(INPUTS), 2 * INPUTS),
        ("rms_norm(inputs)", Vector(INPUTS), INPUTS),
        ("softmax(inputs)", Vector(INPUTS), 0),
        ("dropout(inputs, 0.1)", Vector(INPUTS), 0),
        ("concat(user_id, age, item_id)", Vector(2 * DIM + 1), 0),
        ("cross(inputs, inputs)", Vector(INPUTS), INPUTS * INPUTS + INPUTS),
        ("cross(inputs, inputs, rank=4)", Vector(INPUTS), 2 * INPUTS * 4 + INPUTS),
        ("wide(user_id, item_id, age)", Vector(1), 100 + 200 + 1 + 1),
        ("dot(user_id, item_id)", Vector(1), 0),
        ("fm(fields)", Vector(1), 0),
        ("attention(item_id, watched)", Vector(DIM), 0),
        ("attention(inputs, watched)", Vector(DIM), INPUTS * DIM),
        ("mean(watched)", Vector(DIM), 0),
        ("sum(watched)", Vector(DIM), 0),
        ("residual(user_id, item_id)", Vector(DIM), 0),
        ("residual(inputs, item_id)", Vector(DIM), INPUTS * DIM),
        ("glu(inputs, 32)", Vector(32), 2 * (INPUTS * 32 + 32)),
        ("embed(user_id, 3)", Vector(3), 300),
        ("user_id + item_id", Vector(DIM), 0),
        ("age * user_id", Vector(DIM), 0),
        ("1 - user_id", Vector(DIM), 0),
        ("item_id * watched", Sequence(10, DIM), 0),
        *(
            (f"{name}(inputs)", Vector(INPUTS), 0)
            for name in ("relu", "gelu", "silu", "sigmoid", "tanh", "square")
        ),
        *((f"{name}(watched)", Sequence(10, DIM), 0) for name in ("softplus", "leaky_relu")),
    ],
)
def test_every_function_has_the_shape_and_parameters_it_documents(text, shape, parameters):
    made = planned(
        "wide(age) + 0 * dense(mean(dense(x_, 1)), 1)" if isinstance(shape, Sequence) else "x_", x_=text
    )
    binding = next(binding for binding in made.bindings if binding.name == "x_")
    assert (binding.shape, binding.parameters) == (shape, parameters)


def test_every_function_is_documented_in_one_line():
    for name, signature in FUNCTIONS.items():
        assert signature.name == name
        assert signature.doc
        assert "\n" not in signature.doc
        assert str(signature).startswith(f"{name}(")


def test_bindings_come_in_any_order_and_leave_in_order_of_need():
    made = planned("dense(b, 4) + dense(a, 4)", b="relu(a)", a="dense(inputs, 4)")
    assert [binding.name for binding in made.bindings] == ["a", "b", "output"]
    assert made.output is made.bindings[-1]


def test_bindings_that_output_does_not_need_are_left_out_but_checked():
    made = planned("relu(age)", unused="dense(inputs, 999)", after="relu(output)")
    assert [binding.name for binding in made.bindings] == ["output"]
    assert refused("relu(age)", unused="dense(inputs, 0)").pointer == "/architecture/layers/unused"


def test_parameters_count_functions_head_and_the_tables_in_use():
    made = planned("dense(user_id, 4)")
    assert made.tables == {"user_id": 100}
    assert made.head
    assert made.dense_parameters == (DIM * 4 + 4) + (4 + 1)
    assert made.parameters == made.dense_parameters + 100 * DIM


def test_an_output_of_width_one_is_the_logit_itself():
    made = planned("wide(user_id) + dot(user_id, item_id)")
    assert not made.head
    assert made.parameters == 101 + 300 * DIM


def test_a_history_reads_the_table_of_its_vocabulary():
    made = planned("mean(watched)")
    assert made.tables == {"item_id": 200}
    assert [feature.name for feature in made.features] == ["watched"]
    assert table_of(LOG.features[3]) == "item_id"


def test_features_with_tables_of_their_own_do_not_need_the_shared_one():
    assert planned("wide(user_id) + dense(embed(item_id, 2), 1)").tables == {}


def test_inputs_reads_every_feature():
    made = planned("inputs")
    assert made.features == LOG.features
    assert made.tables == {"user_id": 100, "item_id": 200}


def test_shapes_are_known_for_every_value_in_the_plan():
    made = planned("relu(dense(h, 4))", h="gelu(inputs) * 2")
    assert made.shapes[parse_layer("dense(h, 4)")] == Vector(4)
    assert made.shapes[Name("h")] == Vector(INPUTS)
    assert made.shapes[Name("inputs")] == Vector(INPUTS)
    assert made.activations >= 4 * INPUTS


def test_arguments_are_by_name_with_defaults():
    call = parse_layer("cross(inputs, x=h1)")
    assert isinstance(call, Call)
    assert arguments(call) == {"x0": Name("inputs"), "x": Name("h1"), "rank": 0}
    variadic = parse_layer("concat(a, b, c)")
    assert isinstance(variadic, Call)
    assert arguments(variadic) == {"a": (Name("a"), Name("b"), Name("c"))}


def test_a_log_with_numerics_only_has_inputs_and_no_fields():
    log = LogSchema((Feature("age", "numeric"),), {})
    assert plan({"output": "dense(inputs, 2)"}, log, 4).parameters == (1 * 2 + 2) + (2 + 1)
    with pytest.raises(RefusedDelta, match="no categorical features"):
        plan({"output": "fm(fields)"}, log, 4)
    with pytest.raises(RefusedDelta, match="the log has no features"):
        plan({"output": "inputs"}, LogSchema((), {}), 4)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("text", "rule", "hint"),
    [
        ("dense(input, 4)", "no feature or binding is called 'input'", "Did you mean 'inputs'?"),
        ("dense(user, 4)", "no feature or binding is called 'user'", "user_id"),
        ("reluu(inputs)", "no function is called 'reluu'", "Did you mean 'relu'?"),
        ("relu", "'relu' is a function", "Call it: relu(x)."),
        ("user_id(inputs)", "'user_id' is a value, not a function", ""),
        ("dense(inputs)", "dense(x, units, bias=True) needs 'units'", ""),
        ("dense(inputs, 0)", "must be an integer in [1, 4096]", ""),
        ("dense(inputs, 2.5)", "must be an integer in [1, 4096]", ""),
        ("dense(inputs, True)", "must be an integer in [1, 4096]", ""),
        ("dense(inputs, age)", "must be an integer in [1, 4096]", ""),
        ("dense(inputs, 4, bias=1)", "must be True or False", ""),
        ("dense(inputs, 4, bas=True)", "has no argument 'bas'", "Did you mean 'bias'?"),
        ("dense(inputs, 4, units=4)", "is given 'units' twice", ""),
        ("relu(inputs, 4)", "relu(x) takes 1 argument", ""),
        ("relu(3)", "must be a value, not a number", ""),
        ("relu()", "relu(x) needs 'x'", ""),
        ("dropout(inputs, 1)", "must be a number in [0, 0.95]", ""),
        ("cross(inputs, user_id)", "needs equal widths", "cross(inputs, inputs)"),
        ("cross(user_id, item_id, rank=9)", "cannot exceed the width 8", ""),
        ("dot(user_id, inputs)", "needs equal widths", "Project"),
        ("user_id + inputs", "need equal widths", "same units"),
        ("add(1, 2)", "at least one value that is not a number", ""),
        ("watched + fields", "sequences of one length", ""),
        ("concat(user_id)", "at least two", ""),
        ("concat(user_id, watched)", "must be a vector", "Pool it"),
        ("wide()", "at least one argument", ""),
        ("wide(inputs)", "must be the name of a categorical or numeric feature", "There are"),
        ("wide(user_id, user_id)", "names a feature twice", ""),
        ("embed(age, 4)", "must be the name of a categorical feature", "item_id"),
        ("embed(user_id, 4096)", "must be an integer in [1, 512]", ""),
        ("mean(inputs)", "must be a sequence", "`fields`"),
        ("attention(watched, watched)", "must be a vector", "Pool it"),
        ("residual(inputs, watched)", "two vectors, or two sequences", ""),
        ("watched", "output must be a vector", "Pool it"),
        ("2 + 3", "is only a number", ""),
        ("output + 1", "must not depend on itself", ""),
    ],
)
def test_a_bad_layer_is_refused_at_its_name_with_rule_and_hint(text: str, rule: str, hint: str):
    finding = refused(text)
    assert finding.pointer == "/architecture/layers/output"
    assert rule in finding.rule
    assert hint in finding.hint


def test_a_cycle_is_refused_once_and_shown():
    finding = refused("a", a="relu(b)", b="relu(c)", c="relu(a)")
    assert finding.rule == "must not depend on itself"
    assert finding.value == "a -> b -> c -> a"


def test_one_mistake_is_one_finding_however_much_depends_on_it():
    finding = refused("relu(b) + relu(a)", a="dense(nothing, 4)", b="relu(a)")
    assert finding.pointer == "/architecture/layers/a"


def test_all_bad_bindings_are_reported_together():
    with pytest.raises(RefusedDelta) as caught:
        planned("age", a="dense(inputs, 0)", b="foo(inputs)", c="inputs / 2")
    assert [finding.pointer.rsplit("/", 1)[1] for finding in caught.value.findings] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("user_id", "is the name of a feature"),
        ("inputs", "is a reserved name"),
        ("if", "is a Python keyword"),
        ("h 1", "must be a name of letters"),
        ("1h", "must be a name of letters"),
        ("h" * 65, "must be a name of letters"),
        ("é", "must be a name of letters"),
        ("", "must be a name of letters"),
    ],
)
def test_a_bad_binding_name_is_refused(name: str, rule: str):
    assert rule in refused("age", **{name: "relu(age)"}).rule


def test_output_must_be_defined():
    with pytest.raises(RefusedDelta, match="must define 'output'"):
        plan({"h1": "relu(age)"}, LOG, DIM)


GATE = Signature("Gate", (Parameter("x", "value"), Parameter("units", "number")), "", None)


def test_a_component_without_a_rule_leaves_the_plan_without_shapes():
    with pytest.raises(Unshaped, match="Components run only inside the evaluator"):
        plan({"output": "Gate(inputs, 2)"}, LOG, DIM, {"Gate": GATE})


def test_a_component_with_a_rule_is_planned_like_any_function():
    halving = replace(GATE, rule=lambda x, units: (Vector(x.width // units), 7))
    made = plan({"h": "relu(Gate(inputs, units=2))", "output": "Gate(h, 2)"}, LOG, DIM, {"Gate": halving})
    assert made.output.shape == Vector(INPUTS // 4)
    assert made.dense_parameters == 14 + INPUTS // 4 + 1


def test_a_component_that_fails_its_trial_is_told_where_its_source_is():
    def rule(x, units):
        raise RefusedDelta([Finding("/components/Gate/source", "is not finite")])

    with pytest.raises(RefusedDelta) as caught:
        plan({"output": "Gate(inputs, 2)"}, LOG, DIM, {"Gate": replace(GATE, rule=rule)})
    assert [f.pointer for f in caught.value.findings] == ["/components/Gate/source"]


def test_a_hint_lists_no_more_names_than_fit():
    log = LogSchema(tuple(Feature(f"feature_{i}", "numeric") for i in range(500)), {})
    with pytest.raises(RefusedDelta) as caught:
        plan({"output": "x"}, log, DIM)
    assert caught.value.findings[0].hint.endswith("and 463 more.")


def test_the_pooling_of_histories_counts_as_memory():
    assert planned("inputs").activations == INPUTS + 10 * DIM


def test_a_network_too_large_is_refused_before_it_is_built():
    wide = {"h0": "dense(inputs, 4096)"} | {f"h{i}": f"dense(h{i - 1}, 4096)" for i in range(1, 5)}
    with pytest.raises(RefusedDelta, match="at most 50,000,000 parameters besides embeddings"):
        plan({**wide, "output": "h4"}, LOG, DIM)
    many = LogSchema((Feature("user_id", "categorical", size=10_000_000),), {})
    assert plan({"output": "wide(user_id)"}, many, 512).parameters == 10_000_001
    with pytest.raises(RefusedDelta, match="Lower embedding_dim"):
        plan({"output": "user_id"}, many, 512)
    doubled = {"c0": "concat(inputs, inputs)"} | {
        f"c{i}": f"concat(c{i - 1}, c{i - 1})" for i in range(1, 40)
    }
    with pytest.raises(RefusedDelta, match="no value may have more than 65536 floats per row"):
        plan({**doubled, "output": "c39"}, LOG, DIM)


def test_a_network_of_too_many_parts_is_refused():
    with pytest.raises(RefusedDelta, match="at most 100 bindings"):
        plan({f"h{i}": "age" for i in range(101)}, LOG, DIM)
    row = "concat(" + ", ".join(["relu(age)"] * 60) + ")"
    with pytest.raises(RefusedDelta, match="at most 1000 calls"):
        plan({"output": "age"} | {f"h{i}": row for i in range(20)}, LOG, DIM)
