from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evorank.model.component_interface import EXAMPLES
from evorank.model.config import (
    MAX_ACTIVATIONS,
    SystemConfig,
    check_config,
    default_phi,
    parse_config,
)
from evorank.model.delta import apply_delta, fingerprint
from evorank.model.errors import Finding, RefusedDelta
from evorank.model.expression import FUNCTIONS
from evorank.model.system import Feature, LogSchema, Objective

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine too

LOG = LogSchema(
    features=(
        Feature("user_id", "categorical", size=100),
        Feature("item_id", "categorical", size=200),
        Feature("age", "numeric"),
        Feature("recent", "history", size=200, length=10, of="item_id"),
    ),
    columns={"click": "BOOLEAN", "watch_s": "DOUBLE", "duration_s": "DOUBLE", "tag": "VARCHAR"},
    training_rows=1000,
)
PHI = default_phi(
    label="clicked * watched",
    factors={"watched": "LEAST(watch_s / duration_s, 1.0)", "clicked": "CAST(click AS DOUBLE)"},
)
GATE = {"kind": "layer", "source": EXAMPLES["layer"], "description": "a gate"}


def patched(*operations: tuple[str, str, Any]) -> dict[str, Any]:
    return apply_delta(PHI, [{"op": op, "path": path, "value": value} for op, path, value in operations])


def only_finding(*operations: tuple[str, str, Any]) -> Finding:
    findings = check_config(patched(*operations), LOG)
    assert len(findings) == 1, findings
    return findings[0]


# ------------------------------------------------------------------ the schema


def described(schema: dict[str, Any], where: str = "Φ"):
    """Every (place, description) of a JSON Schema's fields, models and definitions."""
    for name, field in schema.get("properties", {}).items():
        yield f"{where}.{name}", field.get("description", "")
    for name, model in schema.get("$defs", {}).items():
        yield name, model.get("description", "")
        yield from described(model, name)


def test_every_field_of_the_schema_is_described():
    places = dict(described(SystemConfig.model_json_schema()))
    assert {"Φ.optimizer", "Optimizer.batch_size", "Rule.args", "Reward.label", "Component.source"} <= set(
        places
    )
    assert [place for place, text in places.items() if len(text) < 10] == []


def test_the_schema_accepts_what_the_checks_accept():
    schema = SystemConfig.model_json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"optimizer", "architecture", "reward"}
    assert set(schema["$defs"]["Component"]["properties"]["kind"]["enum"]) == {
        "layer",
        "activation",
        "optimizer",
        "schedule",
    }


def test_the_default_is_the_papers_starting_point():
    assert check_config(PHI, LOG) == []
    assert (PHI["optimizer"]["name"], PHI["optimizer"]["args"]) == ("Adagrad", {"lr": 0.1})
    assert PHI["architecture"]["layers"] == {
        "h1": "relu(dense(inputs, 128))",
        "h2": "relu(dense(h1, 128))",
        "output": "layer_norm(h2)",
    }
    assert json.loads(json.dumps(PHI)) == PHI


def test_parsing_gives_typed_parts_and_the_objective():
    config = parse_config(PHI, LOG)
    assert config.optimizer.batch_size == 4096
    assert config.optimizer.schedule.name == "constant"
    assert config.objective == Objective("clicked * watched", PHI["reward"]["factors"], "bce")


def test_a_sparse_configuration_is_valid_and_the_schema_says_what_it_leaves_out():
    sparse = {
        "optimizer": {"name": "Adam"},
        "architecture": {"layers": {"output": "age"}},
        "reward": {"label": "click"},
    }
    config = parse_config(sparse, LOG)
    whole = config.model_dump(mode="json")
    assert parse_config(whole, LOG) == config
    definitions = SystemConfig.model_json_schema()["$defs"]
    for part, model in (("optimizer", "Optimizer"), ("architecture", "Architecture"), ("reward", "Reward")):
        fields = definitions[model]["properties"]
        assert {**whole[part], **sparse[part]} == {
            name: sparse[part].get(name, field.get("default", "no default")) for name, field in fields.items()
        }


def test_configurations_share_no_defaults():
    layers = {"layers": {"output": "age"}}
    one, two = (
        SystemConfig.model_validate(
            {"optimizer": {"name": "Adam"}, "architecture": layers, "reward": {"label": "1"}}
        )
        for _ in range(2)
    )
    one.optimizer.args["lr"] = 1
    one.optimizer.schedule.args["warmup"] = 0.1
    assert (two.optimizer.args, two.optimizer.schedule.args) == ({}, {})


def test_the_configuration_is_read_without_torch():
    code = "import sys, evorank.model.config, evorank.model.delta; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------ findings


@pytest.mark.parametrize(
    ("operation", "rule", "hint"),
    [
        (("add", "/optimizer/batchsize", 64), "is not a field of Φ", "Did you mean 'batch_size'?"),
        (("add", "/optimiser", {}), "is not a field of Φ", "Did you mean 'optimizer'?"),
        (("add", "/reward/weights", {}), "is not a field of Φ", "There are: factors, label, loss."),
        (("replace", "/optimizer/batch_size", 8), "greater than or equal to 16", "16 to 262144"),
        (("replace", "/optimizer/batch_size", 10**6), "less than or equal to 262144", "16 to 262144"),
        (("replace", "/optimizer/batch_size", 64.5), "must be an integer", "16 to 262144"),
        (("replace", "/optimizer/batch_size", "64"), "must be an integer", "16 to 262144"),
        (("replace", "/optimizer/batch_size", True), "must be an integer", "16 to 262144"),
        (("replace", "/optimizer/epochs", 0), "must be greater than 0", "(0, 100]"),
        (("replace", "/optimizer/epochs", 101), "less than or equal to 100", "(0, 100]"),
        (("replace", "/optimizer/epochs", "1"), "must be a number", "(0, 100]"),
        (("replace", "/optimizer/grad_clip", -1), "must be greater than 0", "no clipping"),
        (("replace", "/optimizer/name", ""), "must not be empty", "torch.optim"),
        (("replace", "/optimizer/precision", "float16"), "must be 'float32' or 'bfloat16'", "bfloat16"),
        (("replace", "/optimizer/schedule", "cosine"), "must be an object", "learning rate"),
        (("replace", "/optimizer/embedding", {"args": {}}), "is required", "RowwiseAdagrad"),
        (("replace", "/optimizer/args", [0.1]), "must be an object", "Keyword arguments"),
        (("add", "/optimizer/args/betas", {"b": 1}), "of a kind that does not fit", "betas"),
        (("replace", "/architecture", None), "must be an object", "network"),
        (("replace", "/architecture/embedding_dim", 0), "greater than or equal to 1", "1 to 512"),
        (("replace", "/architecture/layers", {}), "must not be empty", "`output`"),
        (("replace", "/architecture/layers/h1", 128), "must be text", "Let-bindings"),
        (("replace", "/architecture/layers/h1", "relu(dense(inputs, 0))"), "in [1, 4096]", ""),
        (("replace", "/reward/loss", "logloss"), "must be 'bce', 'mse' or 'huber'", "log-loss"),
        (("replace", "/reward/label", None), "must be text", "Never NULL"),
        (("replace", "/reward/label", "clikked"), "names no column or factor", "Did you mean 'clicked'?"),
        (("replace", "/reward/label", "tag"), "must be a number or a boolean", "CAST it"),
        (("replace", "/reward/factors/watched", "(SELECT 1)"), "must not use a subquery", "scalar"),
        (("add", "/reward/factors/click", "1"), "has the name of a log column", "Rename it."),
        (
            ("add", "/components/Gate", {**GATE, "kind": "loss"}),
            "must be 'layer'",
            "are called in architecture",
        ),
        (("add", "/components/Gate", {**GATE, "source": "class Gate("}), "must be Python that parses", ""),
        (
            ("add", "/components/Gate", {**GATE, "source": "x = 1"}),
            "exactly one public class or function",
            "",
        ),
        (("add", "/components/relu", GATE), "is the name of a built-in function", "Choose another name."),
        (("add", "/components/my gate", GATE), "must be a name of letters", "Choose another name."),
    ],
)
def test_a_finding_names_pointer_rule_and_what_to_try(operation, rule, hint):
    finding = only_finding(operation)
    assert finding.pointer.startswith(operation[1])
    assert rule in finding.rule
    assert hint in finding.hint


def test_a_missing_field_is_pointed_at():
    phi = copy.deepcopy(PHI)
    del phi["reward"]["label"]
    (finding,) = check_config(phi, LOG)
    assert (finding.pointer, finding.rule) == ("/reward/label", "is required")


def test_findings_of_all_parts_come_together():
    findings = check_config(
        patched(
            ("replace", "/architecture/layers/h1", "dense(input, 4)"),
            ("replace", "/reward/label", "clik"),
            ("add", "/components/1", GATE),
        ),
        LOG,
    )
    assert {finding.pointer for finding in findings} == {
        "/architecture/layers/h1",
        "/reward/label",
        "/components/1",
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["lr", "epochs"])
def test_nan_and_infinity_are_refused(place: str, value: float):
    phi = copy.deepcopy(PHI)
    holder = phi["optimizer"]["args"] if place == "lr" else phi["optimizer"]
    holder[place] = value
    (finding,) = check_config(phi, LOG)
    assert finding.rule == "must be a finite number"
    assert finding.pointer.endswith(f"/{place}")


def test_an_integer_written_as_a_float_is_the_same_candidate():
    phi = patched(("replace", "/optimizer/batch_size", 4096.0))
    assert parse_config(phi, LOG) == parse_config(PHI, LOG)
    assert fingerprint(phi) == fingerprint(PHI)


def test_a_batch_that_cannot_fit_in_memory_is_refused_with_one_that_can():
    wide = ("replace", "/architecture/layers/h1", "relu(dense(inputs, 4096))")
    finding = only_finding(wide, ("replace", "/optimizer/batch_size", 262_144))
    assert finding.pointer == "/optimizer/batch_size"
    smaller = int(finding.hint.split()[1])
    assert smaller * 4096 < MAX_ACTIVATIONS
    assert check_config(patched(wide, ("replace", "/optimizer/batch_size", smaller)), LOG) == []


def test_parse_raises_every_finding():
    with pytest.raises(RefusedDelta, match="is not a field of Φ") as caught:
        parse_config(patched(("add", "/optimizer/lr", 1), ("add", "/x", 1)), LOG)
    assert len(caught.value.findings) == 2


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["inputs", "click"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = sorted(f"/{part}/{field}" if field else f"/{part}" for part in PHI for field in (*PHI[part], None))


@given(st.sampled_from(PLACES), JUNK)
@settings(LAW, max_examples=150)
def test_junk_anywhere_is_found_or_harmless_and_never_raises(place: str, junk: Any):
    phi = copy.deepcopy(PHI)
    *parents, last = place[1:].split("/")
    holder = phi[parents[0]] if parents else phi
    holder[last] = junk
    findings = check_config(phi, LOG)
    if not findings:
        assert parse_config(phi, LOG).optimizer.name


@given(JUNK)
@LAW
def test_junk_instead_of_a_configuration_never_raises(junk: Any):
    assert check_config(junk, LOG)


# ------------------------------------------------------------------ components


@pytest.mark.parametrize(
    ("kind", "operation"),
    [
        ("layer", ("replace", "/architecture/layers/h1", "relu(Own(inputs, 16))")),
        ("activation", ("replace", "/architecture/layers/h1", "Own(dense(inputs, 4))")),
        ("optimizer", ("replace", "/optimizer/name", "Own")),
        ("optimizer", ("replace", "/optimizer/embedding", {"name": "Own"})),
        ("schedule", ("replace", "/optimizer/schedule", {"name": "Own", "args": {"power": 2.0}})),
    ],
)
def test_a_candidate_may_use_a_component_wherever_its_kind_fits(kind, operation):
    own = ("add", "/components/Own", {"kind": kind, "source": EXAMPLES[kind]})
    assert check_config(patched(own, operation), LOG) == []


@pytest.mark.parametrize(
    ("kind", "operation", "pointer", "rule"),
    [
        (
            "layer",
            ("replace", "/architecture/layers/h1", "Own(inputs)"),
            "/architecture/layers/h1",
            "Own(x, units) needs 'units'",
        ),
        (
            "layer",
            ("replace", "/architecture/layers/h1", "Own(inputs, rate=1)"),
            "/architecture/layers/h1",
            "Own(x, units) has no argument 'rate'",
        ),
        (
            "layer",
            ("replace", "/architecture/layers/h1", "Own(3, 4)"),
            "/architecture/layers/h1",
            "`x` of Own(x, units) must be a value, not a number",
        ),
        (
            "layer",
            ("replace", "/architecture/layers/h1", "Own(input, 4)"),
            "/architecture/layers/h1",
            "no feature or binding is called 'input'",
        ),
        (
            "schedule",
            ("replace", "/optimizer/schedule", {"name": "Own", "args": {"powr": 2.0}}),
            "/optimizer/schedule/args/powr",
            "is not an argument of the component Own",
        ),
        (
            "optimizer",
            ("replace", "/optimizer/embedding", {"name": "Own", "args": {"momentum": 2.0}}),
            "/optimizer/embedding/args/momentum",
            "is not an argument of the component Own",
        ),
    ],
)
def test_what_is_wrong_with_the_use_of_a_component_is_told_without_running_it(kind, operation, pointer, rule):
    source = EXAMPLES[kind].replace("(width, 2 * units)", "(width, 2 * units, 1 / 0)")
    finding = only_finding(
        ("add", "/components/Own", {"kind": kind, "source": source}),
        operation,
    )
    assert (finding.pointer, finding.rule) == (pointer, rule)


def test_findings_of_other_layers_are_told_beside_a_component_whose_shape_is_unknown():
    phi = patched(
        ("add", "/components/Own", GATE),
        ("replace", "/architecture/layers/h1", "Own(inputs, 16)"),
        ("replace", "/architecture/layers/h2", "dense(h1, 0)"),
        ("replace", "/architecture/layers/output", "dense(age, 0)"),
    )
    assert {f.pointer.split("/")[-1] for f in check_config(phi, LOG)} == {"h2", "output"}


def test_a_component_of_the_wrong_kind_is_refused_for_that():
    finding = only_finding(("add", "/components/Gate", GATE), ("replace", "/optimizer/name", "Gate"))
    assert finding.rule == "needs a component of kind optimizer"


def test_a_component_that_nothing_uses_is_valid_and_part_of_the_fingerprint():
    phi = patched(("add", "/components/Gate", GATE))
    assert check_config(phi, LOG) == []
    other = patched(("add", "/components/Gate", {**GATE, "source": GATE["source"] + "\n"}))
    assert len({fingerprint(PHI), fingerprint(phi), fingerprint(other)}) == 3


def test_a_component_cannot_take_the_name_of_any_built_in_function():
    for name in FUNCTIONS:
        assert "built-in function" in only_finding(("add", f"/components/{name}", GATE)).rule
    assert "name of a schedule" in only_finding(("add", "/components/cosine", GATE)).rule
