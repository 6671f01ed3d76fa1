"""insight: after every so many attempts, what works and what is a dead end, for later prompts to go by.

The call runs beside a batch, as nobody waits for it, and sees the journal as that batch does. A claim must
cite attempts that are there: what nobody can look up is dropped, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph.config import get_stream_writer
from langgraph.runtime import Runtime

from evorank.graph.ask import Unanswered, Unasked, ask
from evorank.graph.context import Context, Session, context_of, open_session
from evorank.graph.knowledge import briefing, chat_of, visible
from evorank.graph.notes import Finding, Kept, Notes
from evorank.graph.state import Attempt, Experiment, Reflection
from evorank.prompts import render
from evorank.prompts.answers import Claim, Note
from evorank.prompts.journal import attempt_name
from evorank.prompts.quoted import text

__all__ = ["due", "reflect"]

CLAIM_LIMIT = 400


def due(session: Session, run: str, before: int, since: str) -> bool:
    """Whether the batch that begins with `before` is one beside which the journal is summed up."""
    every = session.context.insight_every
    if not every:
        return False
    notes = Notes(session.store, session.surface.name)
    if any(each.before == before for each in notes.all(run)):
        return False
    known = len(visible(Reflection(run=run, before=before, since=since), session))
    last = notes.latest(run, before, since)
    failed = [each.covers for each in notes.all(run) if each.problem and each.before < before]
    return known - max([last.covers if last else 0, *failed]) >= every


def reflect(state: Reflection, runtime: Runtime[Context]) -> dict[str, Any]:
    """Ask for a note and keep it: once for a batch, however often this node runs."""
    asked = Reflection.model_validate(state)  # `Send` hands over the dict that a checkpoint holds
    session = open_session(context_of(asked.context, runtime))
    notes = Notes(session.store, session.surface.name)
    if any(each.before == asked.before for each in notes.all(asked.run)):
        return {}
    attempts = visible(asked, session)
    experiments = session.journal.experiments(session.surface.name)
    chat = chat_of("insight", asked, session, "strategist")
    made = Kept(
        surface=session.surface.name,
        run=asked.run,
        before=asked.before,
        mark=session.journal.watermark(),
        covers=len(attempts),
        model=chat.name,
    )
    try:
        messages = render.insight(briefing(asked, session, "strategist"))
        answer, usage = ask(chat, messages, Note)
    except Unasked:  # nobody can be asked just now: it stays due
        return {}
    except Unanswered as error:
        notes.keep(made.model_copy(update={"problem": str(error), "usage": error.usage}))
        return {}
    kept = made.model_copy(update=_checked(answer, attempts, experiments, asked.run) | {"usage": usage})
    notes.keep(kept)
    count = len(kept.works) + len(kept.dead_ends)
    get_stream_writer()({"event": "note", "text": f"the journal was summed up in {count} claims"})
    return {}


def _checked(
    answer: Note, attempts: Sequence[Attempt], experiments: Sequence[Experiment], run: str
) -> dict[str, Any]:
    """The claims that cite something which is there, with its ids."""
    known = {each.id[:8]: each.id for each in experiments}
    steps: dict[str, int] = {}
    for attempt in attempts:
        if attempt.fingerprint:
            known[attempt.fingerprint[:12]] = attempt.id
        known[attempt.id[:8]] = attempt.id
    for attempt in attempts:
        if attempt.run == run:
            known[str(attempt_name(attempt.model_dump(include={"id", "run", "step"}), run))] = attempt.id
            steps[attempt.id] = attempt.step

    def kept(claims: Sequence[Claim]) -> list[Finding]:
        found = []
        for claim in claims:
            cites = [known[cited.strip()] for cited in claim.cites if cited.strip() in known]
            if cites:
                found.append(Finding(claim=text(claim.claim, CLAIM_LIMIT), cites=list(dict.fromkeys(cites))))
        return found

    works, dead_ends = kept(answer.works), kept(answer.dead_ends)
    cited = {each for finding in (*works, *dead_ends) for each in finding.cites}
    nothing = "" if works or dead_ends else "no claim cited an attempt of the journal"
    return {
        "works": works,
        "dead_ends": dead_ends,
        "dropped": len(answer.works) + len(answer.dead_ends) - len(works) - len(dead_ends),
        "steps": {identifier: step for identifier, step in steps.items() if identifier in cited},
        "problem": nothing,
    }
