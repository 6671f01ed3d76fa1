"""What is wrong with a surface's log: `surface check`. Leakage, drift, cold ids, nonsense; each with advice.

It samples where a scan would be slow, and knows nothing of what the columns mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from evorank.model.data import PERIODS, Dataset
from evorank.model.errors import LogError, ToolError
from evorank.model.logs.sources import explained, find_files, identifier, unknown_column
from evorank.model.system import Float32
from evorank.surfaces.describe import describe, sample_step, sampled
from evorank.surfaces.surface import NorthStar, Surface

__all__ = ["Report", "Warned", "check", "describe"]


MINIMUM_EXPLORED = 100
"""Users below which `tools/offpolicy.py` gives no estimate."""


@dataclass(frozen=True)
class Warned:
    """One thing to know before trusting a surface. `error`: nothing can run; `note`: handled, but told."""

    severity: Literal["error", "warning", "note"]
    code: str
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".rstrip()

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """What `check` found: the facts of `describe`, and the warnings, worst first."""

    facts: Mapping[str, Any]
    warnings: tuple[Warned, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"facts": dict(self.facts), "warnings": [warning.as_dict() for warning in self.warnings]}


def check(surface: Surface) -> Report:
    """What to know before trusting a surface, worst first. Raises LogError only where nothing can be read."""
    dataset, facts = surface.dataset(), describe(surface)
    found = [
        *_label(surface),
        *_rows(facts),
        *_periods(facts),
        *_features(facts),
        *_north_star(surface, dataset),
        *_exploration(surface, dataset),
    ]
    if not any(each.code == "label" for each in found):
        found += _leakage(surface, dataset)
    try:
        find_files(surface.spec.log.based_at(surface.directory), "log")
    except LogError as error:
        advice = "The encoded copy is used; restore the source to encode it differently."
        found.append(Warned("note", "source-missing", str(error), advice))
    order = ("error", "warning", "note")
    return Report(facts, tuple(sorted(found, key=lambda each: order.index(each.severity))))


def _label(surface: Surface) -> Iterator[Warned]:
    try:
        surface.check_label()
    except LogError as error:
        yield Warned("error", "label", str(error), "Change [production.reward] in surface.toml.")
        return
    dataset, production = surface.dataset(), surface.production()
    labels = dataset.labels(surface.system().objective(production))
    means = [float(labels[dataset.bounds[period]].mean()) for period in ("train", "validation")]
    deviation = float(labels[dataset.bounds["train"]].std())
    if abs(means[1] - means[0]) > 0.25 * deviation:
        yield Warned(
            "warning",
            "label-drift",
            f"The production label's mean goes from {means[0]:.4g} in training to {means[1]:.4g} in "
            "validation.",
            "A model calibrated on the past will be off; look for a change in the log or the product.",
        )


def _rows(facts: Mapping[str, Any]) -> Iterator[Warned]:
    log, train = facts["log"], facts["periods"]["train"]
    if log["dropped_rows"]:
        share = log["dropped_rows"] / log["source_rows"]
        yield Warned(
            "warning" if share > 0.01 else "note",
            "dropped-rows",
            f"{log['dropped_rows']:,} of {log['source_rows']:,} rows have no user, item or readable time "
            "and are left out.",
            "Check `user`, `item`, `time`, `time_unit`, `time_format`.",
        )
    if log["out_of_order_rows"]:
        yield Warned(
            "note",
            "out-of-order",
            f"{log['out_of_order_rows']:,} rows are earlier than the row before them; the log was sorted "
            "by time.",
            "Nothing to do.",
        )
    if log["duplicate_rows"]:
        share = log["duplicate_rows"] / log["rows"]
        yield Warned(
            "warning" if share > 0.01 else "note",
            "duplicates",
            f"{log['duplicate_rows']:,} rows repeat the user, item and time of the row before them.",
            "Deduplicate the source if they are not separate impressions.",
        )
    if train["rows"] < 1000:
        yield Warned(
            "warning",
            "small-log",
            f"The training period has {train['rows']} rows.",
            "Differences below several percent will not be told from noise; use a longer log.",
        )
    if log["share_of_users_below_5_rows"] > 0.5:
        yield Warned(
            "warning",
            "short-histories",
            f"{log['share_of_users_below_5_rows']:.0%} of the training users have fewer than 5 rows.",
            "Per-user features will say little; per-user AUC covers few users.",
        )


def _periods(facts: Mapping[str, Any]) -> Iterator[Warned]:
    train = facts["periods"]["train"]
    for period in ("validation", "test"):
        for what in ("user", "item"):
            share = facts["periods"][period][f"cold_{what}_share"]
            if share > 0.5:
                yield Warned(
                    "warning",
                    f"cold-{what}s",
                    f"{share:.0%} of the {period} rows are of {what}s without a training row.",
                    f"The {what} id says nothing there: rely on features that generalise.",
                )
    for name, before in train["signals"].items():
        if before.get("mean") is None:
            yield Warned(
                "note", "signal-not-numeric", f"Signal {name!r} is {before['type']}.", "Cast it in rewards."
            )
            continue
        if before["minimum"] == before["maximum"]:
            yield Warned(
                "warning",
                "constant-signal",
                f"Signal {name!r} is {before['minimum']:g} on every training row.",
                "It cannot be a reward; take it out of `signals`.",
            )
        for period in PERIODS:
            each = facts["periods"][period]["signals"][name]
            if each["not_finite"]:
                yield Warned(
                    "warning",
                    "signal-not-finite",
                    f"Signal {name!r} is NaN or infinite on {each['not_finite']:,} rows of the {period} "
                    "period.",
                    "Clean it in [log.columns], e.g. CASE WHEN isfinite(x) THEN x ELSE 0 END.",
                )
            mean = each["mean"]
            if (
                period != "train"
                and mean is not None
                and abs(mean - before["mean"]) > 0.25 * before["deviation"] > 0
            ):
                yield Warned(
                    "warning",
                    "signal-drift",
                    f"The mean of {name!r} goes from {before['mean']:.4g} in training to {mean:.4g} in "
                    f"{period}.",
                    "Look for a change in logging or in the product between the periods.",
                )


def _features(facts: Mapping[str, Any]) -> Iterator[Warned]:
    for feature in facts["features"]:
        name = feature["name"]
        bad = facts["log"]["not_finite"].get(name, 0)
        if bad:
            yield Warned(
                "warning",
                "feature-not-finite",
                f"Feature {name!r} is NaN or infinite on {bad:,} rows; they were encoded as 0 (the mean).",
                "Mend the source, or clean it in `column`.",
            )
        if feature.get("constant"):
            yield Warned(
                "warning",
                "constant-feature",
                f"Feature {name!r} has one value in the training period.",
                "It teaches nothing; take it out of `features`.",
            )
        if feature.get("missing_share", 0) > 0.5:
            yield Warned(
                "warning",
                "mostly-missing",
                f"Feature {name!r} is missing on {feature['missing_share']:.0%} of the rows.",
                "If it comes from a side table, compare the keys (types, leading zeros).",
            )


def _north_star(surface: Surface, dataset: Dataset) -> Iterator[Warned]:
    star = surface.spec.north_star
    if star is None:
        yield Warned("note", "no-north-star", str(surface.reward_persona_off), "")
        return
    days = dataset.days(slice(0, dataset.bounds["validation"].stop))
    if int(days[-1] - days[0]) + 1 <= star.horizon_days:
        yield Warned(
            "warning",
            "horizon",
            f"Training and validation span {int(days[-1] - days[0]) + 1} days, not more than the north "
            "star's horizon "
            f"of {star.horizon_days}: no user's outcome is complete.",
            "Shorten north_star.horizon_days, or use a longer log.",
        )
    yield from _north_star_sql(star, dataset)


def _north_star_sql(star: NorthStar, dataset: Dataset) -> Iterator[Warned]:
    advice = "It must be a SELECT over `log` that returns (user id, day, value)."
    try:
        with dataset.connect() as connection, explained("north_star.sql", list(dataset.schema.columns)):
            row = connection.execute(f"SELECT * FROM ({star.sql}) LIMIT 1").fetchone()
    except LogError as error:
        yield Warned("error", "north-star-sql", str(error), advice)
        return
    if row is None or len(row) != 3:
        seen = "no row" if row is None else f"{len(row)} columns"
        yield Warned("error", "north-star-sql", f"north_star.sql returns {seen}.", advice)


def _exploration(surface: Surface, dataset: Dataset) -> Iterator[Warned]:
    """Whether candidates can be replayed on what is said to be shown at random."""
    shown = surface.spec.exploration
    if shown is None:
        return
    columns = list(dataset.schema.columns)
    try:
        if shown.position is not None and shown.position not in columns:
            raise LogError(unknown_column("exploration.position", shown.position, columns))
        with dataset.connect("test") as connection, explained("exploration.where", columns):
            row = connection.execute(
                f"SELECT count(*), count(DISTINCT {identifier(surface.spec.log.user)}) FROM log "
                f"WHERE row >= {dataset.bounds['train'].stop} AND ({shown.where}\n)"
            ).fetchone()
        dataset.labels(shown.objective)
    except (LogError, ToolError) as error:
        advice = "Mend [exploration] in surface.toml; as it is no candidate is replayed before a live test."
        yield Warned("error", "exploration", str(error), advice)
        return
    assert row is not None
    if row[1] < MINIMUM_EXPLORED:
        yield Warned(
            "note",
            "little-exploration",
            f"After the training period {row[0]:,} impressions were shown at random, to {row[1]} users.",
            f"Below {MINIMUM_EXPLORED} users no candidate is replayed before a live test.",
        )


def _leakage(surface: Surface, dataset: Dataset) -> Iterator[Warned]:
    """Features that tell the label nearly alone: learned on even rows of a sample, judged on odd ones."""
    rows = dataset.bounds["train"]
    labels = dataset.labels(surface.system().objective(surface.production()))
    target = np.asarray(labels[rows.start : rows.stop : sample_step(rows)])
    positive = target > target.mean()
    for feature in dataset.schema.features:
        if feature.kind == "history" and feature.of is not None:
            continue
        values = sampled(dataset, "train", feature.name)
        values = values[:, 0] if values.ndim == 2 else values
        score = values if feature.kind == "numeric" else _means(values, target, feature.size)
        area = _auc(score[1::2], positive[1::2])
        if max(area, 1 - area if feature.kind == "numeric" else 0) > 0.95:
            yield Warned(
                "warning",
                "leakage",
                f"Feature {feature.name!r} alone tells the label with AUC {max(area, 1 - area):.3f}.",
                "It is probably known only after the impression: move it from `features` to `signals`.",
            )


def _means(codes: npt.NDArray[Any], target: Float32, size: int) -> npt.NDArray[np.float64]:
    """Mean target of each code over the even rows, shrunk to the overall mean, for every row."""
    codes, learned = np.asarray(codes), slice(None, None, 2)
    sums = np.bincount(codes[learned], target[learned], size)
    counts = np.bincount(codes[learned], minlength=size)
    table: npt.NDArray[np.float64] = (sums + target.mean()) / (counts + 1)
    return np.asarray(table[codes])


def _auc(score: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    from scipy.stats import rankdata

    ones = int(positive.sum())
    if not 0 < ones < len(positive):
        return 0.5
    ranks = rankdata(score)
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * (len(positive) - ones)))
