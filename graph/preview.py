"""preview: what a run would ask its chat model first, how long that is, and what all of it may cost.

Nobody is asked, so neither a key nor a provider's package is needed, and nothing is trained; a new surface is
encoded, as by a run. The prompts are the first of every persona, as they would be sent; CODE and the linter
are shown the persona's own example, as there is no proposal yet.

Limits: tokens are counted without a tokenizer (`prompts/length.py`), answers are taken to be as long as
`ANSWERS` says, and repairs, thinking and what a provider saves by caching are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from langchain_core.messages import BaseMessage
from pydantic import BaseModel, ConfigDict, Field

from evorank.graph import choice
from evorank.graph.chats import used_models
from evorank.graph.context import Context, Session, open_session
from evorank.graph.knowledge import briefing, visible
from evorank.graph.models import EMBEDDED, Role
from evorank.graph.prices import FREE
from evorank.graph.state import Reflection, Step, Usage
from evorank.prompts import render
from evorank.prompts.answers import Delta, Proposal
from evorank.prompts.length import CHARACTERS, tokens

__all__ = ["Preview", "Prompt", "preview"]

ANSWERS = {"explore": 150, "think": 200, "code": 300, "review": 80, "insight": 500}
"""Tokens of an answer, about."""
ASKED: dict[str, Role] = {
    "explore": "think",
    "think": "think",
    "code": "code",
    "review": "linter",
    "insight": "insight",
}
"""Call -> the role whose model answers it."""
ATTEMPT = 300
"""Tokens that an attempt adds to the journal, about, where there is none to measure."""
LOOKS = 3
"""Calls of a look at the log, about: two queries and the end of it."""


class Prompt(BaseModel):
    """One prompt as it would be sent."""

    model_config = ConfigDict(extra="forbid")
    call: str
    persona: str
    tokens: int
    text: str = Field(description="Its messages, each under its role")


class Preview(BaseModel):
    """What a run would send."""

    model_config = ConfigDict(extra="forbid")
    model: str
    steps: int
    prompts: list[Prompt]
    calls: dict[str, int]
    """Kind of call -> how many of them, without repairs."""
    input_tokens: int
    output_tokens: int
    usd: float | None
    """None: a price is not known."""
    counted: str = f"one token for {CHARACTERS} characters; repairs, thinking and cached prefixes left out"


def preview(context: Context, steps: int) -> Preview:
    """The first prompts of a run of `steps`, and an estimate for all of them."""
    session = open_session(context, asks=False)
    batch = _first_steps(session)
    prompts = [prompt for step in batch for prompt in _prompts(step, session)]
    prompts.append(
        _prompt("insight", "strategist", render.insight(briefing(batch[0], session, "strategist")))
    )
    calls = _calls(session, batch, steps)
    lengths = {call: [each.tokens for each in prompts if each.call == call] for call in calls}
    grows = _growth(session, batch[0], steps, max(each.tokens for each in prompts))
    read = {call: sum(lengths[call]) // len(lengths[call]) + grows for call in calls}
    written = {call: ANSWERS[call] for call in calls}
    written["think"] = written["think"] * steps // calls["think"]  # several proposals in one answer
    costs = [_usd(call, read[call], written[call], session) for call in calls]
    return Preview(
        model=session.chats.told("think"),
        steps=steps,
        prompts=prompts,
        calls=calls,
        input_tokens=sum(count * read[call] for call, count in calls.items()),
        output_tokens=sum(count * written[call] for call, count in calls.items()),
        usd=None
        if None in costs
        else sum(cost * count for cost, count in zip(costs, calls.values(), strict=True) if cost),
    )


def _usd(call: str, read: int, written: int, session: Session) -> float | None:
    """Dollars of one call, of an ensemble those of its dearest model; None where a price is not known."""
    costs = []
    for name, roles in used_models(session.context).items():
        if ASKED[call] in roles:
            price = FREE if name == EMBEDDED else session.chats.prices.of(name)
            costs.append(price.usd(Usage(input_tokens=read, output_tokens=written)) if price else None)
    return None if None in costs else max(cost for cost in costs if cost is not None)


def _first_steps(session: Session) -> list[Step]:
    """A step of each persona that proposes, as a fresh run would begin with them."""
    now = Reflection(run="", since=session.journal.watermark())
    known = choice.past(visible(now, session), session.journal.experiments(session.surface.name), "")
    return [
        Step(
            run="",
            step=number,
            persona=persona,
            category=choice.categories(known, persona, 1, session.context.fixed)[0],
            seed=session.seed(number),
            since=now.since,
        )
        for number, persona in enumerate(session.proposers)
    ]


def _prompts(step: Step, session: Session) -> Iterator[Prompt]:
    persona = session.personas[step.persona]
    wanted = dict.fromkeys(session.objectives, 0)
    wanted |= {str(name): count for name, count in (session.context.fixed or {}).items()} or {
        step.category: session.context.together
    }
    told = briefing(step, session, persona.name, wanted=wanted)
    if _looks(session, persona.name):
        messages = render.explore(told, session.context.queries, asked=False)
        yield _prompt("explore", persona.name, messages)
    yield _prompt("think", persona.name, render.think(told))
    proposal = Proposal(category=step.category, hypothesis=persona.hypothesis or "(what it thinks of)")
    yield _prompt("code", persona.name, render.code(told, proposal))
    example = persona.example or '{"patch": [{"op": "test", "path": "", "value": "(what it writes)"}]}'
    delta = Delta.model_validate(json.loads(example))
    yield _prompt("review", "linter", render.review(briefing(step, session, "linter"), proposal, delta))


def _looks(session: Session, persona: str) -> bool:
    return "run_sql_query" in session.personas[persona].tools and session.context.queries > 0


def _prompt(call: str, persona: str, messages: Sequence[BaseMessage]) -> Prompt:
    text = "\n".join(f"[{message.type}]\n{message.text}" for message in messages)
    return Prompt(call=call, persona=persona, tokens=sum(tokens(each.text) for each in messages), text=text)


def _calls(session: Session, batch: Sequence[Step], steps: int) -> dict[str, int]:
    """How many calls of each kind, if personas took turns to the end."""
    thoughts = -(-steps // session.context.together)
    looking = sum(_looks(session, step.persona) for step in batch) / len(batch)
    calls = {"explore": round(LOOKS * thoughts * looking), "think": thoughts, "code": steps, "review": steps}
    every = session.context.insight_every
    calls["insight"] = max(0, (steps - 1) // every) if every else 0
    return {call: count for call, count in calls.items() if count}


def _growth(session: Session, step: Step, steps: int, longest: int) -> int:
    """Tokens by which the journal makes an average prompt of the run longer than now."""
    known = visible(step, session)
    told = briefing(step, session, step.persona)
    bare = sum(tokens(each.text) for each in render.think(told))
    # What attempts take up by now, where there are some: else as much as they usually do.
    without = briefing(step.model_copy(update={"since": ""}), session, step.persona)
    size = (
        (bare - sum(tokens(each.text) for each in render.think(without))) // len(known) if known else ATTEMPT
    )
    room = max(0, session.context.prompt_tokens - longest)
    return sum(min(number * size, room) for number in range(steps)) // steps
