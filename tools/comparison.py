"""The answer of a proxy tool: candidate against production, an interval, one word and one sentence.

What the words promise is in `decide`; that the noise is in the interval is `tools/statistics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evorank.tools.evaluator.executor import Evaluation
from evorank.tools.statistics import Interval, seeds_needed

__all__ = ["Comparison", "Difference", "Effort", "Measurement", "Verdict", "decide", "saving"]

Verdict = Literal["better", "cheaper", "equal", "worse", "inconclusive"]
Effort = Literal["slice", "full", "test"]

MARGIN = 0.002
"""Non-inferiority margin as a share of production's metric."""
CHEAPER = 0.75
"""`cheaper` needs a cost at most this share of production's: a quarter saved."""
ROUNDING = 1e-3
"""Of the margin: differences below it are arithmetic, not effects."""


class Measurement(BaseModel):
    """What one arm measured, averaged over the seeds (costs: the median)."""

    model_config = ConfigDict(extra="forbid")
    loss: float = Field(description="Mean loss per impression under the arm's own label, lower is better")
    auc: float | None = Field(description="0.5 is chance; null where there is one class only")
    gauc: float | None = Field(description="AUC within users, weighted by impressions")
    ndcg: float | None = Field(description="NDCG@10 of each user's impressions, mean over users")
    calibration: float | None = Field(description="Predicted / observed, 1 is calibrated")
    alignment: float | None = Field(default=None, description="Correlation with the north star (reward only)")
    parameters: int = Field(description="Trained parameters")
    train_cpu_seconds: float = Field(description="CPU-seconds of one training, lower is cheaper")
    samples_per_cpu_second: float = Field(description="Training rows / train_cpu_seconds, all epochs in one")
    latency_ms: float = Field(description="Milliseconds to score 500 candidates in one call")


class Difference(BaseModel):
    """A difference that decides nothing, with its interval."""

    model_config = ConfigDict(extra="forbid")
    difference: float = Field(description="candidate - production")
    low: float = Field(description="Lower end of the 95% confidence interval")
    high: float = Field(description="Upper end of the 95% confidence interval")


class Comparison(BaseModel):
    """A paired comparison of a candidate with production."""

    model_config = ConfigDict(extra="forbid")
    metric: str = Field(description="log_loss, mse, huber, or alignment")
    lower_is_better: bool
    verdict: Verdict
    difference: float = Field(description="candidate - production, in units of the metric")
    low: float = Field(description="Lower end of the 95% confidence interval of the difference")
    high: float = Field(description="Upper end of the 95% confidence interval of the difference")
    margin: float = Field(description="Differences within +-margin count as equal")
    seeds: list[int]
    effort: Effort
    rows: int = Field(description="Impressions both arms were scored on")
    candidate: Measurement
    production: Measurement
    others: dict[str, Difference] = Field(
        default_factory=dict,
        description="auc, gauc, ndcg, calibration: by how much the arms differ. To be read, never to win by. "
        "Empty with one seed, and where each arm has a label of its own",
    )
    reason: str = Field(description="One sentence with the numbers")
    cpu_seconds: float = Field(default=0.0, description="Spent on this answer; cached trainings cost nothing")
    curves: dict[Literal["candidate", "production"], list[tuple[int, float]]] = Field(
        default_factory=dict,
        description="Learning curve of each arm with the first seed: rows seen, mean training loss since the "
        "point before. Told by the training itself: for a picture, not a measurement",
    )


def saving(candidate: Sequence[Evaluation], production: Sequence[Evaluation]) -> str:
    """What the candidate saves of production's cost by at least a quarter, as words; "" for nothing.

    Parameters are exact. CPU and latency are clocks on a machine that does other things as well: the
    medians over the seeds must differ by a quarter *and* the candidate's slowest run must beat
    production's fastest, so that one busy moment cannot win.
    """
    found = []
    small, large = candidate[0].parameters, production[0].parameters
    if small <= CHEAPER * large:
        found.append(f"{small:,} parameters instead of {large:,}")
    for name, unit in (("train_cpu_seconds", "training CPU-seconds"), ("latency_ms", "ms to score 500")):
        ours = [float(getattr(each, name)) for each in candidate]
        theirs = [float(getattr(each, name)) for each in production]
        if np.median(ours) <= CHEAPER * np.median(theirs) and max(ours) < min(theirs):
            found.append(f"{np.median(ours):.3g} {unit} instead of {np.median(theirs):.3g}")
    return " and ".join(found)


def decide(
    interval: Interval, margin: float, seeds: int, *, cheap: str, metric: str, lower_is_better: bool = True
) -> tuple[Verdict, str]:
    """Verdict and its sentence, from an interval of candidate - production.

    In this order: `better`, the whole interval is on the good side of zero; `cheaper`, worse by at most
    the margin and `cheap` names a saving; `worse`, the whole interval is on the bad side; `equal`, the
    whole interval lies within the margin; else `inconclusive`. A thousandth of the margin is zero: it is
    the size of rounding, which the seeds repeat as faithfully as an effect.
    """
    zero = ROUNDING * margin
    sign = 1.0 if lower_is_better else -1.0
    bad, good = (interval.high, interval.low) if lower_is_better else (-interval.low, -interval.high)
    what = (
        f"{metric} {interval.estimate:+.5f} (95% interval {interval.low:+.5f} to {interval.high:+.5f}, "
        f"{seeds} seed{'s' if seeds > 1 else ''})"
    )
    if bad < -zero:
        return "better", f"Better beyond noise: {what}."
    if bad <= margin and cheap:
        return "cheaper", f"No worse than the margin {margin:.5f}, with {cheap}: {what}."
    if good > zero:
        return "worse", f"Worse beyond noise: {what}."
    if good >= -margin and bad <= margin:
        return "equal", f"Equal within the margin {margin:.5f}: {what}."
    effect = abs(interval.estimate) if sign * interval.estimate < 0 else margin
    needed = seeds_needed(interval, seeds, effect)
    if needed is None or not math.isfinite(interval.error):
        limit = "validation rows limit it, more seeds would not tell"
    else:
        limit = f"about {needed} seeds would tell"
    return "inconclusive", f"The noise hides the difference: {what}; {limit}."
