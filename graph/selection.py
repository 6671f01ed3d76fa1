"""selection: which experiments get live traffic next, the oldest of the queue or whom the strategist prefers.

It decides and does nothing: starting and stopping is the tick's. Ranked, the whole pool competes, so that an
experiment that has a place can fall out for a better one (the third stage of arXiv 2602.10226's selection).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evorank.graph.ask import Unanswered, ask
from evorank.graph.context import Session
from evorank.graph.notes import Notes
from evorank.graph.rankings import Rankings, fingerprint_of_question
from evorank.graph.spending import Account
from evorank.graph.state import Experiment, Usage
from evorank.graph.steering import directives
from evorank.model.errors import ConfigurationError
from evorank.prompts import render
from evorank.prompts.answers import Ranking
from evorank.prompts.briefing import Pool
from evorank.prompts.quoted import text

__all__ = ["Selection", "select"]

REASON_LIMIT = 500


@dataclass(frozen=True)
class Selection:
    """Ids of experiments, and why."""

    order: list[str]
    """The whole pool, best first."""
    start: list[str] = field(default_factory=list)
    """Those that wait and shall have a place now, best first; there is one for each once `drop` is done."""
    drop: list[str] = field(default_factory=list)
    """Those that have a place and shall give it up, worst first."""
    reason: str = ""
    """In words, where something was decided; how the answer was mended, where it was."""
    usage: Usage = field(default_factory=Usage)
    """Of asking, just now."""
    remembered: bool = False
    """The strategist was asked this before, and not again."""


def select(
    pool: Sequence[Experiment],
    places: int,
    session: Session,
    how: Literal["fifo", "ranked"],
    positions: Mapping[str, int],
    run: str | None = None,
) -> Selection:
    """Choose from experiments that wait or have one of `places`; `positions` is their order in the queue.

    `fifo` fills free places in the order of the queue. `ranked` asks the chat model as the strategist, where
    there are fewer places than experiments; without a usable answer it is fifo for this time, and says so. It
    is asked again when the pool, its order in the queue, or what is known has changed since its last answer.
    `run`: on whose account.

    A live experiment is dropped only for one that waits, and only before its horizon: after it there is
    nothing left to save. What its readings say must not matter, or the error rates that its plan promised
    would not hold: whether a test is stopped may depend on anything but on its own data. That is why
    the prompt holds no reading of a running test, and why the strategist can give up on a kind of change only
    by what other tests, which have ended, said of it.
    """
    known = {each.id: each for each in session.journal.experiments(session.surface.name)}
    queue = sorted((known.get(each.id, each) for each in pool), key=lambda each: positions[each.id])
    live = [each.id for each in queue if each.phase != "proposed"]
    waiting = [each.id for each in queue if each.phase == "proposed"]
    kept = {each.id for each in queue if _keeps_its_place(each)}
    in_turn = Selection([each.id for each in queue], waiting[: max(0, places - len(live))])
    if how == "fifo" or not waiting or len(queue) <= places or len(kept) >= places:
        return in_turn
    past = [each for each in known.values() if each.id not in in_turn.order]
    rankings = Rankings(session.store, session.surface.name)
    question = fingerprint_of_question(_question(queue, past, places, session))
    answer, usage = rankings.recall(question), Usage()
    remembered = answer is not None
    if answer is None:
        try:
            chat = session.chat("strategist", Account(run=run, persona="strategist"))
            answer, usage = ask(chat, render.rank(_pool(queue, past, places, session, run)), Ranking)
        except Unanswered as error:
            rankings.keep(question, None, run)
            why = f"First in, first out this time: the strategist gave no answer ({error})."
            return Selection(in_turn.order, in_turn.start, reason=why, usage=error.usage)
        rankings.keep(question, answer, run)
    order, mended = _complete(answer.order, in_turn.order)
    chosen = [each for each in order if each not in kept][: places - len(kept)]
    start = [each for each in chosen if each in waiting]
    outside = [each for each in reversed(order) if each in live and each not in {*kept, *chosen}]
    drop = outside[: max(0, len(live) + len(start) - places)] if start else []
    return Selection(order, start, drop, text(answer.reason, REASON_LIMIT) + mended, usage, remembered)


def _question(
    queue: Sequence[Experiment], past: Sequence[Experiment], places: int, session: Session
) -> dict[str, Any]:
    """What an answer depends on; not that a day has passed, nor that an earlier answer was followed."""
    journal = session.journal.attempts(surface=session.surface.name)
    return {
        "pool": [each.id for each in queue],
        "past": sorted([each.id, each.result or ""] for each in past),
        "journal": [len(journal), journal[-1].id if journal else ""],
        "production": session.production_fingerprint,
        "places": places,
        "model": [session.chats.told("strategist"), session.context.seed],
        "steering": directives(session, "strategist", journal),
    }


def _keeps_its_place(experiment: Experiment) -> bool:
    """Read at its horizon already, or on a platform that does not answer and so could not stop it."""
    return experiment.decision is not None or bool(experiment.trouble)


def _complete(answered: Sequence[str], queue: Sequence[str]) -> tuple[list[str], str]:
    """The answer as an order of the whole queue, and what had to be mended."""
    order = [each for each in dict.fromkeys(answered) if each in queue]
    missing = [each for each in queue if each not in order]
    unknown = len(set(answered) - set(queue))
    told = f" {unknown} unknown ids were ignored." if unknown else ""
    if missing:
        told += f" {len(missing)} that were left out come last, in the order of the queue."
    return order + missing, told


def _pool(
    queue: Sequence[Experiment],
    past: Sequence[Experiment],
    places: int,
    session: Session,
    run: str | None,
) -> Pool:
    online = session.surface.spec.online
    if online is None:
        raise ConfigurationError(
            f"surface `{session.surface.name}` has no [online] section, so no experiment can be live on it."
        )
    journal = session.journal.attempts(surface=session.surface.name)
    note = Notes(session.store, session.surface.name).latest()
    return Pool(
        persona=session.personas["strategist"],
        surface=session.surface.name,
        description=session.surface.spec.description,
        metrics=[metric.model_dump() for metric in online.metrics],
        places=places,
        horizon_days=online.horizon_days,
        production=session.workbench.production,
        production_fingerprint=session.production_fingerprint,
        candidates=[each.model_dump(mode="json") for each in queue],
        steering=directives(session, "strategist", journal),
        journal=[session.dump(attempt) for attempt in journal],
        experiments=[each.model_dump(mode="json") for each in past],
        note=note.shown(run or "") if note else None,
        history=session.context.history,
        own_run=run or "",
        prompt_tokens=session.context.prompt_tokens,
    )
