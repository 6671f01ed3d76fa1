"""One candidate's way through the offline loop: think, code, verify, tool, record.

Whatever goes wrong with a candidate (the chat model, a refused delta, a failed training) ends in `record`
with its reason: the journal learns from it and the run goes on. Only what concerns the run as a whole (the
journal cannot be written, the surface cannot be opened) is raised.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from langchain_core.messages import BaseMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from evorank.graph.ask import Chat, Unanswered, Unasked, ask
from evorank.graph.context import Context, Session, context_of, open_session
from evorank.graph.forms import delta_fields
from evorank.graph.journal import thread_id
from evorank.graph.models import Role
from evorank.graph.spending import Account
from evorank.graph.state import Attempt, AttemptInput, AttemptOutput, AttemptState, Usage
from evorank.graph.trouble import shortened
from evorank.model.delta import apply_delta, diff, fingerprint
from evorank.model.errors import Finding, RefusedDelta, Stopped, ToolError
from evorank.model.system import Phi
from evorank.prompts import render
from evorank.prompts.answers import Configuration, Delta, Operation, Proposal, Review
from evorank.prompts.briefing import Briefing, Quota
from evorank.tools.comparison import Comparison
from evorank.tools.compute_eval import compute_eval
from evorank.tools.compute_loss import compute_loss
from evorank.tools.run_sql_query import run_sql_query

__all__ = ["MAX_QUERIES", "MAX_REPAIRS", "attempt_builder"]

MAX_QUERIES = 3
MAX_REPAIRS = 2
SHARES: Mapping[str, float] = {"explore": 0.4, "exploit": 0.4, "innovate": 0.2}
"""Wanted share of each category of proposals."""
MEASURED = ("better", "cheaper", "equal", "worse", "inconclusive")

Update = dict[str, Any]


def think(state: AttemptState, runtime: Runtime[Context]) -> Update:
    """Ask the persona for a hypothesis, or for one more query first."""
    session = _session(state, runtime)
    started = state.started or time.time()
    _tell(state, "think", f"{state.persona} thinks")
    try:
        messages = render.think(_briefing(state, session))
        proposal, usage = ask(_chat("think", state, session), messages, Proposal)
    except Unanswered as error:
        return {"started": started} | _failed(state, error)
    return {"started": started, "proposal": proposal.model_dump(), "usage": _spent(state, usage)}


def query(state: AttemptState, runtime: Runtime[Context]) -> Update:
    """Run the persona's SQL; its answer, or why it was refused, enters the next prompt."""
    session = _session(state, runtime)
    assert state.proposal is not None
    sql = state.proposal.query or ""
    _tell(state, "query", sql)
    try:
        found = {"query": sql, "table": run_sql_query(sql, session.workbench).as_markdown()}
    except ToolError as error:
        found = {"query": sql, "error": str(error)}
    return {"insights": [*state.insights, found]}


def code(state: AttemptState, runtime: Runtime[Context]) -> Update:
    """Ask for the delta, or for its repair after findings."""
    session = _session(state, runtime)
    assert state.proposal is not None
    started = {"started": state.started or time.time()}
    _tell(state, "code", state.proposal.hypothesis)
    found = _base(state, session, state.proposal.base)
    if found is None:
        known = "`production` and the fingerprints in the journal"
        problem = Finding("/base", f"must name a Φ: {known}", state.proposal.base)
        return started | {"outcome": "refused", "reason": str(problem), "findings": [problem.as_dict()]}
    base, phi = found
    if state.delta is not None and not state.findings:  # it came with the step: there is nothing to ask
        patch = [_operation(each) for each in state.delta.patch]
        return started | {"base": base, "patch": patch}
    briefing = replace(_briefing(state, session), base=phi, base_fingerprint=base)
    findings = [Finding(**finding) for finding in state.findings]
    previous = state.delta if findings else None
    whole = session.context.generation == "full"
    messages = render.code(briefing, state.proposal, findings, previous, whole)
    try:
        delta, usage = _coded(messages, briefing, _chat("code", state, session), session)
    except Unanswered as error:
        return started | {"base": base} | _failed(state, error)
    return started | {
        "base": base,
        "delta": delta.model_dump(by_alias=True),
        "patch": [_operation(each) for each in delta.patch],
        "repairs": state.repairs + bool(findings),
        "usage": _spent(state, usage),
    }


def verify(state: AttemptState, runtime: Runtime[Context]) -> Update:
    """Checks that cost milliseconds, then the linter: findings go back to code, twice at most."""
    session = _session(state, runtime)
    bench = session.workbench
    assert state.proposal is not None
    assert state.delta is not None
    _tell(state, "verify", state.delta.explanation)
    found = _base(state, session, state.base)
    assert found is not None
    try:
        phi = apply_delta(found[1], state.patch, _patchable(state, session))
        candidate: Update = {
            "phi": phi,
            "fingerprint": fingerprint(phi),
            "changes": diff(bench.production, phi),
        }
        known = _seen(state, session, candidate["fingerprint"])
        if known:
            return candidate | {"findings": [], "outcome": "duplicate", "reason": known}
        findings = bench.check(phi)
    except RefusedDelta as refusal:
        return _sent_back(state, list(refusal.findings), {"phi": None, "fingerprint": None, "changes": []})
    except ToolError as error:
        return {"outcome": "failed", "reason": str(error)}
    if findings:
        return _sent_back(state, findings, candidate)
    linter = replace(
        _briefing(state, session),
        persona=session.personas["linter"],
        base=found[1],
        base_fingerprint=state.base,
    )
    try:
        messages = render.review(linter, state.proposal, state.delta)
        review, usage = ask(_chat("linter", state, session), messages, Review)
    except Unanswered as error:
        return candidate | _failed(state, error)
    candidate["usage"] = _spent(state, usage)
    if review.verdict == "revise":
        texts = review.findings or ["The linter wants it revised and did not say why."]
        return _sent_back(state, [Finding("", f"linter: {text.rstrip('.')}") for text in texts], candidate)
    return candidate | {"findings": []}


def tool(state: AttemptState, runtime: Runtime[Context]) -> Update:
    """Measure the candidate against production with the persona's own tool."""
    session = _session(state, runtime)
    assert state.phi is not None
    evaluates = "compute_eval" in session.personas[state.persona].tools
    name = "compute_eval" if evaluates else "compute_loss"
    _tell(state, "tool", name)
    writer = get_stream_writer()

    def on_progress(text: str) -> None:
        writer({"event": "progress", "step": state.step, "persona": state.persona, "text": text})

    try:
        measure = compute_eval if evaluates else compute_loss
        comparison: Comparison = measure(state.phi, session.workbench, on_progress)
    except (RefusedDelta, ToolError) as error:
        update = _unmeasured(error)
        return update | {"usage": _spent(state, Usage(cpu_seconds=error.cpu_seconds))}
    return {
        "outcome": comparison.verdict,
        "reason": comparison.reason,
        "comparison": comparison.model_dump(mode="json"),
        "usage": _spent(state, Usage(cpu_seconds=comparison.cpu_seconds)),
    }


def record(state: AttemptState, runtime: Runtime[Context]) -> Update:
    """Write the attempt to the journal: once, however often this node runs.

    What could not be asked is not written: the step stays to be done.
    """
    if state.unasked:
        get_stream_writer()({"event": "unasked", "step": state.step, "text": state.reason})
        return {}
    session = _session(state, runtime)
    assert state.outcome is not None
    attempt = Attempt(
        id=thread_id(state.run, state.step),
        run=state.run,
        step=state.step,
        surface=session.surface.name,
        data_version=session.workbench.dataset.key,
        persona=state.persona,
        category=state.proposal.category if state.proposal else None,
        hypothesis=state.proposal.hypothesis if state.proposal else "",
        base=state.base,
        production=session.production_fingerprint,
        patch=state.patch,
        changes=state.changes,
        phi=state.phi,
        fingerprint=state.fingerprint,
        outcome=state.outcome,
        reason=state.reason,
        findings=state.findings,
        repairs=state.repairs,
        comparison=state.comparison,
        insights=state.insights,
        usage=state.usage,
        model=_chat("think", state, session).name,
        seed=state.seed,
        started_at=datetime.fromtimestamp(state.started, UTC).isoformat(timespec="milliseconds"),
        seconds=round(time.time() - state.started, 3),
        origin=state.origin,
    )
    session.journal.append(attempt)
    get_stream_writer()({"event": "attempt"} | attempt.summary())
    return {"finished": 1}


# -- decisions: pure, and visible as edges


def begin(state: AttemptState, runtime: Runtime[Context]) -> Literal["think", "code", "__end__"]:
    """A step that is in the journal already (a crash came between its record and its checkpoint) is done;
    one that was handed an idea need not think."""
    if _session(state, runtime).journal.get(thread_id(state.run, state.step)) is not None:
        return "__end__"
    return "think" if state.proposal is None else "code"


def after_think(state: AttemptState, runtime: Runtime[Context]) -> Literal["query", "code", "record"]:
    if state.outcome:
        return "record"
    allowed = "run_sql_query" in _session(state, runtime).personas[state.persona].tools
    asks = state.proposal is not None and bool(state.proposal.query)
    return "query" if allowed and asks and len(state.insights) < MAX_QUERIES else "code"


def after_code(state: AttemptState) -> Literal["verify", "record"]:
    return "record" if state.outcome else "verify"


def after_verify(state: AttemptState) -> Literal["tool", "code", "record"]:
    if state.outcome:
        return "record"
    return "code" if state.findings else "tool"


def attempt_builder() -> StateGraph[AttemptState, Context, AttemptInput, AttemptOutput]:
    """The graph of one step: AttemptInput in, a journal record and `finished` out."""
    builder = StateGraph(
        AttemptState, context_schema=Context, input_schema=AttemptInput, output_schema=AttemptOutput
    )
    for node in (think, query, code, verify, tool, record):
        builder.add_node(node.__name__, node)
    builder.add_conditional_edges(START, begin)
    builder.add_conditional_edges("think", after_think)
    builder.add_edge("query", "think")
    builder.add_conditional_edges("code", after_code)
    builder.add_conditional_edges("verify", after_verify)
    builder.add_edge("tool", "record")
    builder.add_edge("record", END)
    return builder


# -- what nodes share


def _session(state: AttemptInput, runtime: Runtime[Context]) -> Session:
    return open_session(context_of(state.context, runtime))


def _tell(state: AttemptState, node: str, text: str) -> None:
    get_stream_writer()(
        {"event": "node", "step": state.step, "persona": state.persona, "node": node, "text": text}
    )


def _chat(role: Role, state: AttemptState, session: Session) -> Chat:
    persona = "linter" if role == "linter" else state.persona
    account = Account(run=state.run, step=state.step, persona=persona)
    return session.chat(role, account, lambda: _visible(state, session))


def _coded(
    messages: list[BaseMessage], briefing: Briefing, chat: Chat, session: Session
) -> tuple[Delta, Usage]:
    """CODE's answer as a delta: asked for as one, or (`generation` full) computed from a whole Φ."""
    if session.context.generation == "delta":
        return ask(chat, messages, Delta, delta_fields(briefing.schema, briefing.patchable))
    whole, usage = ask(chat, messages, Configuration, {"phi": dict(briefing.schema)}, strict=False)
    try:
        changes = diff(briefing.base, whole.phi) or [{"op": "test", "path": "", "value": briefing.base}]
        return Delta.model_validate({"patch": changes, "explanation": whole.explanation}), usage
    except (RefusedDelta, ValueError) as error:
        raise Unanswered(f"CODE answered with what is no configuration: {shortened(error)}", usage) from None


def _spent(state: AttemptState, usage: Usage) -> Update:
    return (state.usage + usage).model_dump()


def _failed(state: AttemptState, error: Unanswered) -> Update:
    spent = {"usage": _spent(state, error.usage), "unasked": isinstance(error, Unasked)}
    return {"outcome": "failed", "reason": str(error)} | spent


def _unmeasured(error: RefusedDelta | ToolError) -> Update:
    """The outcome of a candidate whose trainings gave no comparison."""
    if isinstance(error, RefusedDelta):  # a guardrail that only a training can measure
        findings = [finding.as_dict() for finding in error.findings]
        return {"outcome": "refused", "reason": str(error), "findings": findings}
    # Stopped: there is no loss to compare, and no need for one.
    return {"outcome": "worse" if isinstance(error, Stopped) else "failed", "reason": str(error)}


def _sent_back(state: AttemptState, findings: list[Finding], candidate: Update) -> Update:
    update = candidate | {"findings": [finding.as_dict() for finding in findings]}
    if state.repairs < MAX_REPAIRS:
        return update
    return update | {"outcome": "refused", "reason": " ".join(str(finding) for finding in findings)}


def _visible(state: AttemptInput, session: Session) -> list[Attempt]:
    """The journal as this step may see it: the same whatever runs beside it, and however fast."""
    surface = session.surface.name
    others = session.journal.attempts(surface=surface, until=state.since)
    own = session.journal.attempts(surface=surface, run=state.run)
    return [attempt for attempt in others if attempt.run != state.run] + sorted(
        (attempt for attempt in own if attempt.step < state.before), key=lambda attempt: attempt.step
    )


def _base(state: AttemptInput, session: Session, name: str) -> tuple[str, Phi] | None:
    """Fingerprint and Φ of `production` or of an attempt, by 8 or more characters of its fingerprint."""
    production = session.production_fingerprint
    if name == "production" or (len(name) >= 8 and production.startswith(name)):
        return production, session.workbench.production
    for attempt in reversed(_visible(state, session)):
        if attempt.phi and attempt.fingerprint and len(name) >= 8 and attempt.fingerprint.startswith(name):
            return attempt.fingerprint, attempt.phi
    return None


def _seen(state: AttemptInput, session: Session, candidate: str) -> str:
    """Why a candidate needs no training: it is production, or was measured against it on this data; or ""."""
    if candidate == session.production_fingerprint:
        return "This is production itself."
    for attempt in _visible(state, session):
        same = attempt.fingerprint == candidate and attempt.production == session.production_fingerprint
        if same and attempt.outcome in MEASURED and attempt.data_version == session.workbench.dataset.key:
            return f"Tried before, as step {attempt.step} of run {attempt.run}: {attempt.outcome}."
    return ""


def _patchable(state: AttemptInput, session: Session) -> list[str]:
    """What a delta may touch: the persona's part; of an idea that came with the step, what anybody's here."""
    parts = session.workbench.system.patchable()
    own = [state.persona] if state.origin is None else session.proposers
    return list(dict.fromkeys(prefix for persona in own for prefix in parts[persona]))


def _briefing(state: AttemptState, session: Session) -> Briefing:
    surface, bench = session.surface, session.workbench
    journal = _visible(state, session)
    done = [attempt.category for attempt in journal if attempt.run == state.run]
    return Briefing(
        persona=session.personas[state.persona],
        surface=surface.name,
        description=surface.spec.description,
        objectives={name: Quota(share, done.count(name)) for name, share in SHARES.items()},
        guardrails=[f"{rail}." for rail in surface.spec.guardrails],
        schema=bench.system.schema(),
        patchable=_patchable(state, session),
        production=bench.production,
        production_fingerprint=session.production_fingerprint,
        base=bench.production,
        base_fingerprint=session.production_fingerprint,
        log=bench.dataset.schema,
        functions=session.functions,
        steering=session.context.steering,
        journal=[session.dump(attempt) for attempt in journal],
        experiments=[each.model_dump(mode="json") for each in session.journal.experiments(surface.name)],
        insights=[insight for attempt in journal for insight in attempt.insights] + state.insights,
        run="",  # a name must not change what is proposed: the same seed, the same run
        step=state.step,
        seed=state.seed,
    )


def _operation(operation: Operation) -> dict[str, Any]:
    """An operation as RFC 6902 writes it: a null `value` is a value, a missing one is not."""
    written: dict[str, Any] = {"op": operation.op, "path": operation.path}
    if operation.op in ("add", "replace", "test"):
        written["value"] = operation.value
    if operation.op in ("move", "copy"):
        written["from"] = operation.from_
    return written
