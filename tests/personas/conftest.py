"""Briefings for the embedded engineer on the built-in ranker's Φ and on somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from evorank.model.delta import apply_delta, diff, fingerprint
from evorank.model.functions import FUNCTIONS
from evorank.model.ranker import NeuralRanker
from evorank.model.system import Feature, LogSchema
from evorank.personas.embedded.engineer import EmbeddedEngineer
from evorank.personas.persona import load_personas
from evorank.prompts import render
from evorank.prompts.answers import Delta, Proposal
from evorank.prompts.briefing import Briefing

LOG = LogSchema(
    features=(
        Feature("user_id", "categorical", size=500),
        Feature("video_id", "categorical", size=300),
        Feature("age", "numeric"),
        Feature("recent", "history", size=300, length=10, of="video_id"),
    ),
    columns={
        "user_id": "VARCHAR",
        "is_click": "TINYINT",
        "is_like": "BOOLEAN",
        "is_hate": "BOOLEAN",
        "play_time_ms": "DOUBLE",
        "duration_ms": "DOUBLE",
        "returned_next_day": "BOOLEAN",
    },
    training_rows=80_000,
)

TREES: dict[str, Any] = {
    "type": "object",
    "properties": {
        "trees": {"$ref": "#/$defs/Trees"},
        "note": {"type": "string"},
        "deterministic": {"const": True},
    },
    "$defs": {
        "Trees": {
            "type": "object",
            "properties": {
                "learning_rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                "leaves": {"type": "integer", "minimum": 2, "maximum": 512},
                "boosting": {"enum": ["gbdt", "dart"]},
                "extra": {"type": "boolean"},
                "max_depth": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 12}, {"type": "null"}]},
            },
        }
    },
}
TREES_PHI = {
    "trees": {"learning_rate": 0.1, "leaves": 31, "boosting": "gbdt", "extra": False, "max_depth": None},
    "note": "as is",
}


@pytest.fixture
def ranker() -> NeuralRanker:
    production = NeuralRanker(LOG).production()
    production["reward"] = {"factors": {}, "label": "CAST(is_click AS DOUBLE)", "loss": "bce"}
    return NeuralRanker(LOG, production)


@pytest.fixture
def briefing_of(ranker) -> Callable[..., Briefing]:
    def make(persona: str = "optimizer", **more: Any) -> Briefing:
        production = ranker.production()
        return replace(
            Briefing(
                persona=load_personas()[persona],
                surface="demo",
                description="",
                objectives={"explore": 0.4, "exploit": 0.4, "innovate": 0.2},
                wanted={"explore": 1},
                guardrails=[],
                schema=ranker.schema(),
                patchable=list(ranker.patchable().get(persona, ())),
                production=production,
                production_fingerprint=fingerprint(production),
                base=production,
                base_fingerprint=fingerprint(production),
                log=LOG,
                functions={str(signature): signature.doc for signature in FUNCTIONS.values()},
                run="r",
            ),
            **more,
        )

    return make


@pytest.fixture
def trees_briefing(briefing_of) -> Briefing:
    return briefing_of(
        schema=TREES,
        patchable=["/trees"],
        production=TREES_PHI,
        production_fingerprint=fingerprint(TREES_PHI),
        base=TREES_PHI,
        base_fingerprint=fingerprint(TREES_PHI),
        functions={},
    )


class Loop:
    """Think, code, apply, measure with a given loss, journal: the offline loop without its trainings.

    `reads` False shows the engineer an empty journal at every step.
    """

    def __init__(
        self,
        briefing: Briefing,
        loss: Callable[[dict[str, Any]], float],
        seed: int = 0,
        *,
        reads: bool = True,
    ) -> None:
        engineer = EmbeddedEngineer(seed=seed)
        self._propose = engineer.with_structured_output(Proposal)
        self._write = engineer.with_structured_output(Delta)
        self.briefing, self.loss, self.reads = briefing, loss, reads
        self.categories = ("explore", "exploit", "innovate", "exploit", "explore")
        self.journal: list[dict[str, Any]] = []
        self.candidates: list[dict[str, Any]] = []

    def step(self) -> dict[str, Any]:
        first = self.briefing
        category = self.categories[len(self.journal) % len(self.categories)]
        now = replace(
            first,
            journal=self.journal if self.reads else [],
            step=len(self.journal),
            wanted={category: 1},
        )
        proposal = self._propose.invoke(render.think(now))
        base = first.production
        for phi in self.candidates:
            if fingerprint(phi).startswith(proposal.base):
                base = phi
        now = replace(now, base=base, base_fingerprint=fingerprint(base))
        delta = self._write.invoke(render.code(now, proposal))
        phi = apply_delta(base, operations(delta), list(first.patchable))
        self.record(proposal, base, phi)
        return phi

    def record(self, proposal: Proposal, base: dict[str, Any], phi: dict[str, Any]) -> None:
        difference = self.loss(phi) - self.loss(self.briefing.production)
        self.candidates.append(phi)
        self.journal.append(
            {
                "id": f"attempt-{len(self.journal)}",
                "step": len(self.journal),
                "persona": self.briefing.persona.name,
                "category": proposal.category,
                "outcome": "better" if difference < 0 else "worse",
                "hypothesis": proposal.hypothesis,
                "fingerprint": fingerprint(phi),
                "base": fingerprint(base),
                "patch": [],
                "production": self.briefing.production_fingerprint,
                "changes": diff(self.briefing.production, phi),
                "comparison": {
                    "metric": "log_loss",
                    "lower_is_better": True,
                    "difference": difference,
                    "low": difference - 1e-4,
                    "high": difference + 1e-4,
                    "effort": "full",
                },
            }
        )


def operations(delta: Delta) -> list[dict[str, Any]]:
    written = []
    for operation in delta.patch:
        one: dict[str, Any] = {"op": operation.op, "path": operation.path}
        if operation.op in ("add", "replace", "test"):
            one["value"] = operation.value
        written.append(one)
    return written


@pytest.fixture
def loop() -> type[Loop]:
    return Loop


@pytest.fixture
def attempt_refused(briefing_of) -> Callable[..., dict[str, Any]]:
    production = briefing_of().production_fingerprint

    def make(step: int) -> dict[str, Any]:
        table = {"name": "RowwiseAdagrad", "args": {"lr": 0.01 * (step + 1)}}
        return {
            "step": step,
            "persona": "optimizer",
            "category": "innovate",
            "outcome": "refused",
            "hypothesis": "h",
            "fingerprint": None,
            "base": production,
            "production": production,
            "reason": "not on this surface",
            "changes": [{"op": "replace", "path": "/optimizer/embedding", "value": table}],
            "comparison": None,
        }

    return make
