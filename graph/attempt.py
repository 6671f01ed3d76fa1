"""One candidate's way through the offline loop: code, verify, tool, record. Its turn has thought of it.

Where the context says `inspect`, a person looks at the delta between verify and tool (`inspections.py`).

Whatever goes wrong with a candidate (the chat model, a refused delta, a failed training) ends in `record`
with its reason: the journal learns from it and the run goes on. Only what concerns the run as a whole (the
journal cannot be written, the surface cannot be opened) is raised.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from langchain_core.messages import BaseMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from evorank.graph.ask import Chat, Unanswered, Unasked, ask
from evorank.graph.context import Context, Session, context_of, open_session
from evorank.graph.forms import delta_fields
from evorank.graph.inspections import after_inspect, inspect
from evorank.graph.journal import thread_id
from evorank.graph.knowledge import base_of, briefing, chat_of, patchable, tried_before
from evorank.graph.state import Attempt, AttemptInput, AttemptOutput, AttemptState, Origin, Step, Usage
from evorank.graph.trouble import shortened
from evorank.graph.watched import watched
from evorank.model.delta import apply_delta, diff, fingerprint
from evorank.model.errors import Finding, RefusedDelta, Stopped, ToolError
from evorank.personas.embedded.lint import lint
from evorank.personas.embedded.reading import read
from evorank.prompts import render
from evorank.prompts.answers import Configuration, Delta, Operation, Review
from evorank.prompts.briefing import Briefing
from evorank.tools.comparison import Comparison
from evorank.tools.compute_eval import compute_eval
from evorank.tools.compute_loss import compute_loss

__all__ = ["MAX_REPAIRS", "attempt_builder", "tell"]

MAX_REPAIRS = 2

Update = dict[str, Any]


def code(state: AttemptState, runtime: Runtime[Context]) -> Update:
    """Ask for the delta, or for its repair after findings."""
    session = _session(state, runtime)
    assert state.proposal is not None
    started: Update = {"started": state.started or time.time()}
    tell([state], "code", state.proposal.hypothesis)
    base = base_of(state, session, state.proposal.base)
    if base is None:
        known = "`production` and the fingerprints in the journal"
        problem = Finding("/base", f"must name a Φ: {known}", state.proposal.base)
        return started | {"outcome": "refused", "reason": str(problem), "findings": [problem.as_dict()]}
    if state.delta is not None and not state.findings:  # it came with the step: there is nothing to ask
        patch = [_operation(each) for each in state.delta.patch]
        return started | {"base": base[0], "patch": patch}
    told = briefing(state, session, state.persona, insights=state.insights, base=base)
    findings = [Finding(**finding) for finding in state.findings]
    previous = state.delta if findings else None
    whole = session.context.generation == "full"
    messages = render.code(told, state.proposal, findings, previous, whole)
    update = started | {"base": base[0], "steering": _steered(state, told.steering)}
    try:
        delta, usage = _coded(messages, told, chat_of("code", state, session, state.persona), session)
    except Unanswered as error:
        return update | _failed(state, error)
    return update | {
        "delta": delta.model_dump(by_alias=True),
        "patch": [_operation(each) for each in delta.patch],
        "repairs": state.repairs + bool(findings),
        "usage": _spent(state, usage),
    }


def verify(state: AttemptState, runtime: Runtime[Context]) -> Update:
    """Checks that cost milliseconds, then the linter: findings go back to code, twice at most."""
    session = _session(state, runtime)
    bench = session.workbench
    assert state.delta is not None
    tell([state], "verify", state.delta.explanation)
    base = base_of(state, session, state.base)
    assert base is not None
    try:
        phi = apply_delta(base[1], state.patch, patchable(state, session))
        candidate: Update = {
            "phi": phi,
            "fingerprint": fingerprint(phi),
            "changes": diff(bench.production, phi),
        }
        known = tried_before(state, session, candidate["fingerprint"])
        if known:
            return candidate | {"findings": [], "outcome": "duplicate", "reason": known}
        findings = bench.check(phi)
    except RefusedDelta as refusal:
        return _sent_back(state, list(refusal.findings), {"phi": None, "fingerprint": None, "changes": []})
    except ToolError as error:
        return {"outcome": "failed", "reason": str(error)}
    if findings:
        return _sent_back(state, findings, candidate)
    if state.inspections:  # a person wrote it, and has seen what it does
        return candidate | {"findings": []}
    return _reviewed(state, session, base, candidate)


def _reviewed(
    state: AttemptState, session: Session, base: tuple[str, dict[str, Any]], candidate: Update
) -> Update:
    """The linter's word on a valid candidate: it sees the delta, the schema and what fixed rules find."""
    assert state.proposal is not None
    assert state.delta is not None
    told = briefing(state, session, "linter", insights=state.insights, base=base)
    before = [Finding(**finding) for finding in state.findings]
    rules = lint(read(render.review(told, state.proposal, state.delta)))
    candidate["steering"] = _steered(state, told.steering)
    try:
        messages = render.review(told, state.proposal, state.delta, before, rules)
        review, usage = ask(chat_of("linter", state, session, "linter"), messages, Review)
    except Unanswered as error:
        return candidate | _failed(state, error)
    said = review.model_dump() | {"fingerprint": candidate["fingerprint"]}
    candidate |= {"usage": _spent(state, usage), "reviews": [*state.reviews, said]}
    if review.verdict == "revise":
        texts = review.findings or ["The linter wants it revised and did not say why."]
        return _sent_back(state, [Finding("", f"linter: {text.rstrip('.')}") for text in texts], candidate)
    return candidate | {"findings": []}


def tool(state: AttemptState, runtime: Runtime[Context]) -> Update:
    """Measure the candidate against production with the persona's own tool."""
    session = _session(state, runtime)
    assert state.phi is not None
    evaluates = session.personas[state.persona].judges_rewards
    name = "compute_eval" if evaluates else "compute_loss"
    tell([state], "tool", name)
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
    origin = state.origin
    if state.fork:
        first = thread_id(state.run, state.step)
        origin = Origin(kind="fork", surface=session.surface.name, attempt=first)
    attempt = Attempt(
        id=thread_id(state.run, state.step, state.fork),
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
        inspections=state.inspections,
        comparison=state.comparison,
        curves=state.curves,
        insights=state.insights,
        reviews=state.reviews,
        steering=state.steering,
        usage=state.usage,
        model=state.model or chat_of("think", state, session, state.persona).name,
        seed=state.seed,
        started_at=datetime.fromtimestamp(state.started, UTC).isoformat(timespec="milliseconds"),
        seconds=round(time.time() - state.started, 3),
        origin=origin,
    )
    session.journal.append(attempt)
    get_stream_writer()({"event": "attempt"} | attempt.summary())
    return {"finished": 1}


# -- decisions: pure, and visible as edges


def begin(state: AttemptState, runtime: Runtime[Context]) -> Literal["code", "record", "__end__"]:
    """A step that is in the journal already (a crash came between its record and its checkpoint) is done;
    one whose turn could not think of anything is recorded with the reason."""
    if _session(state, runtime).journal.get(thread_id(state.run, state.step, state.fork)) is not None:
        return "__end__"
    return "record" if state.outcome else "code"


def after_code(state: AttemptState) -> Literal["verify", "record"]:
    return "record" if state.outcome else "verify"


def after_verify(
    state: AttemptState, runtime: Runtime[Context]
) -> Literal["tool", "code", "inspect", "record"]:
    """What a person wrote is theirs to mend; what CODE wrote they see once it is valid."""
    if state.outcome:
        return "record"
    if state.inspections:
        return "inspect" if state.findings else "tool"
    if state.findings:
        return "code"
    return "inspect" if _session(state, runtime).context.inspect else "tool"


def attempt_builder() -> StateGraph[AttemptState, Context, AttemptInput, AttemptOutput]:
    """The graph of one candidate: AttemptInput in, a journal record and `finished` out."""
    builder = StateGraph(
        AttemptState, context_schema=Context, input_schema=AttemptInput, output_schema=AttemptOutput
    )
    for node in (code, verify, inspect, tool, record):
        builder.add_node(node.__name__, watched(node))
    builder.add_conditional_edges(START, begin)
    builder.add_conditional_edges("code", after_code)
    builder.add_conditional_edges("verify", after_verify)
    builder.add_conditional_edges("inspect", after_inspect)
    builder.add_edge("tool", "record")
    builder.add_edge("record", END)
    return builder


# -- what nodes share


def tell(steps: Sequence[Step], node: str, text: str) -> None:
    """Say what is being done for these steps, to whoever watches the run."""
    for step in steps:
        get_stream_writer()(
            {"event": "node", "step": step.step, "persona": step.persona, "node": node, "text": text}
        )


def _session(state: AttemptInput, runtime: Runtime[Context]) -> Session:
    return open_session(context_of(state.context, runtime))


def _steered(state: AttemptState, directives: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*state.steering, *directives]))


def _coded(messages: list[BaseMessage], told: Briefing, chat: Chat, session: Session) -> tuple[Delta, Usage]:
    """CODE's answer as a delta: asked for as one, or (`generation` full) computed from a whole Φ."""
    if session.context.generation == "delta":
        return ask(chat, messages, Delta, delta_fields(told.schema, told.patchable))
    whole, usage = ask(chat, messages, Configuration, {"phi": dict(told.schema)}, strict=False)
    try:
        changes = diff(told.base, whole.phi) or [{"op": "test", "path": "", "value": told.base}]
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
    if isinstance(error, Stopped):  # there is no loss to compare, and no need for one
        return {"outcome": "worse", "reason": str(error), "curves": error.curves}
    return {"outcome": "failed", "reason": str(error)}


def _sent_back(state: AttemptState, findings: list[Finding], candidate: Update) -> Update:
    update = candidate | {"findings": [finding.as_dict() for finding in findings]}
    if state.repairs < MAX_REPAIRS or state.inspections:
        return update
    return update | {"outcome": "refused", "reason": " ".join(str(finding) for finding in findings)}


def _operation(operation: Operation) -> dict[str, Any]:
    """An operation as RFC 6902 writes it: a null `value` is a value, a missing one is not."""
    written: dict[str, Any] = {"op": operation.op, "path": operation.path}
    if operation.op in ("add", "replace", "test"):
        written["value"] = operation.value
    if operation.op in ("move", "copy"):
        written["from"] = operation.from_
    return written
