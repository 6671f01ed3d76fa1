"""What the paper's agents found must be a small delta on the paper's starting point."""

from __future__ import annotations

from typing import Any

from evorank.model.config import check_config, default_phi, parse_config
from evorank.model.delta import apply_delta, diff, fingerprint
from evorank.model.expression import Plan, Vector, plan
from evorank.model.sql import label_query
from evorank.model.system import Feature, LogSchema

LOG = LogSchema(
    features=(
        Feature("user_id", "categorical", size=1000),
        Feature("item_id", "categorical", size=5000),
        Feature("category", "categorical", size=30),
        Feature("duration", "numeric"),
    ),
    columns={
        "click": "BOOLEAN",
        "watch_s": "DOUBLE",
        "duration_s": "DOUBLE",
        "liked": "BOOLEAN",
        "shared": "BOOLEAN",
    },
)
PRODUCTION = default_phi(
    label="clicked * watched",
    factors={"clicked": "CAST(click AS DOUBLE)", "watched": "LEAST(watch_s / duration_s, 1.0)"},
)
OPTIMIZER, ARCHITECTURE, REWARD = ["/optimizer", "/components"], ["/architecture", "/components"], ["/reward"]


def candidate(patch: list[dict[str, Any]], allowed: list[str], operations: int) -> dict[str, Any]:
    """The delta applied: new, valid, small, and within what its persona may patch."""
    phi = apply_delta(PRODUCTION, patch, allowed)
    assert check_config(phi, LOG) == []
    assert fingerprint(phi) != fingerprint(PRODUCTION)
    assert len(diff(PRODUCTION, phi)) <= operations
    return phi


def network(phi: dict[str, Any]) -> Plan:
    return plan(phi["architecture"]["layers"], LOG, phi["architecture"]["embedding_dim"])


def layer(name: str, text: str, op: str = "add") -> dict[str, Any]:
    return {"op": op, "path": f"/architecture/layers/{name}", "value": text}


def test_rmsprop_instead_of_adagrad():
    phi = candidate(
        [
            {"op": "test", "path": "/optimizer/name", "value": "Adagrad"},
            {"op": "replace", "path": "/optimizer/name", "value": "RMSprop"},
            {
                "op": "replace",
                "path": "/optimizer/args",
                "value": {"lr": 0.001, "alpha": 0.9, "momentum": 0.1},
            },
        ],
        OPTIMIZER,
        operations=4,
    )
    assert parse_config(phi, LOG).optimizer.name == "RMSprop"


def test_a_quarter_and_an_eighth_of_the_training():
    for share in (0.25, 0.125):
        phi = candidate(
            [{"op": "replace", "path": "/optimizer/epochs", "value": share}], OPTIMIZER, operations=1
        )
        assert parse_config(phi, LOG).optimizer.epochs == share


def test_a_gated_path():
    phi = candidate(
        [
            layer("shared", "layer_norm(h2)"),
            layer("value_path", "dense(shared, 32)"),
            layer("gate_path", "sigmoid(dense(shared, 32))"),
            layer("output", "value_path * gate_path", "replace"),
        ],
        ARCHITECTURE,
        operations=4,
    )
    made = network(phi)
    assert made.output.shape == Vector(32)
    assert [binding.name for binding in made.bindings][-3:] == ["value_path", "gate_path", "output"]


def test_gelu_and_layer_norm_in_the_gate():
    phi = candidate(
        [
            layer("gate", "sigmoid(dense(layer_norm(gelu(dense(h1, 64))), 128))"),
            layer("output", "layer_norm(residual(h1, h2 * gate))", "replace"),
        ],
        ARCHITECTURE,
        operations=2,
    )
    assert network(phi).output.shape == Vector(128)


def test_wide_and_deep():
    phi = candidate(
        [
            layer("deep", "dense(layer_norm(h2), 1)"),
            layer("output", "deep + wide(user_id, item_id, category, duration)", "replace"),
        ],
        ARCHITECTURE,
        operations=2,
    )
    made = network(phi)
    assert made.output.shape == Vector(1)
    assert not made.head
    assert made.output.parameters == 1000 + 5000 + 30 + 1 + 1


def test_a_reward_factor_for_active_engagement():
    phi = candidate(
        [
            {
                "op": "add",
                "path": "/reward/factors/active",
                "value": "CASE WHEN liked OR shared THEN 1.0 WHEN watched > 0.5 THEN 0.7 ELSE 0.4 END",
            },
            {"op": "replace", "path": "/reward/label", "value": "clicked * watched * active"},
        ],
        REWARD,
        operations=2,
    )
    assert '"active"' in label_query(parse_config(phi, LOG).objective, "log")


def test_a_new_factor_times_a_sum_of_factors():
    candidate(
        [
            {"op": "add", "path": "/reward/factors/fresh", "value": "EXP(-duration_s / 600)"},
            {
                "op": "replace",
                "path": "/reward/label",
                "value": "fresh * (clicked + watched) * LEAST(watched, 0.5)",
            },
        ],
        REWARD,
        operations=2,
    )
