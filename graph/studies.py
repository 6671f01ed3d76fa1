"""studies: what an ablation compares: ways to drive the offline loop that differ in one thing.

The variants are those of the paper (arXiv 2602.10226): what of the journal a prompt holds and in which order,
experts or a generalist, a delta or the whole configuration, one chat model or another. In every variant no
note sums the journal up, or it would tell what the variant hides; and only losses are improved, since losses
of different rewards do not compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from evorank.graph.context import Context
from evorank.graph.models import names
from evorank.model.errors import ConfigurationError
from evorank.personas.persona import PARTS, personas_of

__all__ = ["GENERALIST", "STUDIES", "Study", "Variant", "variants"]

Study = Literal["history", "persona", "generation", "model", "sorting"]
STUDIES: tuple[Study, ...] = get_args(Study)

GENERALIST = "generalist"
"""The persona of `no persona`."""
_GENERALIST = """---
title: engineer
tools: [compute_loss]
patches: [optimizer, architecture]
metric: the validation loss on later data (lower is better)
---
You improve a ranking model.
"""
_VALUES: Mapping[Study, Mapping[str, Mapping[str, Any]]] = {
    "history": {
        "full": {"history": "sorted"},
        "top-5": {"history": "top-5"},
        "top-1": {"history": "top-1"},
        "none": {"history": "none"},
    },
    "sorting": {"sorted": {"history": "sorted"}, "unsorted": {"history": "unsorted"}},
    "persona": {"personas": {}, "no persona": {"personas": [GENERALIST]}},
    "generation": {"delta": {"generation": "delta"}, "full": {"generation": "full"}},
}


class Variant(BaseModel):
    """One way to drive the loop. The first of a study is what the others are compared with."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    settings: dict[str, Any]
    """Fields of a Context in which it differs from the others."""
    persona_files: dict[str, str] = {}
    """NAME.md -> text of personas that it needs."""


def variants(study: Study, context: Context) -> list[Variant]:
    """The variants of a study for what `context` says. ConfigurationError where it cannot be made with it."""
    if study == "model":
        known = names(context.model)
        if len(known) < 2:
            raise ConfigurationError(
                f"`--study model` compares chat models, got {', '.join(known) or 'none'}. Try --model A "
                "--model B; `embedded` is the embedded engineer."
            )
        able = _losses(context)
        return [Variant(name=name, settings={"model": name, "personas": able}) for name in known]
    if len(names(context.model)) > 1:
        raise ConfigurationError(f"`--study {study}` takes one --model, got {context.model}.")
    found = []
    for name, settings in _VALUES[study].items():
        files = {f"{GENERALIST}.md": _GENERALIST} if name == "no persona" else {}
        own = dict(settings) if files else {"personas": _losses(context)} | dict(settings)
        found.append(Variant(name=name, settings=own, persona_files=files))
    return found


def _losses(context: Context) -> Sequence[str]:
    """Personas whose candidates are compared by their loss, of those that the context names."""
    known = personas_of(context.home_path(), context.persona_folder)
    asked = [name for name in PARTS if name in known] if context.personas is None else context.personas
    able = [name for name in asked if name in known and not known[name].judges_rewards]
    if not able:
        raise ConfigurationError(
            f"`personas` must name one that improves the loss, got {', '.join(asked)}: losses of different "
            "rewards do not compare."
        )
    return able
