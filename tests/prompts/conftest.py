"""A hand-made briefing on the built-in ranker's Φ: small, complete, and with a journal of every outcome."""

from __future__ import annotations

from typing import Any

import pytest

from evorank.model.system import Feature, LogSchema
from evorank.personas.persona import load_personas
from evorank.prompts.briefing import Briefing, Pool

PHI: dict[str, Any] = {
    "optimizer": {"name": "Adagrad", "args": {"lr": 0.1}, "batch_size": 4096, "epochs": 1},
    "architecture": {
        "embedding_dim": 16,
        "layers": {"h1": "relu(dense(inputs, 128))", "output": "layer_norm(h1)"},
    },
    "reward": {"factors": {}, "label": "CAST(click AS DOUBLE)", "loss": "bce"},
}


def attempt(step: int, outcome: str, difference: float | None = None, **more: Any) -> dict[str, Any]:
    comparison = None
    if difference is not None:
        comparison = {
            "metric": "log_loss", "lower_is_better": True, "difference": difference,
            "low": difference - 0.001, "high": difference + 0.001, "effort": "full",
            "candidate": {"train_cpu_seconds": 1.0}, "production": {"train_cpu_seconds": 2.0},
        }  # fmt: skip
    return {
        "id": str(step), "run": "run-1", "step": step,
        "persona": "optimizer", "category": "explore", "outcome": outcome,
        "fingerprint": f"{step:02d}" * 32, "base": "p" * 64, "production": "p" * 64,
        "changes": [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.01 * step}],
        "hypothesis": f"step {step} should help", "reason": outcome, "comparison": comparison,
        "started_at": f"2026-01-01T00:00:{step:02d}",
    } | more  # fmt: skip


METRICS = [
    {"name": "active_days", "description": "Days with a visit.", "higher_is_better": True, "success": True,
     "margin": None},
    {"name": "dislike_rate", "description": "", "higher_is_better": False, "success": False, "margin": 0.05},
]  # fmt: skip


LAUNCH = {"outcome": "launch", "rule": "superior_and_safe", "reason": "It won, and must win twice."}


def effect(metric: str, lift: float | None) -> dict[str, Any]:
    low, high = (None, None) if lift is None else (lift - 0.004, lift + 0.004)
    return {"metric": metric, "level": 0.95, "difference": 3 * (lift or 0.1), "low": -0.5, "high": 0.5,
            "lift": lift, "lift_low": low, "lift_high": high, "p_value": 0.01}  # fmt: skip


def experiment(
    number: int, result: str | None = None, lift: float | None = None, **more: Any
) -> dict[str, Any]:
    """As Experiment.model_dump() gives it, of attempt `number`; with a lift it was read at its horizon."""
    rule = "superior_and_safe" if result in ("launched", "superseded") else "no_superior_metric"
    decision = {
        "outcome": "launch" if rule == "superior_and_safe" else "no_launch",
        "rule": rule,
        "reason": "",
    }
    return {
        "id": f"experiment-{number}", "attempt": str(number), "proposed_by": "optimizer",
        "category": "explore", "hypothesis": f"experiment {number} should help", "production": "p" * 64,
        "fingerprint": f"{number:02d}" * 32, "proxy": None, "replication_of": None,
        "changes": [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.01 * number}],
        "phase": "completed" if result else "proposed", "result": result,
        "reason": f"why it was {result}" if result else "", "times": {"proposed": f"2026-02-{number:02d}"},
        "plan": {"start": "2026-02-01T00:00:00", "horizon_days": 14, "metrics": METRICS}, "readings": [],
        "effects": [] if lift is None else [effect("active_days", lift), effect("dislike_rate", -0.01)],
        "decision": None if lift is None else decision,
    } | more  # fmt: skip


@pytest.fixture
def attempt_of():
    return attempt


@pytest.fixture
def experiment_of():
    return experiment


@pytest.fixture
def pool(briefing) -> Pool:
    """Two places: one experiment is a week into its test, three wait, two have ended."""
    week = {"until": "2026-02-08T00:00:00", "users": [500, 501], "failures": [],
            "looks": [{"metric": "dislike_rate", "harm": 0.7777}]}  # fmt: skip
    return Pool(
        persona=load_personas()["strategist"],
        surface="demo",
        description=briefing.description,
        metrics=METRICS,
        places=2,
        horizon_days=14,
        production=PHI,
        production_fingerprint="p" * 64,
        candidates=[
            experiment(4, phase="live", readings=[week], proxy=attempt(4, "better", -0.03)["comparison"]),
            experiment(5, plan=None, proposed_by="reward", category="innovate",
                       changes=[{"op": "replace", "path": "/reward/label", "value": "liked"}]),
            experiment(6, plan=None, attempt=None, proposed_by="ada", category=None),
            experiment(7, plan=None, replication_of="experiment-2"),
        ],
        steering={"s1": "Prefer cheap training."},
        journal=briefing.journal,
        experiments=[experiment(2, "no_launch", 0.02, decision=LAUNCH), experiment(1, "no_launch", -0.01)],
    )  # fmt: skip


@pytest.fixture
def briefing() -> Briefing:
    return Briefing(
        persona=load_personas()["optimizer"],
        surface="demo",
        description="Short videos on a start page.",
        objectives={"explore": 0.4, "exploit": 0.4, "innovate": 0.2},
        wanted={"explore": 0, "exploit": 1, "innovate": 0},
        guardrails=["parameters must be at most 1000000"],
        schema={"type": "object", "properties": {"optimizer": {"description": "how weights are learned"}}},
        patchable=["/optimizer"],
        production=PHI,
        production_fingerprint="p" * 64,
        base=PHI,
        base_fingerprint="p" * 64,
        log=LogSchema(
            features=(Feature("user_id", "categorical", size=100), Feature("age", "numeric")),
            columns={"click": "BOOLEAN", "watch_s": "DOUBLE"},
            training_rows=1000,
        ),
        functions={"dense(x, units, bias=True)": "x W + b"},
        steering={"s1": "Prefer cheap training."},
        journal=[
            attempt(1, "worse", 0.02),
            attempt(2, "better", -0.01),
            attempt(3, "refused", findings=[{"pointer": "/optimizer/args/lr", "rule": "must be positive"}]),
            attempt(4, "better", -0.03),
            attempt(5, "failed", reason="the worker ran out of memory"),
        ],
        insights=[{"query": "SELECT avg(click) FROM log", "table": "avg\n0.21"}],
        own_run="run-1",
        run="run-1",
        step=6,
        seed=7,
    )
