"""A hand-made briefing on the built-in ranker's Φ: small, complete, and with a journal of every outcome."""

from __future__ import annotations

from typing import Any

import pytest

from evorank.model.system import Feature, LogSchema
from evorank.personas.persona import load_personas
from evorank.prompts.briefing import Briefing, Quota

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
        "id": str(step), "step": step, "persona": "optimizer", "category": "explore", "outcome": outcome,
        "fingerprint": f"{step:02d}" * 32, "base": "p" * 64, "production": "p" * 64,
        "changes": [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.01 * step}],
        "hypothesis": f"step {step} should help", "reason": outcome, "comparison": comparison,
        "started_at": f"2026-01-01T00:00:{step:02d}",
    } | more  # fmt: skip


@pytest.fixture
def attempt_of():
    return attempt


@pytest.fixture
def briefing() -> Briefing:
    return Briefing(
        persona=load_personas()["optimizer"],
        surface="demo",
        description="Short videos on a start page.",
        objectives={"explore": Quota(0.4, 2), "exploit": Quota(0.4, 1), "innovate": Quota(0.2, 0)},
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
        steering=["Prefer cheap training."],
        journal=[
            attempt(1, "worse", 0.02),
            attempt(2, "better", -0.01),
            attempt(3, "refused", findings=[{"pointer": "/optimizer/args/lr", "rule": "must be positive"}]),
            attempt(4, "better", -0.03),
            attempt(5, "failed", reason="the worker ran out of memory"),
        ],
        insights=[{"query": "SELECT avg(click) FROM log", "table": "avg\n0.21"}],
        run="run-1",
        step=6,
        seed=7,
    )
