"""Before a candidate is trained for live traffic: is the evidence still about today?

The log on which the proxy was measured is compared with the newest one. What changed is found, not whether
it matters to this candidate, and each feature is looked at alone. The bounds are below: a change is told
from the first on, and is serious from the second. Whether a test can answer at all is told by
`abtest.past`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.model.data import Dataset
from evorank.model.logs.sources import connect
from evorank.model.logs.sources import identifier as q
from evorank.model.system import Objective
from evorank.tools.abtest.past import ExpectedPower, expected_power

__all__ = ["ExpectedPower", "Found", "Validation", "drift", "enough_rows", "expected_power"]

Array = npt.NDArray[np.float64]

LABEL = (0.10, 0.25)
"""Change of the production label's mean, relative to it, where |z| is above Z as well."""
Z = 3.3
"""About p = 0.001, two-sided: drift is looked for in every experiment, so 5% would cry wolf."""
CENTRE = (0.5, 5.0)
"""Shift of a numeric feature's mean, in its old standard deviations. Clocks (days since sign-up) move by a
deviation or two in weeks, and are scaled anew; another unit, or another meaning, moves by more."""
SPREAD = (1.5, 4.0)
"""Factor by which a numeric feature's standard deviation grew or shrank."""
UNKNOWN = (0.05, 0.20)
"""Rise of the share of unknown ids (of the last day's impressions), or of missing values (of all)."""
NEW_ITEMS = 0.5
"""Share of the last day's impressions that are of items the old log did not have. Never serious by itself:
the candidate is trained on the new log, and what it cannot know even then is told by UNKNOWN."""


class Found(BaseModel):
    """One thing that is different from what the proxy saw, in a sentence with its numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    check: Literal["rows", "schema", "label", "scale", "missing", "unknown", "new_items"]
    said: str
    serious: bool = Field(description="Reason to measure the proxy again before spending live traffic")

    def __str__(self) -> str:
        return self.said


class Validation(BaseModel):
    """What was found, worst first; nothing, if all is as it was."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    findings: tuple[Found, ...] = ()

    @property
    def serious(self) -> bool:
        return any(found.serious for found in self.findings)

    @classmethod
    def of(cls, findings: Iterable[Found]) -> Validation:
        return cls(findings=tuple(sorted(findings, key=lambda found: not found.serious)))


def enough_rows(dataset: Dataset, minimum: int) -> Validation:
    """Whether the training period has at least `minimum` rows; fewer is serious."""
    rows = dataset.schema.training_rows
    if rows >= minimum:
        return Validation()
    said = f"The training period has {rows:,} rows, fewer than the {minimum:,} that live traffic asks for."
    return Validation(findings=(Found(check="rows", said=said, serious=True),))


def drift(before: Dataset, now: Dataset, objective: Objective) -> Validation:
    """What is different in `now`, the newest log, from `before`, on which the proxy was measured.

    `objective` is production's. Its label is compared between all rows of `before` and those rows of `now`
    that are later (all of them, if none is); everything else between the two encodings. The same log has no
    drift. A weekday is not a week: a log that is one day longer may differ for that alone.
    """
    if before.key == now.key:
        return Validation()
    changed = list(_schema(before, now))
    return Validation.of(
        changed or [*_label(before, now, objective), *_numbers(before, now), *_ids(before, now)]
    )


def _schema(before: Dataset, now: Dataset) -> Iterator[Found]:
    old, new = ({f.name: (f.kind, f.length, f.of) for f in each.schema.features} for each in (before, now))
    different = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if different:
        said = f"The features {', '.join(map(repr, different))} were added, taken out or are of another kind."
        yield Found(check="schema", said=said, serious=True)


def _label(before: Dataset, now: Dataset, objective: Objective) -> Iterator[Found]:
    times = now.times(slice(0, len(now)))
    later = int(np.searchsorted(times, before.times(slice(0, len(before)))[-1], "right"))
    names: list[npt.NDArray[np.str_]] = []
    counts: list[Array] = []
    sums: list[Array] = []
    for dataset, start in ((before, 0), (now, later if later < len(now) else 0)):
        labels = dataset.labels(objective, "test")[start:]
        users = dataset.users(slice(start, len(dataset)))
        names.append(_user_names(dataset))
        counts.append(np.bincount(users, np.ones(len(users)), dataset.user_count).astype(np.float64))
        sums.append(np.bincount(users, labels, dataset.user_count).astype(np.float64))
    _, who = np.unique(np.concatenate(names), return_inverse=True)
    (old, new), z = _difference(np.split(who, [len(names[0])]), counts, sums)
    spread = float(np.std(before.labels(objective, "test"), dtype=np.float64))
    change = (new - old) / max(abs(old), 0.1 * spread)
    if abs(z) > Z and abs(change) >= LABEL[0]:
        said = (
            f"The mean of the production label went from {old:.4g} to {new:.4g} ({change:+.0%}, z {z:+.1f})."
        )
        yield Found(check="label", said=said, serious=abs(change) >= LABEL[1])


def _difference(
    who: Sequence[npt.NDArray[Any]], counts: Sequence[Array], sums: Sequence[Array]
) -> tuple[tuple[float, float], float]:
    """Means of two samples and z of their difference, from the people in each and their rows and sums [k].

    A person in both is one cluster: their two influences are added before they are squared.
    """
    old, new = (float(total.sum() / count.sum()) for total, count in zip(sums, counts, strict=True))
    influence = [
        sign * (sums[i] - mean * counts[i]) / counts[i].sum() for i, sign, mean in ((0, -1, old), (1, 1, new))
    ]
    each = np.bincount(np.concatenate(who), np.concatenate(influence))
    people = int(np.count_nonzero(np.bincount(np.concatenate(who), np.concatenate(counts))))
    error = float(np.sqrt(each @ each * people / max(people - 1, 1)))
    return (old, new), (new - old) / error if error > 0 else 0.0


def _user_names(dataset: Dataset) -> npt.NDArray[np.str_]:
    """The log's user id of each user number, as text: numbers differ from one encoding to the next."""
    with dataset.connect("test") as connection:
        found = connection.execute(
            f"SELECT CAST({q(dataset.spec.user)} AS VARCHAR) AS name, min(row) AS row FROM log GROUP BY 1"
        ).fetchnumpy()
    names = np.empty(dataset.user_count, dtype=object)
    names[dataset.users(slice(0, len(dataset)))[np.ma.getdata(found["row"])]] = np.ma.getdata(found["name"])
    return names.astype(np.str_)


def _numbers(before: Dataset, now: Dataset) -> Iterator[Found]:
    for name, (mean, deviation) in now.report["scales"].items():
        old_mean, old_deviation = before.report["scales"][name]
        shift = (mean - old_mean) / old_deviation
        factor = max(deviation / old_deviation, old_deviation / deviation)
        if abs(shift) >= CENTRE[0] or factor >= SPREAD[0]:
            said = (
                f"Feature {name!r} went from {old_mean:.4g} ± {old_deviation:.4g} to {mean:.4g} ± "
                f"{deviation:.4g} (mean ± standard deviation, as the encoder takes it)."
            )
            yield Found(check="scale", said=said, serious=abs(shift) >= CENTRE[1] or factor >= SPREAD[1])
    for name, count in now.report["missing"].items():
        old, new = before.report["missing"][name] / len(before), count / len(now)
        if new - old >= UNKNOWN[0]:
            said = f"Feature {name!r} is missing on {new:.0%} of the rows; it was on {old:.0%}."
            yield Found(check="missing", said=said, serious=new - old >= UNKNOWN[1])


def _ids(before: Dataset, now: Dataset) -> Iterator[Found]:
    old, new = _unknown(before), _unknown(now)
    for name, share in new.items():
        if share - old[name] >= UNKNOWN[0]:
            said = (
                f"{share:.0%} of the last day's values of {name!r} are not known from training; "
                f"it was {old[name]:.0%} on the last day of the log that the proxy saw."
            )
            yield Found(check="unknown", said=said, serious=share - old[name] >= UNKNOWN[1])
    item = q(now.spec.item)
    with connect() as connection:
        row = connection.execute(
            f"SELECT avg(CAST(old.item IS NULL AS DOUBLE)) FROM {now.table('test')} AS n LEFT JOIN (SELECT "
            f"DISTINCT CAST({q(before.spec.item)} AS VARCHAR) AS item FROM {before.table('test')}) AS old "
            f"ON CAST(n.{item} AS VARCHAR) = old.item "
            f"WHERE n.day = (SELECT max(day) FROM {now.table('test')})"
        ).fetchone()
    share = float(row[0]) if row else 0.0
    if share >= NEW_ITEMS:
        said = f"{share:.0%} of the last day's impressions are of items that the proxy's log did not have."
        yield Found(check="new_items", said=said, serious=False)


def _unknown(dataset: Dataset) -> dict[str, float]:
    """Share of code 0 (unknown or missing) on the last day, by categorical feature."""
    days = dataset.days("test")
    last = dataset.rows(slice(len(dataset) - int(np.count_nonzero(days == days[-1])), len(dataset)))
    return {f.name: float(np.mean(last.column(f.name) == 0)) for f in last.of_kind("categorical")}
