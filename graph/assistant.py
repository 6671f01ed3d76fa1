"""assistant: what an agent may ask of evorank, and ask for, as functions that read unless told to write.

Three questions: what did we learn about something, how do the live tests stand, would this change be a valid
experiment. Every answer is a pydantic model, bounded in size, so that programs get data and models get JSON.
`agent_tools.py` makes tools of them.

Limits: "learn" finds records by words, it does not understand them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from evorank.graph.context import Context
from evorank.graph.journal import Journal
from evorank.graph.operations import open_operations
from evorank.graph.state import Attempt, Experiment
from evorank.graph.status import overview
from evorank.graph.tick import checked, submit
from evorank.model.errors import ConfigurationError, RefusedDelta
from evorank.prompts.answers import Operation

__all__ = [
    "Answered",
    "Lesson",
    "Lessons",
    "LiveStatus",
    "LiveTest",
    "Proposed",
    "live_status",
    "propose_experiment",
    "what_did_we_learn",
]

TEXT_LIMIT = 400
"""Longer texts, code above all, are cut: an answer is for a prompt, and `journal show ID` has the whole."""
NOT_TOPICS = frozenset(("about", "and", "are", "did", "for", "from", "have", "how", "learn")) | frozenset(
    ("learned", "our", "the", "this", "was", "were", "what", "with")
)


class Answered(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Lesson(Answered):
    """One candidate, and what came of it."""

    id: str
    """Of the attempt, or of the experiment where a person proposed it: `journal show ID` has the whole."""
    by: str
    """Persona or person."""
    category: str | None
    hypothesis: str
    changes: list[dict[str, Any]]
    """JSON Patch against the production of its time."""
    outcome: str | None
    """Offline, on the proxy: better, cheaper, equal, worse, inconclusive, refused, failed, duplicate."""
    proxy: dict[str, Any] | None
    """metric, difference (candidate minus production), ends of its 95% interval; null: not measured."""
    reason: str
    live: str | None
    """How its live test ended, or the phase it is in; null: it had none."""
    live_reason: str
    effects: list[dict[str, Any]]
    """What people did: metric, lift, its interval, read once at the horizon."""
    reported_by: str | None
    """Who says so, of what was not measured here."""


class Lessons(Answered):
    """What the journal holds on a topic."""

    about: str
    found: int
    """Candidates that mention it; `lessons` are the most telling of them."""
    outcomes: dict[str, int]
    """Offline outcome -> how many of them."""
    live: dict[str, int]
    """How a live test ended -> how many of them."""
    lessons: list[Lesson]


class LiveTest(Answered):
    """An experiment that has left the queue."""

    id: str
    hypothesis: str
    by: str
    phase: str
    waits_for: str
    """day, approval, slot, platform; empty: nothing."""
    begun: str | None
    """Surface time when it went live."""
    users: list[int] | None
    """Of production and of the candidate, at the last reading."""
    trouble: str


class LiveStatus(Answered):
    """How the live tests of a surface stand. Effects are read once, at the end of a test: none are here."""

    surface: str
    now: str
    """The surface's time."""
    version: int | None
    """What is served; null: nothing was ever served."""
    served_since: str | None
    """Wall clock, UTC."""
    served_because: str
    tests: list[LiveTest]
    waiting_for_a_person: list[str]
    """Ids of what needs an approval."""
    queued: int
    next: list[str]
    """Hypotheses at the head of the queue."""
    ended: dict[str, int]
    """How tests ended -> how many."""
    gained: list[dict[str, Any]]
    """What all launches gained together against the people whom none reached: metric, lift, interval."""
    gained_in_words: str
    """The same in a sentence, or why there is nothing to be believed."""


class Proposed(Answered):
    """Whether a change could be tested on people, and whether it now will be."""

    valid: bool
    findings: list[dict[str, Any]]
    """What is wrong with it: pointer, rule, value, hint."""
    changes: list[dict[str, Any]]
    """The change against today's production, in its shortest form."""
    queued: bool
    experiment: str | None
    """Its id, if it is queued."""
    reason: str


def what_did_we_learn(context: Context, about: str = "", limit: int = 10) -> Lessons:
    """What was tried on a surface that mentions `about`, what came of it, and why.

    ConfigurationError: there is no journal yet.
    """
    journal = Journal.open(context.home_path(), create=False, url=context.store)
    try:
        attempts = journal.attempts(surface=context.surface)
        experiments = journal.experiments(context.surface)
    finally:
        journal.close()
    tested = {each.attempt: each for each in experiments if each.attempt}
    ours = {attempt.id for attempt in attempts}
    pairs: list[tuple[Attempt | None, Experiment | None]] = [(each, tested.get(each.id)) for each in attempts]
    pairs += [(None, each) for each in experiments if each.attempt not in ours]
    topics = _topics(about)
    found = [
        (score, _weight(*pair), number, pair)
        for number, pair in enumerate(pairs)
        if (score := _mentions(topics, *pair)) or not topics
    ]
    found.sort(key=lambda each: each[:3], reverse=True)
    return Lessons(
        about=about,
        found=len(found),
        outcomes=dict(Counter(attempt.outcome for *_, (attempt, _) in found if attempt)),
        live=dict(Counter(test.result for *_, (_, test) in found if test and test.result)),
        lessons=[_lesson(*pair) for *_, pair in found[:limit]],
    )


def live_status(context: Context) -> LiveStatus:
    """What is served, tested and queued on a surface, and what launches gained. Reads only.

    ConfigurationError: no such surface, or one without live traffic.
    """
    seen = overview(context)
    served, audit = seen.versions[-1] if seen.versions else None, seen.audit
    return LiveStatus(
        surface=seen.surface,
        now=seen.now.isoformat(),
        version=served["version"] if served else None,
        served_since=str(served["at"]) if served else None,
        served_because=_cut(served["why"]) if served else "",
        tests=[
            LiveTest(
                id=each["id"],
                hypothesis=_cut(each["hypothesis"]),
                by=each["proposed_by"],
                phase=each["phase"],
                waits_for=each["waits_for"],
                begun=each["times"].get("live"),
                users=each["users"],
                trouble=_cut(each["trouble"]),
            )
            for each in seen.live
        ],
        waiting_for_a_person=[each["id"] for each in seen.live if each["waits_for"] == "approval"],
        queued=len(seen.queue),
        next=[_cut(each["hypothesis"]) for each in seen.queue[:5]],
        ended=seen.ended,
        gained=_effects(each.model_dump() for each in audit.effects) if audit and not audit.failures else [],
        gained_in_words=str(audit) if audit else "Nothing was launched yet, or there is no holdback.",
    )


def propose_experiment(
    context: Context, patch: list[Operation], why: str, by: str = "an agent", *, write: bool = False
) -> Proposed:
    """Check a change of today's production as every candidate is checked; with `write`, queue it for a test.

    Nothing is launched by this: a test needs a place in the traffic, and a launch needs a win. Raises
    ConfigurationError for a surface without live traffic, ToolError where the check itself fails.
    """
    operations = open_operations(context)
    steps = [each.model_dump(by_alias=True, exclude_unset=True) for each in patch]
    try:
        experiment = checked(operations, steps, why=why, by=by)
    except RefusedDelta as refusal:
        findings = [each.as_dict() for each in refusal.findings]
        return Proposed(
            valid=False, findings=findings, changes=[], queued=False, experiment=None, reason=str(refusal)
        )
    except ConfigurationError as error:
        return Proposed(
            valid=False, findings=[], changes=[], queued=False, experiment=None, reason=str(error)
        )
    told = Proposed(
        valid=True,
        findings=[],
        changes=_short(experiment.changes),
        queued=False,
        experiment=None,
        reason="It is valid. It was not queued: this assistant may only read. A person can queue it with: "
        "python cli.py online submit delta.json --why ...",
    )
    if not write:
        return told
    try:
        fresh = submit(operations, experiment)
    except ConfigurationError as error:
        return told.model_copy(update={"reason": str(error)})
    reason = "It waits for a place in the traffic." if fresh else "It is in the queue, or tested, already."
    return told.model_copy(update={"queued": True, "experiment": experiment.id, "reason": reason})


# -- what they share


def _topics(about: str) -> set[str]:
    """Stems of the words of a topic: gating, gated and gate are one."""
    return {_stem(word) for word in _words(about) if word not in NOT_TOPICS}


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _stem(word: str) -> str:
    for ending in ("ation", "ing", "ed", "er", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _mentions(topics: set[str], attempt: Attempt | None, test: Experiment | None) -> int:
    """How many of the topics a candidate mentions anywhere: in words, in fields, in code, in reasons."""
    parts: list[Any] = []
    for each in (attempt, test):
        if each is not None:
            parts += [each.hypothesis, each.reason, each.category, json.dumps(each.changes)]
    if attempt is not None:
        parts += [attempt.persona, json.dumps(attempt.insights)]
    words = set(_words(" ".join(map(str, parts))))
    return sum(any(word.startswith(topic) for word in words) for topic in topics)


def _weight(attempt: Attempt | None, test: Experiment | None) -> int:
    """What people said first, then what was measured, then the rest."""
    if test is not None and test.effects:
        return 2
    return int(attempt is not None and attempt.comparison is not None)


def _lesson(attempt: Attempt | None, test: Experiment | None) -> Lesson:
    told = attempt or test
    assert told is not None
    return Lesson(
        id=told.id,
        by=told.persona if isinstance(told, Attempt) else told.proposed_by,
        category=told.category,
        hypothesis=_cut(told.hypothesis),
        changes=_short(told.changes),
        outcome=attempt.outcome if attempt else None,
        proxy=attempt.summary()["comparison"] if attempt else None,
        reason=_cut(attempt.reason) if attempt else "",
        live=(test.result or test.phase) if test else None,
        live_reason=_cut(test.reason) if test else "",
        effects=_effects(test.effects) if test else [],
        reported_by=attempt.imported.by if attempt and attempt.imported else None,
    )


def _effects(effects: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    keep = ("metric", "lift", "lift_low", "lift_high", "difference", "low", "high")
    return [{name: each[name] for name in keep if name in each} for each in effects]


def _short(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: _cut(value) for name, value in change.items()} for change in changes]


def _cut(value: Any) -> Any:
    """Long texts shortened, wherever they are in a JSON value."""
    if isinstance(value, str):
        return value if len(value) <= TEXT_LIMIT else value[: TEXT_LIMIT - 1] + "…"
    if isinstance(value, Mapping):
        return {name: _cut(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_cut(each) for each in value]
    return value
