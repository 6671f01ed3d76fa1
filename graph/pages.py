"""pages: what a tracking server is told of a run, an attempt and a live test: a few words, numbers, one file.

Only what differs is a parameter: the changed paths, not the configuration. Code is in the file.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from evorank.graph.plan import load_plan
from evorank.graph.state import Attempt, Experiment
from evorank.model.errors import ConfigurationError

__all__ = ["Page", "attempt_page", "experiment_page", "run_page"]

VALUE_LIMIT, TAG_LIMIT, PARAM_LIMIT = 500, 5000, 100
"""What MLflow takes: characters of a value and of a tag, parameters at once."""
LEFT_OUT = ("home", "store", "steering", "address")
"""Fields of a context that are no setting of the search."""


@dataclass(frozen=True)
class Page:
    """What is shown of one thing."""

    kind: Literal["run", "attempt", "experiment"]
    name: str
    run: str
    """The run that it belongs to; "": none."""
    begun: int
    """Milliseconds since 1970, as `at`: when it was written last. Of live tests, in the surface's time."""
    at: int
    file: str
    text: str
    status: str = ""
    """FINISHED or FAILED; "": it is under way."""
    step: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def attempt_page(attempt: Attempt) -> Page:
    """A candidate: its changes, the comparison with production, what it cost."""
    comparison = attempt.comparison or {}
    numbers = {name: comparison.get(name) for name in ("difference", "low", "high")}
    numbers |= {f"candidate.{name}": value for name, value in (comparison.get("candidate") or {}).items()}
    numbers |= {f"usage.{name}": value for name, value in attempt.usage.model_dump().items()}
    names = ("persona", "category", "outcome", "fingerprint", "model")
    tags = {name: getattr(attempt, name) for name in names} | {"metric": comparison.get("metric")}
    begun = _milliseconds(attempt.started_at)
    told = {"hypothesis", "patch", "changes", "base", "production", "reason", "findings", "inspections"}
    return Page(
        kind="attempt",
        name=f"{attempt.step} {attempt.persona} {attempt.outcome}",
        run=attempt.run,
        begun=begun,
        at=begun + round(1000 * attempt.seconds),
        file="delta.json",
        text=json.dumps(attempt.model_dump(mode="json", include=told), indent=2),
        status="FAILED" if attempt.outcome == "failed" else "FINISHED",
        step=attempt.step,
        tags=_tags(tags, attempt.hypothesis, attempt.reason),
        params=_params(attempt.changes),
        metrics=_numbers(numbers),
    )


def experiment_page(experiment: Experiment) -> Page:
    """A live test as it stands; effects are there once it was read at its horizon."""
    names = ("phase", "result", "proposed_by", "fingerprint", "production", "attempt", "version")
    numbers: dict[str, Any] = {"readings": len(experiment.readings), "coverage": experiment.coverage}
    for effect in experiment.effects:
        for name in ("lift", "lift_low", "lift_high", "difference", "low", "high"):
            numbers[f"{effect['metric']}.{name}"] = effect.get(name)
    times = sorted(_milliseconds(each) for each in experiment.times.values())
    leave = {"phi", "artifacts"}
    return Page(
        kind="experiment",
        name=f"live {experiment.id[:8]} {experiment.result or experiment.phase}",
        run=experiment.run or "",
        begun=times[0] if times else 0,
        at=times[-1] if times else 0,
        file="experiment.json",
        text=json.dumps(experiment.model_dump(mode="json", exclude=leave), indent=2),
        status={None: "", "failed": "FAILED"}.get(experiment.result, "FINISHED"),
        step=len(experiment.readings),
        tags=_tags(
            {name: getattr(experiment, name) for name in names}, experiment.hypothesis, experiment.reason
        ),
        # A parameter cannot change, and a candidate may be put on another production when its turn comes.
        params={} if experiment.phase == "proposed" else _params(experiment.changes),
        metrics=_numbers(numbers),
    )


def run_page(run: str, attempts: Sequence[Attempt], home: Path, ended: bool) -> Page:
    """A run as it stands: what it was asked, how many candidates came to what, the best so far."""
    try:
        plan = load_plan(home, run)
    except ConfigurationError:  # proposals by a live chat model of the app around it
        settings, begun, text = {}, attempts[0].started_at if attempts else "", "{}"
    else:
        settings = {name: value for name, value in plan.context.items() if name not in LEFT_OUT}
        settings |= {"steps": plan.steps, "graph": plan.graph, "data_version": plan.data_version}
        begun, text = plan.created_at, plan.model_dump_json(indent=2)
    last = max((_milliseconds(each.started_at) + round(1000 * each.seconds) for each in attempts), default=0)
    best = min(
        (
            each.comparison["difference"]
            for each in attempts
            if each.outcome == "better" and each.comparison and each.comparison["lower_is_better"]
        ),
        default=None,
    )
    counts = Counter(each.outcome for each in attempts)
    numbers: dict[str, Any] = {f"outcomes.{outcome}": count for outcome, count in counts.items()}
    numbers |= {"attempts": len(attempts), "best_difference": best}
    numbers |= {"cpu_seconds": sum(each.usage.cpu_seconds for each in attempts)}
    return Page(
        kind="run",
        name=run,
        run=run,
        begun=_milliseconds(begun),
        at=max(last, _milliseconds(begun)),
        file="run.json",
        text=text,
        status="FINISHED" if ended else "",
        step=len(attempts),
        params={name: _short(value) for name, value in settings.items() if value not in (None, [], {})},
        metrics=_numbers(numbers),
    )


def _params(changes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """`optimizer/args/lr` -> its new value; of code, what it is."""
    told: dict[str, str] = {}
    for change in list(changes)[:PARAM_LIMIT]:
        value = change.get("value")
        if isinstance(value, Mapping) and "source" in value:
            value = f"code ({value.get('kind', 'component')}), see delta.json"
        name = re.sub(r"[^\w./ :-]", "_", change["path"].strip("/"), flags=re.ASCII)
        told[name or "all"] = "(removed)" if change["op"] == "remove" else _short(value)
    return told


def _tags(facts: Mapping[str, Any], hypothesis: str, reason: str) -> dict[str, str]:
    known = {name: str(value)[:TAG_LIMIT] for name, value in facts.items() if value is not None}
    return known | {"mlflow.note.content": f"{hypothesis}\n\n{reason}"[:TAG_LIMIT]}


def _numbers(facts: Mapping[str, Any]) -> dict[str, float]:
    """What is a number and known: "not reported" is not zero."""
    return {name: float(value) for name, value in facts.items() if isinstance(value, int | float)}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…"


def _milliseconds(when: str) -> int:
    if not when:
        return 0
    read = datetime.fromisoformat(when)
    return round((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1000)
