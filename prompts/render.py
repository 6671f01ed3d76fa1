"""From a briefing to messages: Jinja2 templates, one per call, over shared sections in the paper's order.

Persona, objectives, steering (if any), guardrails, configuration, past analyses, journal, example (arXiv
2602.10226, its prompt structure), then the task. What differs between two calls stands as late as that order
allows: everything before the task is the same for all calls of a persona in a batch, and everything before
the analyses for as long as a production lasts, so that providers can cache it.

Whatever came from a log, a query or an earlier answer is shown as quoted JSON of bounded length: it is data
to a reader, never an instruction, and it cannot close its own fence because JSON escapes line breaks.
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
from evorank.prompts.length import TASK, tokens
from evorank.prompts.pool import pool_lines
from evorank.prompts.quoted import clipped, quoted, text

__all__ = ["code", "explore", "insight", "rank", "review", "think"]

INSIGHTS = 12
TABLE_LIMIT = 2500
CLAIM_LIMIT = 400


def explore(briefing: Briefing, left: int, *, asked: bool) -> list[BaseMessage]:
    """Ask for an `Inquiry`: one more query of the `left` that may be run, and, where one was `asked`, what
    the last of `briefing.insights` shows."""
    return _messages("explore", briefing, left=left, asked=asked)


def think(briefing: Briefing) -> list[BaseMessage]:
    """Ask for a `Proposal` (a hypothesis, its category, the base to start from), or for `Proposals` where
    more than one is wanted."""
    return _messages("think", briefing, count=sum(briefing.wanted.values()))


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
    briefing: Briefing,
    proposal: Proposal,
    delta: Delta,
    findings: Sequence[Finding] = (),
    rules: Sequence[str] = (),
) -> list[BaseMessage]:
    """Ask the linter for a `Review` of a delta that passed all checks. `rules`: what fixed rules find in it;
    `findings`: what an earlier version was sent back for."""
    return _messages(
        "review",
        briefing,
        proposal=_proposal(proposal),
        delta=_delta(delta),
        findings=_findings(findings),
        rules=[text(rule, 600) for rule in rules[:20]],
    )


def insight(briefing: Briefing) -> list[BaseMessage]:
    """Ask for a `Note` that sums the journal up."""
    return _messages("insight", briefing)


def rank(pool: Pool) -> list[BaseMessage]:
    """Ask the strategist for a `Ranking` of the experiments that could be live."""
    lines = pool_lines(pool.candidates, pool.experiments, pool.horizon_days)
    return _rendered("rank_system", "rank", pool, {"pool": lines, "insights": []})


def _messages(call: str, briefing: Briefing, **task: Any) -> list[BaseMessage]:
    insights = [_insight(insight) for insight in briefing.insights[-INSIGHTS:]]
    return _rendered("system", call, briefing, {"insights": insights} | task)


def _rendered(system: str, call: str, told: Briefing | Pool, facts: dict[str, Any]) -> list[BaseMessage]:
    facts |= {"b": told, "persona": told.persona, "call": call, "note": _note(told.note)}
    first = _written(system, facts)
    lines, omitted = journal_lines(
        told.journal,
        told.production_fingerprint,
        told.experiments,
        _room(told, first, facts),
        told.own_run,
        told.history,
    )
    facts |= {"journal": lines, "omitted": omitted}
    facts["tested"] = any("online" in line for line in lines)
    facts["replayed"] = any("off_policy" in line for line in [*lines, *facts.get("pool", ())])
    facts["told"] = any("imported" in line for line in lines)
    return [SystemMessage(first.strip() + "\n"), HumanMessage(_written(call, facts).strip() + "\n")]


def _room(told: Briefing | Pool, system: str, facts: Mapping[str, Any]) -> int:
    """Tokens for the journal's lines: the same for every call of a persona in a batch, whatever its task."""
    before = _written("analyses", facts)
    if isinstance(told, Briefing):
        before += _written("configuration", facts) + _written("example", facts)
    task = min(TASK, told.prompt_tokens // 4)
    return max(0, told.prompt_tokens - tokens(system) - tokens(before) - task)


def _written(template: str, facts: Mapping[str, Any]) -> str:
    return _environment().get_template(f"{template}.j2").render(facts)


def _insight(insight: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"query": text(insight.get("query"), 1000)}
    for key in ("table", "error"):
        if insight.get(key) is not None:
            value = insight[key]
            if isinstance(value, str):
                shown[key] = value if len(value) <= TABLE_LIMIT else value[: TABLE_LIMIT - 1] + "…"
            else:
                shown[key] = clipped(value, TABLE_LIMIT)
    if insight.get("finding"):
        shown["finding"] = text(insight["finding"], 600)
    return shown


def _note(note: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if note is None:
        return None
    return {
        kind: [
            {
                "claim": text(each["claim"], CLAIM_LIMIT),
                "cites": [text(cited, 40) for cited in each["cites"][:20]],
            }
            for each in note[kind]
        ]
        for kind in ("works", "dead_ends")
    }


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
            "pointer": text(f.pointer, 300),
            "rule": text(f.rule, 600),
            "value": text(f.value, 300),
            "hint": text(f.hint, 300),
        }
        for f in findings[:20]
    ]


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
