"""imports: experiments that were made elsewhere, by people or another home, as records that prompts show.

A file is taken whole or not at all. What comes of it is an attempt marked `imported`: it is never taken for a
measurement of ours, never goes live by itself, and can be measured here like any other candidate.
"""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from evorank.graph.journal import Journal
from evorank.graph.state import Attempt, Experiment, Imported, Outcome, Reported
from evorank.graph.versions import Versions
from evorank.model.delta import apply_delta, canonical, diff, fingerprint
from evorank.model.errors import ConfigurationError, EvorankError, RefusedDelta
from evorank.model.schema import violations
from evorank.model.system import Phi
from evorank.surfaces.surface import Surface

__all__ = ["IMPORTS", "Line", "import_file"]

IMPORTS = "import"
"""The run of every imported record."""
SHOWN_ERRORS = 20
_NAMESPACE = uuid.UUID("d4a7f1c2-7c58-5b0e-9d43-2f0f1f7c6a11")

Said = Literal[
    # of the proxy
    "better",
    "cheaper",
    "equal",
    "worse",
    "inconclusive",
    "refused",
    "failed",
    # of a live test
    "launched",
    "superseded",
    "no_launch",
    "aborted",
]
Online = Literal["launched", "superseded", "no_launch", "aborted"]
SAID: Mapping[str, Outcome] = {
    "launched": "better",
    "superseded": "better",
    "no_launch": "inconclusive",
    "aborted": "worse",
    "rejected": "refused",
    "failed": "failed",
}
"""What the end of a live test says of a candidate, where nothing is told of the proxy."""


class Line(BaseModel):
    """One past experiment, as a person writes it down."""

    model_config = ConfigDict(extra="forbid")
    hypothesis: str = Field(min_length=1, max_length=2000)
    changes: list[dict[str, Any]] = Field(min_length=1, max_length=50)
    """JSON Patch."""
    against: dict[str, Any] | None = None
    """The whole Φ that `changes` are against; None: today's production."""
    by: str = Field(min_length=1, max_length=80)
    when: str = ""
    outcome: Said
    metrics: list[Reported] = Field(default_factory=list, max_length=50)
    why: str = Field(default="", max_length=2000)
    persona: str | None = Field(default=None, max_length=80)
    """Whose kind of change it is; None: by the fields that it changes."""

    @field_validator("when")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if value:
            datetime.fromisoformat(value)
        return value


@dataclass(frozen=True)
class _Here:
    """What a file is read against."""

    surface: Surface
    production: Phi


def import_file(path: Path, surface: Surface, journal: Journal) -> tuple[int, int]:
    """Add the experiments of a file to the journal: how many are new, and how many it holds.

    JSON lines, or CSV where the name ends in .csv (nested fields are JSON text there): `Line`s, or what
    `journal export` wrote. The same experiment is never added twice. ConfigurationError names every bad line
    and what is wrong with it; nothing is imported then.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"`{path}` cannot be read as UTF-8 text: {error}.") from error
    here = _Here(surface, _production(surface, journal))
    records: dict[str, Attempt] = {}
    problems = []
    for number, row in _rows(path, text):
        try:
            record = _record(row, here)
            records[record.id] = record
        except ValidationError as error:
            problems.append(f"line {number}: {_told(error)}")
        except json.JSONDecodeError as error:
            problems.append(f"line {number}: not JSON, {error.msg} at column {error.colno}")
        except (ValueError, RecursionError, EvorankError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"\n  and {len(problems) - SHOWN_ERRORS} more" if len(problems) > SHOWN_ERRORS else ""
        raise ConfigurationError(
            f"`{path}`: nothing was imported, because of {len(problems)} lines:\n  "
            + "\n  ".join(problems[:SHOWN_ERRORS])
            + more
        )
    if not records:
        raise ConfigurationError(f"`{path}` holds no experiment.")
    return journal.extend(list(records.values())), len(records)


def _production(surface: Surface, journal: Journal) -> Phi:
    current = Versions(journal.store, surface.name).current()
    return current.phi if current is not None else surface.production()


def _rows(path: Path, text: str) -> Iterator[tuple[int, str | dict[str, Any] | ValueError]]:
    """Line numbers and what stands there: JSON text, or a row of CSV with its nested fields parsed, or why
    there is none."""
    if path.suffix != ".csv":
        yield from ((n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip())
        return
    reader = csv.DictReader(io.StringIO(text, newline=""))
    before = 1
    for row in reader:
        number, before = before + 1, reader.line_num
        if None in row or None in row.values():
            yield number, ValueError("has another number of columns than the first line")
            continue
        yield number, {name: _cell(name, value) for name, value in row.items() if value != ""}


def _nested(model: type[BaseModel]) -> set[str]:
    """Fields that hold more than one value: cells of a flat file have them as JSON text."""
    found = set()
    for name, schema in model.model_json_schema()["properties"].items():
        ways = [schema, *schema.get("anyOf", ())]
        if any(way.get("type") in ("array", "object") or "$ref" in way for way in ways):
            found.add(name)
    return found


NESTED = _nested(Attempt) | _nested(Experiment) | {"against", "metrics"}


def _cell(name: str, value: str) -> Any:
    if name not in NESTED:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value  # the field's own rule says what is wrong with it


def _record(row: Any, here: _Here) -> Attempt:
    if isinstance(row, ValueError):
        raise row
    if isinstance(row, str):
        row = json.loads(row)
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, got {type(row).__name__}")
    if row.get("kind") == "attempt":
        return _of_attempt(Attempt.model_validate(_fields(row, Attempt)), here)
    if row.get("kind") == "experiment":
        return _of_experiment(Experiment.model_validate(_fields(row, Experiment)), here)
    return _of_line(Line.model_validate(row), here)


def _fields(row: dict[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """A row of an export as its record: what only the flat formats have is left out."""
    known = {name: value for name, value in row.items() if name in kind.model_fields and value is not None}
    return {"data_version": ""} | known if kind is Attempt else known  # CSV has no empty text


def _of_line(line: Line, here: _Here) -> Attempt:
    base = here.production if line.against is None else line.against
    phi: Phi | None = None
    invalid = line.outcome in ("refused", "failed")  # then a Φ that is not valid is what happened
    try:
        phi = apply_delta(base, line.changes)
        wrong = violations(phi, here.surface.system().schema())
        if wrong and not invalid:
            raise RefusedDelta(wrong)
        if wrong:
            phi = None
    except RefusedDelta as refusal:
        if not invalid:
            raise ValueError(f"`changes`: {refusal}") from None
    if phi is not None and fingerprint(phi) == fingerprint(base):
        raise ValueError("`changes` change nothing")
    content = line.model_dump(mode="json") | {"against": fingerprint(base)}
    online = cast("Online | None", line.outcome if line.outcome in get_args(Online) else None)
    return Attempt(
        id=str(uuid.uuid5(_NAMESPACE, f"{here.surface.name}/{canonical(content)}")),
        run=IMPORTS,
        step=0,
        surface=here.surface.name,
        data_version="",
        persona=line.persona or _persona(line.changes, here),
        hypothesis=line.hypothesis,
        base=fingerprint(base),
        production=fingerprint(base),
        patch=line.changes,
        changes=diff(base, phi) if phi is not None else [],
        phi=phi,
        fingerprint=fingerprint(phi) if phi is not None else None,
        outcome=SAID[line.outcome] if online else cast(Outcome, line.outcome),
        reason=line.why,
        started_at=line.when,
        imported=Imported(by=line.by, when=line.when, result=online, metrics=line.metrics),
    )


def _of_attempt(attempt: Attempt, here: _Here) -> Attempt:
    """An attempt of another home. In its own it is there already, by its id."""
    told = attempt.imported
    if told is None:
        both, metrics = attempt.comparison or {}, []
        if both:
            way: Literal["lower", "higher"] = "lower" if both.get("lower_is_better", True) else "higher"
            numbers = {name: both.get(name) for name in ("metric", "difference", "low", "high")}
            metrics = [Reported.model_validate(numbers | {"better_is": way})]
        by = f"{attempt.persona}, {attempt.model or 'elsewhere'}"[:80]
        told = Imported(by=by, when=attempt.started_at, metrics=metrics)
    elsewhere = {
        "run": IMPORTS,
        "step": 0,
        "surface": here.surface.name,
        "data_version": "",
        "imported": told,
    }
    kept = attempt.model_dump(include=set(Line.model_fields) | {"id", "base", "production", "patch", "phi"})
    kept |= attempt.model_dump(include={"persona", "category", "fingerprint", "outcome", "reason"})
    kept |= {"findings": attempt.findings, "started_at": attempt.started_at}
    return Attempt(**(kept | elsewhere))


def _of_experiment(experiment: Experiment, here: _Here) -> Attempt:
    """An experiment of another home."""
    roles = {each["name"]: each for each in (experiment.plan or {}).get("metrics", ())}
    metrics = []
    for effect in experiment.effects:
        role = roles.get(effect["metric"], {})
        if effect.get("lift") is None:
            continue
        metrics.append(
            Reported(
                metric=effect["metric"],
                better_is="higher" if role.get("higher_is_better", True) else "lower",
                lift=effect["lift"],
                low=effect.get("lift_low"),
                high=effect.get("lift_high"),
                role="success" if role.get("success") else "guardrail",
            )
        )
    when = experiment.times.get("proposed", "")
    ended = (
        experiment.result if experiment.result in ("launched", "superseded", "no_launch", "aborted") else None
    )
    return Attempt(
        id=experiment.id,
        run=IMPORTS,
        step=0,
        surface=here.surface.name,
        data_version="",
        persona=_persona(experiment.changes, here),
        hypothesis=experiment.hypothesis,
        base=experiment.production,
        production=experiment.production,
        patch=experiment.changes,
        changes=experiment.changes,
        phi=experiment.phi,
        fingerprint=experiment.fingerprint,
        outcome=SAID.get(experiment.result or "", "inconclusive"),
        reason=experiment.reason,
        started_at=when,
        imported=Imported(by=experiment.proposed_by, when=when, result=ended, metrics=metrics),
    )


def _persona(changes: list[dict[str, Any]], here: _Here) -> str:
    """Whose kind of change it is: who may touch all of it; "human" where nobody may."""
    paths = [str(change.get("path", "")) for change in changes]
    for name, prefixes in here.surface.system().patchable().items():
        if all(
            any((path + "/").startswith(prefix.rstrip("/") + "/") for prefix in prefixes) for path in paths
        ):
            return name
    return "human"


def _told(error: ValidationError) -> str:
    """The first thing wrong with a line: field, rule, value."""
    first = error.errors()[0]
    field = "/".join(map(str, first["loc"])) or "the line"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    seen = "" if first["type"] == "missing" else f", got {first['input']!r}"[:120]
    hint = f" Fields are {', '.join(Line.model_fields)}." if first["type"] == "extra_forbidden" else ""
    return f"`{field}` {first['msg'].removeprefix('Value error, ')}{seen}{more}.{hint}"
