"""From a briefing to messages: Jinja2 templates, one per call, over shared sections in the paper's order.

Persona, objectives, steering (if any), guardrails, configuration, journal (arXiv 2602.10226, its prompt
structure), then the task. Whatever came from a log, a query or an earlier answer is shown as quoted JSON
of bounded length: it is data to a reader, never an instruction, and it cannot close its own fence because
JSON escapes line breaks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from evorank.model.errors import Finding
from evorank.prompts.answers import Delta, Proposal
from evorank.prompts.briefing import Briefing

__all__ = ["code", "journal_lines", "review", "think"]

JOURNAL_LINES = 120
"""Attempts shown: a journal of thousands must still fit, with room for the schema."""
FAILURE_SHARE = 0.25
"""Of those, the share kept for attempts that lost, were refused or failed: they say where not to go."""
INSIGHTS = 12
TEXT_LIMIT = 400
VALUE_LIMIT = 1500
TABLE_LIMIT = 2500

WON = ("better", "cheaper")
MEASURED = (*WON, "inconclusive", "equal", "worse")


def think(briefing: Briefing) -> list[BaseMessage]:
    """Ask for a `Proposal`: a hypothesis, its category, the base to start from, maybe a query."""
    return _messages("think", briefing)


def code(
    briefing: Briefing,
    proposal: Proposal,
    findings: Sequence[Finding] = (),
    previous: Delta | None = None,
) -> list[BaseMessage]:
    """Ask for a `Delta` on `briefing.base`; with findings, for a repaired version of `previous`."""
    return _messages(
        "code",
        briefing,
        proposal=_proposal(proposal),
        findings=_findings(findings),
        previous=_delta(previous),
    )


def review(
    briefing: Briefing, proposal: Proposal, delta: Delta, findings: Sequence[Finding] = ()
) -> list[BaseMessage]:
    """Ask the linter for a `Review` of a delta that already passed the schema (or has these findings)."""
    return _messages(
        "review", briefing, proposal=_proposal(proposal), delta=_delta(delta), findings=_findings(findings)
    )


def journal_lines(journal: Sequence[Mapping[str, Any]], production: str) -> tuple[list[dict[str, Any]], int]:
    """The journal as prompts show it, best first, and how many attempts were left out.

    Best first: winners by how much they gained, then the other measured ones by difference, then what was
    never measured (refused, failed, duplicate), newest first. `production` is the fingerprint deltas are
    against now; an attempt compared with another one says so in `against`.
    """
    ordered = sorted(journal, key=_rank)
    if len(ordered) > JOURNAL_LINES:
        tail = int(JOURNAL_LINES * FAILURE_SHARE)
        head = ordered[: JOURNAL_LINES - tail]
        newest = sorted(ordered[JOURNAL_LINES - tail :], key=lambda a: str(a.get("started_at", "")))[-tail:]
        kept = head + sorted(newest, key=_rank)
    else:
        kept = ordered
    return [_line(attempt, production) for attempt in kept], len(ordered) - len(kept)


def _rank(attempt: Mapping[str, Any]) -> tuple[int, float, float, int]:
    outcome, gain = attempt["outcome"], _gain(attempt)
    tier = 0 if outcome in WON else 1 if outcome in MEASURED and gain is not None else 2
    # A cheap slice can look better than any full run by luck alone: full runs come first among equals.
    effort = 1.0 if (attempt.get("comparison") or {}).get("effort") == "slice" else 0.0
    return tier, effort, -(gain or 0.0), -int(attempt.get("step", 0))


def _gain(attempt: Mapping[str, Any]) -> float | None:
    comparison = attempt.get("comparison")
    if not comparison or comparison.get("difference") is None:
        return None
    sign = -1.0 if comparison.get("lower_is_better", True) else 1.0
    return sign * float(comparison["difference"])


def _line(attempt: Mapping[str, Any], production: str) -> dict[str, Any]:
    line: dict[str, Any] = {
        "step": attempt.get("step"),
        "persona": attempt.get("persona"),
        "category": attempt.get("category"),
        "outcome": attempt["outcome"],
        "phi": _short(attempt.get("fingerprint")),
        "base": _short(attempt.get("base")),
        # A candidate that was refused has no Φ: what it tried is its patch against its base.
        "delta": _clipped(attempt.get("changes") or attempt.get("patch") or [], VALUE_LIMIT),
    }
    if attempt.get("production") and attempt["production"] != production:
        line["against"] = _short(attempt["production"])
    comparison = attempt.get("comparison")
    if comparison:
        line |= {
            "metric": comparison.get("metric"),
            "better_is": "lower" if comparison.get("lower_is_better", True) else "higher",
            "difference": _number(comparison.get("difference")),
            "interval": [_number(comparison.get("low")), _number(comparison.get("high"))],
            "effort": comparison.get("effort"),
            "train_cost": _ratio(comparison, "train_cpu_seconds"),
        }
    line["hypothesis"] = _text(attempt.get("hypothesis"), TEXT_LIMIT)
    line["reason"] = _text(attempt.get("reason"), TEXT_LIMIT)
    if attempt.get("findings"):
        line["findings"] = _clipped(
            [
                {"pointer": f.get("pointer"), "rule": _text(f.get("rule"), 200)}
                for f in attempt["findings"][:5]
            ],
            1000,
        )
    return line


def _ratio(comparison: Mapping[str, Any], name: str) -> float | None:
    """Candidate over production; 0.25 = a quarter of the cost."""
    candidate, production = comparison.get("candidate") or {}, comparison.get("production") or {}
    if not candidate.get(name) or not production.get(name):
        return None
    return _number(candidate[name] / production[name], 3)


def _number(value: Any, digits: int = 5) -> float | None:
    return None if value is None else float(f"{float(value):.{digits}g}")


def _short(fingerprint: Any) -> str | None:
    return str(fingerprint)[:12] if fingerprint else None


def _text(value: Any, limit: int) -> str:
    text = " ".join(str(value or "").split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _clipped(value: Any, limit: int) -> Any:
    """The value itself while its JSON is short enough, else its long strings cut, else a note of its size."""
    if len(_json(value)) <= limit:
        return value
    cut = _cut(value, 300)
    return cut if len(_json(cut)) <= 2 * limit else {"omitted": f"{len(_json(value))} characters"}


def _cut(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= limit else value[: limit - 1] + "…"
    if isinstance(value, Mapping):
        return {key: _cut(item, limit) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(item, limit) for item in value]
    return value


def _insight(insight: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"query": _text(insight.get("query"), 1000)}
    for key in ("table", "error"):
        if insight.get(key) is not None:
            value = insight[key]
            if isinstance(value, str):
                shown[key] = value if len(value) <= TABLE_LIMIT else value[: TABLE_LIMIT - 1] + "…"
            else:
                shown[key] = _clipped(value, TABLE_LIMIT)
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
            "rule": _text(f.rule, 600),
            "value": _text(f.value, 300),
            "hint": _text(f.hint, 300),
        }
        for f in findings[:20]
    ]


def _messages(call: str, briefing: Briefing, **task: Any) -> list[BaseMessage]:
    lines, omitted = journal_lines(briefing.journal, briefing.production_fingerprint)
    facts = {
        "b": briefing,
        "persona": briefing.persona,
        "call": call,
        "journal": lines,
        "omitted": omitted,
        "insights": [_insight(insight) for insight in briefing.insights[-INSIGHTS:]],
        "attempts": sum(quota.done for quota in briefing.objectives.values()),
        **task,
    }
    system = _environment().get_template("system.j2").render(facts)
    human = _environment().get_template(f"{call}.j2").render(facts)
    return [SystemMessage(system.strip() + "\n"), HumanMessage(human.strip() + "\n")]


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


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
    environment.filters["json"] = _json
    environment.filters["pretty"] = lambda value: _json(value, indent=1)
    environment.filters["plain"] = dict
    environment.filters["line"] = lambda value: _text(value, 2000)
    return environment
