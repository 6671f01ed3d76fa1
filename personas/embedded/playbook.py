"""Which playbook fits the Φ in the prompt, and the openings that experience recommends.

The built-in ranker's Φ gets knobs with knowledge behind them; any other system gets those that its JSON
Schema gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evorank.model.system import Phi
from evorank.personas.embedded.inventions import carrying_knobs
from evorank.personas.embedded.knobs import Knob, generic_knobs, get
from evorank.personas.embedded.optimization import optimizer_knobs
from evorank.personas.embedded.reading import Reading
from evorank.personas.embedded.rewards import reward_knobs
from evorank.personas.embedded.towers import architecture_knobs

__all__ = ["builtin", "knobs_for", "recipes_for"]

RATE = "learning rate (times the usual)"

RECIPES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("an adaptive optimizer with decaying steps", {"optimizer": "Adam", "schedule": "cosine"}),
    ("more, smaller steps", {"optimizer": "Adam", "batch size": 1024}),
    ("decoupled weight decay against overfitting", {"optimizer": "AdamW", "weight decay": 1e-2, "epochs": 2}),
    ("an optimizer that forgets old gradients", {"optimizer": "RMSprop"}),
    ("half of the training at a higher rate", {"optimizer": "Adam", RATE: 2.0, "epochs": 0.5}),
    ("row-wise steps for embeddings", {"embedding optimizer": "RowwiseAdagrad", "optimizer": "Adam"}),
    ("momentum with decaying steps", {"optimizer": "SGD", "schedule": "linear"}),
    ("less capacity where rows are few", {"embedding size": 8, "dropout": 0.1}),
    ("smoother gates", {"activation": "gelu", "norm": "layers"}),
    ("a wide part with one weight per id", {"wide": True}),
    ("explicit crosses", {"crosses": 1}),
    ("pairwise interactions beside the tower", {"fm": True}),
    ("a value path times a gate path", {"gate": "path", "activation": "gelu"}),
    ("watch time beside the click", {"watch time": "ratio"}),
    ("negative signals take away", {"penalty of negative signals": 1.0}),
    ("success only when watched", {"watch time": "root", "how signals combine": "product"}),
)
"""Openings, safest first: changes to production that often pay on click logs."""


def builtin(phi: Phi) -> bool:
    """Whether this Φ has the built-in ranker's form."""
    return isinstance(get(phi, "/optimizer/args"), dict) and isinstance(
        get(phi, "/architecture/layers"), dict
    )


def knobs_for(reading: Reading) -> list[Knob]:
    """Every knob of Φ that may be turned, or that tells attempts apart."""
    if not builtin(reading.production):
        return generic_knobs(reading.schema, reading.production, reading.patchable)
    knobs = [*optimizer_knobs(reading), *architecture_knobs(reading)]
    if "label" in (reading.production.get("reward") or {}) and reading.may_patch("/reward/label"):
        knobs += reward_knobs(reading)
    return carrying_knobs(knobs, reading)


def recipes_for(reading: Reading) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    return RECIPES if builtin(reading.production) else ()
