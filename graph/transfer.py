"""transfer: what won on one surface, as ideas to be measured first on another. Nothing is launched by it.

A winner is cut into parts (optimizer, architecture, reward: the first step of its paths; code goes with what
uses it), and each part is put on the other surface's production as a whole or not at all: half of a network,
or a reward without one of its signals, is not what won. What a part builds on, such as a factor that an
earlier launch brought, comes with it. What does not fit says why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.context import Context, Session, open_session
from evorank.graph.ideas import Idea, Ideas, carrier
from evorank.graph.operations import open_operations
from evorank.graph.state import Attempt, Experiment, Origin
from evorank.graph.versions import Versions
from evorank.model.delta import apply_delta, diff, fingerprint
from evorank.model.errors import ConfigurationError, RefusedDelta
from evorank.model.system import Phi
from evorank.prompts.answers import Delta, Operation, Proposal
from evorank.surfaces.surface import open_surface
from evorank.tools.workbench import Workbench

__all__ = ["Transferred", "transfer"]

CODE = "components"
WORD = re.compile(r"[A-Za-z_]\w*")


class Transferred(BaseModel):
    """One winner and what becomes of it on the other surface."""

    model_config = ConfigDict(extra="forbid")
    winner: str
    """Id of the experiment, or of the attempt where nothing was launched."""
    why: str
    """What it won."""
    hypothesis: str
    changes: list[dict[str, Any]] = Field(default_factory=list)
    """JSON Patch against the other surface's production; empty: nothing of it can be tried."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Part -> why it cannot be applied there."""
    status: str
    """`proposed`; `to be proposed` (a dry run); `known`: proposed before for this production; `nothing`."""


def transfer(context: Context, source: str, *, limit: int = 5, dry_run: bool = False) -> list[Transferred]:
    """Propose the winners of surface `source` on the context's surface: what is in its production thanks to
    a launch, newest first; where nothing was launched, its surest offline winners. At most `limit`.

    The next run measures them on the proxy before it asks anybody for ideas. Each is proposed once for a
    production. ConfigurationError: the same surface twice, an unknown one, or no winner.
    """
    if source == context.surface:
        raise ConfigurationError(f"`transfer` needs two surfaces, got {source!r} twice.")
    open_surface(context.home_path(), source)
    session = open_session(context)
    bench = session.workbench
    if session.surface.spec.online is not None:
        bench = open_operations(context).renew()
    winners = _launched(session, source) or _offline(session, source)
    if not winners:
        raise ConfigurationError(
            f"surface `{source}` has no winner yet: nothing was launched there, and no attempt is `better` "
            "or `cheaper`. Run it first."
        )
    ideas = Ideas(session.store, session.surface.name)
    seen: set[str] = set()
    found = []
    for winner in winners[:limit]:
        phi, left_out = _applied(winner, bench)
        idea = (
            _idea(winner, diff(bench.production, phi), session, source) if phi != bench.production else None
        )
        told = Transferred(
            winner=winner.id,
            why=_why(winner),
            hypothesis=winner.hypothesis,
            changes=diff(bench.production, phi),
            left_out=left_out,
            status="nothing",
        )
        if idea is not None and fingerprint(phi) in seen:
            told.left_out["all"] = "Another winner gives the same candidate."
            idea = None
        if idea is not None and carrier(session, idea) is None:
            told.left_out["all"] = "No persona that proposes on this surface may change these fields."
            idea = None
        if idea is not None:
            seen.add(fingerprint(phi))
            if ideas.known(idea.key) is not None:
                told.status = "known"
            elif dry_run:
                told.status = "to be proposed"
            else:
                told.status = "proposed" if ideas.add(idea) else "known"
        found.append(told)
    return found


def _launched(session: Session, source: str) -> list[Attempt | Experiment]:
    """Launched experiments whose changes are in the source's production to this day, newest first: what was
    rolled back, or replaced by a later winner, is not what the surface lives by."""
    current = Versions(session.store, source).current()
    found = session.journal.experiments(source)
    return [
        each
        for each in reversed(found)
        if each.result == "launched" and current is not None and _holds(current.phi, each.changes)
    ]


def _offline(session: Session, source: str) -> list[Attempt | Experiment]:
    """Winners of the proxy, each candidate once, the surest first: where the interval's nearer end is."""
    best: dict[str, tuple[float, Attempt]] = {}
    for attempt in session.journal.attempts(surface=source):
        if not attempt.won or attempt.comparison is None or attempt.fingerprint is None:
            continue
        lower = attempt.comparison["lower_is_better"]
        sure = attempt.comparison["high"] if lower else -attempt.comparison["low"]
        if attempt.fingerprint not in best or sure < best[attempt.fingerprint][0]:
            best[attempt.fingerprint] = (sure, attempt)
    # Gains of different metrics do not compare: the loss first, then what changes the reward.
    order = sorted(best.values(), key=lambda each: (_is_reward(each[1]), each[0]))
    return [attempt for _, attempt in order]


def _is_reward(attempt: Attempt) -> bool:
    return attempt.comparison is not None and not attempt.comparison["lower_is_better"]


def _holds(phi: Phi, changes: Sequence[dict[str, Any]]) -> bool:
    tests = [{"op": "test", "path": c["path"], "value": c["value"]} for c in changes if c["op"] != "remove"]
    try:
        apply_delta(phi, tests)
    except RefusedDelta:
        return False
    return True


def _applied(winner: Attempt | Experiment, bench: Workbench) -> tuple[Phi, dict[str, str]]:
    """The bench's production with every part that fits, and why the others do not."""
    phi, left_out = bench.production, {}
    for part, operations in _parts(winner.changes).items():
        beneath = _beneath(part, operations, winner.phi or {}, phi)
        try:
            try:
                changed = _put(operations, phi, bench)
            except RefusedDelta:
                if not beneath:
                    raise
                changed = _put([*beneath, *operations], phi, bench)
        except RefusedDelta as refusal:
            left_out[part] = str(refusal)
            continue
        if changed == phi:
            left_out[part] = "Production has it already."
        phi = changed
    return phi, left_out


def _put(operations: Sequence[dict[str, Any]], phi: Phi, bench: Workbench) -> Phi:
    """Φ with these changes. RefusedDelta where it is not valid."""
    for operation in operations:
        phi = apply_delta(phi, [_there(operation)])
    findings = bench.check(phi)
    if findings:
        raise RefusedDelta(findings)
    return phi


def _beneath(
    part: str, operations: Sequence[dict[str, Any]], winner: Phi, there: Phi
) -> list[dict[str, Any]]:
    """What a part builds on that its surface had and this one has not: named members of the winner's Φ
    (factors, layers, code) whose names occur in what is changed, or in what these are defined by."""
    named, known = _named(winner, part), _named(there, part)
    set_here = {str(operation["path"]) for operation in operations}
    absent = {path: value for path, value in named.items() if path not in known | dict.fromkeys(set_here)}
    words = set(WORD.findall(str([operation.get("value") for operation in operations])))
    found: dict[str, Any] = {}
    while more := {
        path: value
        for path, value in absent.items()
        if path.rpartition("/")[2] in words and path not in found
    }:
        found |= more
        words |= set(WORD.findall(str(list(more.values()))))
    return [{"op": "add", "path": path, "value": value} for path, value in found.items()]


def _named(phi: Phi, part: str) -> dict[str, Any]:
    """Pointer -> value of what a part defines by name, and of all code."""
    of_part = phi.get(part)  # of a system of one's own it may be a number
    containers = {f"/{part}/{name}": of for name, of in of_part.items()} if isinstance(of_part, dict) else {}
    containers[f"/{CODE}"] = phi.get(CODE)
    return {
        f"{container}/{name}": value
        for container, members in containers.items()
        if isinstance(members, dict)
        for name, value in members.items()
    }


def _parts(changes: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Operations by part, code before what uses it and in every part that does."""
    parts: dict[str, list[dict[str, Any]]] = {}
    code = [change for change in changes if _first(change) == CODE]
    for change in changes:
        if _first(change) != CODE:
            parts.setdefault(_first(change), []).append(change)
    for change in code:
        name = str(change["path"]).rpartition("/")[2]
        users = [part for part, operations in parts.items() if name in str(operations)]
        for part in users or [CODE]:
            parts.setdefault(part, []).insert(0, change)
    return parts


def _first(change: dict[str, Any]) -> str:
    return str(change["path"]).split("/")[1]


def _there(operation: dict[str, Any]) -> dict[str, Any]:
    """The operation as another Φ takes it: a value is set whether or not there was one."""
    if operation["op"] == "replace":
        return operation | {"op": "add"}
    return operation


def _idea(winner: Attempt | Experiment, changes: list[dict[str, Any]], session: Session, source: str) -> Idea:
    experiment = isinstance(winner, Experiment)
    hypothesis = f"{_why(winner)} on surface {source}, tried here as it is: {winner.hypothesis}"
    return Idea(
        key=f"transfer/{source}/{winner.id}/{fingerprint(session.workbench.production)}",
        origin=Origin(
            kind="transfer",
            surface=source,
            experiment=winner.id if experiment else None,
            attempt=None if experiment else winner.id,
        ),
        persona=winner.proposed_by if isinstance(winner, Experiment) else winner.persona,
        proposal=Proposal(category="exploit", hypothesis=hypothesis[:2000]),
        delta=Delta(patch=[Operation.model_validate(each) for each in changes]),
    )


def _why(winner: Attempt | Experiment) -> str:
    """What it won, in a few words with numbers."""
    if isinstance(winner, Attempt):
        both = winner.comparison or {}
        return (
            f"{winner.outcome} on the proxy ({both['metric']} {both['difference']:+.4f} "
            f"[{both['low']:+.4f}, {both['high']:+.4f}])"
        )
    effects = [
        f"{each['metric']} {each['lift']:+.1%} [{each['lift_low']:+.1%}, {each['lift_high']:+.1%}]"
        for each in winner.effects
        if each.get("lift") is not None and each.get("lift_low") is not None
    ]
    return f"launched ({', '.join(effects) or 'no lift was read'})"
