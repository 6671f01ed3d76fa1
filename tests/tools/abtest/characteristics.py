"""How often the judgement is right, over thousands of simulated tests whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit
from traffic import DAYS, experiments

from evorank.tools.abtest.effects import compare, correlation
from evorank.tools.abtest.guardrails import grown, harm
from evorank.tools.abtest.plan import Metric
from evorank.tools.abtest.power import power_of
from evorank.tools.abtest.sequential import boundaries, pocock_spending

MINIMUM_USERS = 200
FRACTION = np.arange(1, DAYS + 1) / DAYS


def guardrail(name: str, margin: float) -> Metric:
    better = name != "dislike_rate"
    return Metric(name=name, source="t", value="count(*)", margin=margin, higher_is_better=better)


@dataclass(frozen=True)
class Horizon:
    """Shares of tests in which, at the horizon ..."""

    significant: float
    """the 95% interval of the difference excludes zero,"""
    found: float
    """and lies on the side of the true effect (where there is one),"""
    predicted: float
    """which was predicted with this probability from the control arm;"""
    covers: float
    """the interval of the lift contains the true lift."""
    variance_reduction: float
    """Median over tests of what CUPED removes."""


def horizon(
    count: int, users: int, metric: str, lift: float = 0.0, seed: int = 0, cuped: bool = True
) -> Horizon:
    """One metric of `count` tests with the true `lift`, read once."""
    effect = {"dislikes" if metric == "dislike_rate" else "visits": lift}
    rows = []
    for control, candidate in experiments(
        count, users, seed=seed, only_last=True, metrics=(metric,), **effect
    ):
        arms = control.metrics[metric], candidate.metrics[metric]
        found, raw = compare(*arms, cuped=cuped), compare(*arms, cuped=False)
        difference, error, degrees = found.contrast()
        ratio, log_error, log_degrees = found.lift()
        significant = np.abs(difference) > stdtrit(degrees, 0.975) * error
        off = np.abs(np.log1p(ratio) - np.log1p(lift))
        covers = off <= stdtrit(log_degrees, 0.975) * log_error
        own = compare(arms[0], arms[0], cuped=cuped)
        relative = own.contrast()[1] * np.sqrt(arms[0].n / 2.0) / own.control
        power = [power_of(lift, v, n) for v, n in zip(relative.ravel(), arms[0].n.ravel(), strict=True)]
        side = np.sign(difference) == np.sign(lift)
        reduction = 1.0 - (error / raw.contrast()[1]) ** 2
        each = (significant, significant & side, np.array(power), covers, reduction)
        rows.append(np.stack([np.ravel(column) for column in each]))
    table = np.concatenate(rows, axis=1)
    return Horizon(*table[:4].mean(axis=1).tolist(), float(np.median(table[4])))


@dataclass(frozen=True)
class Daily:
    """Shares of tests stopped at any of the daily looks, by ..."""

    aborted: float
    """a guardrail,"""
    first_half: float
    """within the first half of the horizon,"""
    naive: float | None
    """bounds that take 1 / error² for information, as in trials (None: not asked for),"""
    point_estimate: float
    """a point estimate of harm beyond the margin."""


def path(ready: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """Information at each look [tests, DAYS]; nan before the first that is `ready`."""
    information = np.where(ready, 1.0, np.nan)
    for day in range(1, DAYS):
        follows = ready[:, day - 1] & ready[:, day]
        since = grown(information[:, day - 1], np.where(follows, memory[:, day], 1.0))
        information[:, day] = np.where(follows, since, information[:, day])
    return information


def daily(
    count: int,
    users: int,
    metrics: tuple[str, ...],
    margin: float = 0.0,
    seed: int = 0,
    alpha: float = 0.05,
    naive: bool = False,
    **effects: float,
) -> Daily:
    """`count` tests watched by guardrails on `metrics` that share `alpha`: `guardrails.look`, all at once."""
    stopped: dict[str, list[np.ndarray]] = {name: [] for name in ("ours", "point", *["naive"] * naive)}
    spent = pocock_spending(FRACTION, alpha / len(metrics))
    for control, candidate in experiments(count, users, seed=seed, metrics=metrics, **effects):
        crossed = dict.fromkeys(stopped, False)
        for name in metrics:
            metric, arms = guardrail(name, margin), (control.metrics[name], candidate.metrics[name])
            found = compare(arms[0].now, arms[1].now)
            z = harm(found, metric)
            ready = (np.minimum(arms[0].n, arms[1].n) >= MINIMUM_USERS) & np.isfinite(z)
            z = np.where(ready, z, -np.inf)
            crossed["ours"] |= z >= boundaries(path(ready, correlation(*arms, metric.threshold)), spent)
            crossed["point"] |= z > 0
            if naive:
                error = found.contrast(metric.threshold)[1]
                classic = (found.control / np.where(ready & (error > 0), error, np.nan)) ** 2
                crossed["naive"] |= z >= boundaries(classic, spent)
        for name, days in crossed.items():
            stopped[name].append(days)
    days = {name: np.concatenate(found) for name, found in stopped.items()}
    return Daily(
        aborted=_share(days["ours"]),
        first_half=_share(days["ours"][:, : DAYS // 2]),
        naive=_share(days["naive"]) if naive else None,
        point_estimate=_share(days["point"]),
    )


def _share(crossed: np.ndarray) -> float:
    """Of tests [tests, days] that crossed on any day."""
    return float(crossed.any(axis=1).mean())
