"""From a briefing to messages: Jinja2 templates, one per call, over shared sections in the paper's order.

Persona, objectives, steering (if any), guardrails, configuration, journal (arXiv 2602.10226, its prompt
structure), then the task. Whatever came from a log, a query or an earlier answer is shown as quoted JSON
of bounded length: it is data to a reader, never an instruction, and it cannot close its own fence because
JSON escapes line breaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from evorank.model.errors import Finding
from evorank.prompts.answers import Delta, Proposal
from evorank.prompts.briefing import Briefing, Pool
from evorank.prompts.journal import journal_lines
from evorank.prompts.pool import pool_lines
from evorank.prompts.quoted import clipped, quoted, text

__all__ = ["code", "rank", "review", "think"]

INSIGHTS = 12
TABLE_LIMIT = 2500


def think(briefing: Briefing) -> list[BaseMessage]:
    """Ask for a `Proposal`: a hypothesis, its category, the base to start from, maybe a query."""
    return _messages("think", briefing)


def code(
    briefing: Briefing,
    proposal: Proposal,
    findings: Sequence[Finding] = (),
    previous: Delta | None = None,
    whole: bool = False,
) -> list[BaseMessage]:
    """Ask for a `Delta` on `briefing.base`; with findings, for a repaired version of `previous`.

    `whole`: ask for a `Configuration` instead, all of Φ.
    """
    return _messages(
        "code",
        briefing,
        proposal=_proposal(proposal),
        findings=_findings(findings),
        previous=_delta(previous),
        whole=whole,
    )


def review(
    briefing: Briefing, proposal: Proposal, delta: Delta, findings: Sequence[Finding] = ()
) -> list[BaseMessage]:
    """Ask the linter for a `Review` of a delta that already passed the schema (or has these findings)."""
    return _messages(
        "review", briefing, proposal=_proposal(proposal), delta=_delta(delta), findings=_findings(findings)
    )


def rank(pool: Pool) -> list[BaseMessage]:
    """Ask the strategist for a `Ranking` of the experiments that could be live."""
    lines = pool_lines(pool.candidates, pool.experiments, pool.horizon_days)
    return _rendered("rank_system", "rank", pool, {"pool": lines, "insights": []})


def _insight(insight: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"query": text(insight.get("query"), 1000)}
    for key in ("table", "error"):
        if insight.get(key) is not None:
            value = insight[key]
            if isinstance(value, str):
                shown[key] = value if len(value) <= TABLE_LIMIT else value[: TABLE_LIMIT - 1] + "…"
            else:
                shown[key] = clipped(value, TABLE_LIMIT)
    return shown


def _proposal(proposal: Proposal) -> dict[str, Any]:
    return proposal.model_dump(mode="json", exclude_none=True)


def _delta(delta: Delta | None) -> dict[str, Any] | None:
    if delta is None:
        return None
    operations = []
    for operation in delta.patch:
        shown = operation.model_dump(mode="json", by_alias=True)
        unused = {"from"} if operation.op not in ("move", "copy") else set()
        unused |= {"value"} if operation.op not in ("add", "replace", "test") else set()
        operations.append({key: value for key, value in shown.items() if key not in unused})
    return {"patch": operations, "explanation": delta.explanation}


def _findings(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "pointer": f.pointer,
            "rule": text(f.rule, 600),
            "value": text(f.value, 300),
            "hint": text(f.hint, 300),
        }
        for f in findings[:20]
    ]


def _messages(call: str, briefing: Briefing, **task: Any) -> list[BaseMessage]:
    facts = {
        "insights": [_insight(insight) for insight in briefing.insights[-INSIGHTS:]],
        "attempts": sum(quota.done for quota in briefing.objectives.values()),
    }
    return _rendered("system", call, briefing, facts | task)


def _rendered(system: str, call: str, told: Briefing | Pool, facts: dict[str, Any]) -> list[BaseMessage]:
    lines, omitted = journal_lines(told.journal, told.production_fingerprint, told.experiments)
    facts |= {"b": told, "persona": told.persona, "call": call, "journal": lines, "omitted": omitted}
    facts["tested"] = any("online" in line for line in lines)
    facts["replayed"] = any("off_policy" in line for line in [*lines, *facts.get("pool", ())])
    facts["told"] = any("imported" in line for line in lines)
    first = _environment().get_template(f"{system}.j2").render(facts)
    second = _environment().get_template(f"{call}.j2").render(facts)
    return [SystemMessage(first.strip() + "\n"), HumanMessage(second.strip() + "\n")]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evorank.prompts", "."),
        undefined=StrictUndefined,
        autoescape=False,  # the output is plain text for a chat model, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = quoted
    environment.filters["pretty"] = lambda value: quoted(value, indent=1)
    environment.filters["plain"] = dict
    environment.filters["line"] = lambda value: text(value, 2000)
    return environment
