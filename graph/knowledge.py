"""What a step may know: the journal as its batch found it, and the briefing that its prompts are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evorank.graph import choice
from evorank.graph.ask import Chat
from evorank.graph.context import Session
from evorank.graph.models import Role
from evorank.graph.notes import Notes
from evorank.graph.spending import Account
from evorank.graph.state import Attempt, Reflection, Step
from evorank.graph.steering import directives
from evorank.model.system import Phi
from evorank.prompts.briefing import Briefing

__all__ = ["MEASURED", "base_of", "briefing", "chat_of", "patchable", "tried_before", "visible"]

MEASURED = ("better", "cheaper", "equal", "worse", "inconclusive")


def visible(step: Step | Reflection, session: Session) -> list[Attempt]:
    """The journal as this step may see it: the same whatever runs beside it, and however fast."""
    surface = session.surface.name
    others = session.journal.attempts(surface=surface, until=step.since)
    own = session.journal.attempts(surface=surface, run=step.run)
    return [attempt for attempt in others if attempt.run != step.run] + sorted(
        (attempt for attempt in own if attempt.step < step.before), key=lambda attempt: attempt.step
    )


def base_of(step: Step, session: Session, name: str) -> tuple[str, Phi] | None:
    """Fingerprint and Φ of `production` or of an attempt, by 8 or more characters of its fingerprint."""
    production = session.production_fingerprint
    if name == "production" or (len(name) >= 8 and production.startswith(name)):
        return production, session.workbench.production
    for attempt in reversed(visible(step, session)):
        if attempt.phi and attempt.fingerprint and len(name) >= 8 and attempt.fingerprint.startswith(name):
            return attempt.fingerprint, attempt.phi
    return None


def tried_before(step: Step, session: Session, candidate: str) -> str:
    """Why a candidate needs no training: it is production, or was measured against it on this data; or ""."""
    if candidate == session.production_fingerprint:
        return "This is production itself."
    for attempt in visible(step, session):
        same = attempt.fingerprint == candidate and attempt.production == session.production_fingerprint
        if same and attempt.outcome in MEASURED and attempt.data_version == session.workbench.dataset.key:
            return f"Tried before, as step {attempt.step} of run {attempt.run}: {attempt.outcome}."
    return ""


def patchable(step: Step, session: Session) -> list[str]:
    """What a delta may touch: the persona's part, or what the idea that came with the step is about."""
    return session.patchable(step.persona) if step.patches is None else step.patches


def chat_of(role: Role, step: Step | Reflection, session: Session, persona: str) -> Chat:
    """Who answers `persona` in a role, on account of the step, or of the run where it is for no one step."""
    number, seed = (step.step, step.seed) if isinstance(step, Step) else (None, session.seed(step.before))
    account = Account(run=step.run, step=number, persona=persona)
    return session.chats.chat(role, account, seed, lambda: visible(step, session))


def briefing(
    step: Step | Reflection,
    session: Session,
    persona: str,
    *,
    wanted: Mapping[str, int] | None = None,
    insights: Sequence[Mapping[str, Any]] = (),
    base: tuple[str, Phi] | None = None,
) -> Briefing:
    """What `persona` is told for this step: `insights` are what its own turn asked the log."""
    surface, bench = session.surface, session.workbench
    journal = visible(step, session)
    experiments = session.journal.experiments(surface.name)
    proposes = isinstance(step, Step) and persona == step.persona
    asked = [*(each for attempt in journal for each in attempt.insights), *insights]
    note = Notes(session.store, surface.name).latest(step.run, step.before, step.since)
    used = directives(session, persona, journal, step.step - step.before if isinstance(step, Step) else 0)
    fingerprint, phi = base or (session.production_fingerprint, bench.production)
    return Briefing(
        persona=session.personas[persona],
        surface=surface.name,
        description=surface.spec.description,
        objectives=session.objectives if proposes else {},
        guardrails=[f"{rail}." for rail in surface.spec.guardrails],
        schema=bench.system.schema(),
        patchable=patchable(step, session) if isinstance(step, Step) and persona != "strategist" else [],
        production=bench.production,
        production_fingerprint=session.production_fingerprint,
        base=phi,
        base_fingerprint=fingerprint,
        log=bench.dataset.schema,
        functions=session.functions,
        wanted=wanted or {},
        stagnant=choice.stagnation(choice.past(journal, experiments, step.run), persona) if proposes else 0,
        steering=used,
        journal=[session.dump(attempt) for attempt in journal],
        experiments=[each.model_dump(mode="json") for each in experiments],
        # A query is shown once, with its newest answer: each attempt of a turn holds all of the turn's.
        insights=list({each["query"]: each for each in asked}.values()),
        note=note.shown(step.run) if note else None,
        history=session.context.history,
        own_run=step.run,
        run="",  # a name must not change what is proposed: the same seed, the same run
        step=step.step if isinstance(step, Step) else step.before,
        seed=step.seed if isinstance(step, Step) else session.seed(step.before),
        prompt_tokens=session.context.prompt_tokens,
    )
