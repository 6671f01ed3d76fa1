"""The journal as prompts show it: attempts and what live traffic said of them, best first, as JSON lines.

What is known of a live test is its end. Before the horizon nothing of its readings enters a prompt: whoever
acted on them would peek, and a test that is read daily breaks the error rate it promised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from evorank.prompts.briefing import PROMPT_TOKENS, History
from evorank.prompts.length import shortened
from evorank.prompts.quoted import clipped, number, short, text

__all__ = [
    "Record",
    "Verdict",
    "attempt_name",
    "compared",
    "journal_lines",
    "live_gain",
    "replayed",
    "verdict",
]

TEXT_LIMIT = 400
VALUE_LIMIT = 1500

WON = ("better", "cheaper")
MEASURED = (*WON, "inconclusive", "equal", "worse")
SHOWN: Mapping[History, int] = {"top-5": 5, "top-1": 1, "none": 0}
"""Lines of a journal that is not shown whole."""

Verdict = Literal["won", "lost", "not read", "under way"]
Record = Mapping[str, Any]


class _Entry(NamedTuple):
    attempt: Record
    test: Record | None
    """The experiment of this attempt, where it has one."""

    @property
    def tested(self) -> bool:
        return self.test is not None and verdict(self.test) in ("won", "lost")


def journal_lines(
    journal: Sequence[Record],
    production: str,
    experiments: Sequence[Record] = (),
    room: int = PROMPT_TOKENS,
    own_run: str = "",
    history: History = "sorted",
) -> tuple[list[dict[str, Any]], int]:
    """The journal's lines that fit into `room` tokens, best first, and how many attempts were left out.

    Best first: what won live by its lift; winners of the proxy by how much they gained; what lost live,
    whatever its proxy says; the other measured ones by difference; then what was never measured (refused,
    failed, duplicate), newest first. `length` says what gives way in a long journal.
    `production` is the fingerprint deltas are against now; what was compared with another one says so in
    `against`. An experiment without an attempt here (a person proposed it) is a line of its own.
    """
    entries = sorted(_entries(journal, experiments), key=_rank)
    if history == "unsorted":
        entries.sort(key=lambda entry: _age(entry.attempt, own_run))
    lines = shortened(
        entries[: SHOWN.get(history)],
        room,
        lambda entry: _line(entry, production, own_run),
        always=lambda entry: entry.tested,
        told=lambda entry: bool(entry.attempt.get("imported")),
        newness=lambda entry: _age(entry.attempt, own_run),
    )
    return lines, len(entries) - len(lines)


def attempt_name(attempt: Record, own_run: str) -> str | None:
    """How prompts call an attempt: by its step where it is of their own run, else by its id's beginning.

    Ids depend on the name of the run, and that name must not change what is proposed.
    """
    if own_run and attempt.get("run") == own_run:
        return str(attempt["step"])
    return str(attempt["id"])[:8] if attempt.get("id") else None


def verdict(experiment: Record) -> Verdict:
    """What live traffic said: of a guardrail that broke and of a horizon that was reached, never of less."""
    decision = experiment.get("decision") or {}
    if decision.get("outcome") == "launch" or experiment.get("result") == "launched":
        return "won"
    if experiment.get("result") is None:
        return "under way"
    if experiment["result"] == "no_launch" or decision.get("rule") == "guardrail_broken":
        return "lost"
    return "not read"


def live_gain(online: Record) -> float | None:
    """Lift of the first success metric of a line's `online`, positive is better; None where it has none."""
    for effect in (online.get("success") or {}).values():
        lift = effect.get("lift")
        return None if lift is None else -float(lift) if effect.get("better_is") == "lower" else float(lift)
    return None


def _age(attempt: Record, own_run: str) -> str:
    """Sorts attempts by time, those of the own run last and by step: in a batch, clocks decide nothing."""
    own = bool(own_run) and attempt.get("run") == own_run
    return f"own {attempt['step']:09d}" if own else str(attempt.get("started_at", ""))


def _entries(journal: Sequence[Record], experiments: Sequence[Record]) -> list[_Entry]:
    """Each attempt with the experiment that says most of it: one that was read, then the latest."""
    known = {attempt["id"] for attempt in journal if attempt.get("id")}
    tests: dict[Any, Record] = {}
    own = []
    for test in sorted(experiments, key=_telling):
        if test.get("attempt") in known:
            tests[test["attempt"]] = test
        else:
            own.append(_Entry(_attempt_of(test), test))
    entries = [
        _reported(attempt) if attempt.get("imported") else _Entry(attempt, tests.get(attempt.get("id")))
        for attempt in journal
    ]
    return entries + own


def _reported(attempt: Record) -> _Entry:
    """An imported attempt: what its file says, where others have what was measured."""
    told = attempt["imported"]
    effects, metrics, comparison = [], [], None
    for each in told["metrics"]:
        if each.get("lift") is None:
            lower = each["better_is"] == "lower"
            comparison = comparison or each | {"lower_is_better": lower}
            continue
        ends = {"low": each["low"], "high": each["high"], "lift_low": each["low"], "lift_high": each["high"]}
        effects.append({"metric": each["metric"], "lift": each["lift"]} | ends)
        higher = each["better_is"] == "higher"
        success = each["role"] == "success"
        metrics.append({"name": each["metric"], "success": success, "higher_is_better": higher})
    test = None
    if told.get("result"):
        won = told["result"] in ("launched", "superseded")
        decision = {"outcome": "launch"} if won else {"rule": "guardrail_broken"}
        test = {"result": told["result"], "decision": decision, "effects": effects}
        test["plan"] = {"metrics": metrics}
    return _Entry({**attempt, "comparison": comparison, "step": None}, test)


def _telling(test: Record) -> tuple[bool, str]:
    return verdict(test) in ("won", "lost"), str((test.get("times") or {}).get("proposed", ""))


def _attempt_of(test: Record) -> dict[str, Any]:
    """An experiment in the form of an attempt: what was proposed for traffic without the offline loop."""
    return {
        "id": test.get("id"),
        "persona": text(test.get("proposed_by"), 80),
        "category": test.get("category"),
        "outcome": (test.get("proxy") or {}).get("verdict", "proposed"),
        "fingerprint": test.get("fingerprint"),
        "base": test.get("production"),
        "production": test.get("production"),
        "changes": test.get("changes"),
        "comparison": test.get("proxy"),
        "hypothesis": test.get("hypothesis"),
        "started_at": (test.get("times") or {}).get("proposed", ""),
    }


def _rank(entry: _Entry) -> tuple[int, float, float, int]:
    attempt, test = entry
    outcome, gain = attempt["outcome"], _gain(attempt)
    seen = verdict(test) if test is not None else None
    # A cheap slice can look better than any full run by luck alone: full runs come first among equals.
    effort = 1.0 if (attempt.get("comparison") or {}).get("effort") == "slice" else 0.0
    if test is not None and seen in ("won", "lost"):
        tier, effort, gain = (0 if seen == "won" else 2), 0.0, live_gain(_online(test))
    elif outcome in WON:
        tier = 1
    else:
        tier = 3 if outcome in MEASURED and gain is not None else 4
    if attempt.get("imported"):
        effort = 2.0  # of the same kind, what was measured here comes first
    return tier, effort, -(gain or 0.0), -int(attempt.get("step") or 0)


def _gain(attempt: Record) -> float | None:
    comparison = attempt.get("comparison")
    if not comparison or comparison.get("difference") is None:
        return None
    sign = -1.0 if comparison.get("lower_is_better", True) else 1.0
    return sign * float(comparison["difference"])


def _line(entry: _Entry, production: str, own_run: str) -> dict[str, Any]:
    attempt, test = entry
    line: dict[str, Any] = {
        "id": attempt_name(attempt, own_run),
        "persona": attempt.get("persona"),
        "category": attempt.get("category"),
        "outcome": attempt["outcome"],
        "phi": short(attempt.get("fingerprint")),
        "base": short(attempt.get("base")),
        # A candidate that was refused has no Φ: what it tried is its patch against its base.
        "delta": clipped(attempt.get("changes") or attempt.get("patch") or [], VALUE_LIMIT),
    }
    if attempt.get("imported"):
        line["imported"] = {"by": text(attempt["imported"]["by"], 80), "when": attempt["imported"]["when"]}
    if test is not None:
        line |= {"online": _online(test)} | replayed(test)
    if attempt.get("production") and attempt["production"] != production:
        line["against"] = short(attempt["production"])
    line |= compared(attempt.get("comparison"))
    line["hypothesis"] = text(attempt.get("hypothesis"), TEXT_LIMIT)
    line["reason"] = text(attempt.get("reason"), TEXT_LIMIT)
    if attempt.get("findings"):
        line["findings"] = clipped(
            [
                {"pointer": f.get("pointer"), "rule": text(f.get("rule"), 200)}
                for f in attempt["findings"][:5]
            ],
            1000,
        )
    return line


def _online(test: Record) -> dict[str, Any]:
    """What a line says of a live test: how it ended, and the effects that its verdict was read from."""
    seen = verdict(test)
    line: dict[str, Any] = {"verdict": seen}
    if test.get("result") is None:
        line["phase"] = test.get("phase")
    else:
        line["result"] = test["result"]
    if seen in ("won", "lost"):
        metrics = {metric["name"]: metric for metric in (test.get("plan") or {}).get("metrics", ())}
        for effect in test.get("effects") or ():
            metric = metrics.get(effect["metric"], {"success": True})
            role = "success" if metric.get("success") else "guardrails"
            line.setdefault(role, {})[text(effect["metric"], 80)] = _effect(effect, metric)
    if test.get("result") is not None:  # until then it says what is waited for
        line["reason"] = text(test.get("reason"), TEXT_LIMIT)
    return line


def replayed(test: Record) -> dict[str, Any]:
    """`off_policy`: what a replay of random exposures estimated before the test; {} where it could not."""
    found = (test.get("validation") or {}).get("off_policy") or {}
    estimates = {
        each["method"]: {
            "difference": number(each["difference"], 3),
            "interval": [number(each["low"], 3), number(each["high"], 3)],
            "production": number(each["production"], 3),
        }
        for each in found.get("estimates", ())
    }
    if not estimates:
        return {}
    return {"off_policy": {"reward": text(found["reward"], TEXT_LIMIT), "better_is": "higher"} | estimates}


def _effect(effect: Record, metric: Record) -> dict[str, Any]:
    """Lift and interval; where no lift can be told, the difference in the metric's own unit."""
    ends: Iterable[str] = ("low", "high")
    name = "difference" if effect.get("lift") is None else "lift"
    if name == "lift" and "lift_low" in effect:  # a platform's own estimates are of the lift only
        ends = ("lift_low", "lift_high")
    shown = {name: number(effect[name], 3), "interval": [number(effect[end], 3) for end in ends]}
    return shown if metric.get("higher_is_better", True) else shown | {"better_is": "lower"}


def compared(comparison: Record | None) -> dict[str, Any]:
    """What a line says of a proxy comparison; {} where there is none."""
    if not comparison:
        return {}
    return {
        "metric": text(comparison.get("metric"), 80),
        "better_is": "lower" if comparison.get("lower_is_better", True) else "higher",
        "difference": number(comparison.get("difference")),
        "interval": [number(comparison.get("low")), number(comparison.get("high"))],
        "effort": comparison.get("effort"),
        "train_cost": _ratio(comparison, "train_cpu_seconds"),
    }


def _ratio(comparison: Record, name: str) -> float | None:
    """Candidate over production; 0.25 = a quarter of the cost."""
    candidate, production = comparison.get("candidate") or {}, comparison.get("production") or {}
    if not candidate.get(name) or not production.get(name):
        return None
    return number(candidate[name] / production[name], 3)
