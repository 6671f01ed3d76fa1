"""compute_eval: does a new reward agree better with the north star? Losses are never compared.

Candidate and production are trained, each on its own label and loss, with the same seeds; what is compared
is how their predictions of the validation period align with the long-term outcome (`tools/alignment.py`).
Blind to what live traffic would do with the new ranking.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evorank.model.errors import ToolError
from evorank.model.system import Objective, Phi
from evorank.tools.alignment import Outcomes, align, outcomes
from evorank.tools.comparison import Comparison, decide
from evorank.tools.compute_loss import measure, require_affordable, require_valid
from evorank.tools.statistics import combine
from evorank.tools.workbench import Progress, Spending, Workbench

__all__ = ["LabelAlignment", "compute_eval", "label_alignment"]

MARGIN = 0.002
"""Alignments within this correlation of each other count as equal."""


class LabelAlignment(BaseModel):
    """How a label itself, without any model, agrees with the north star in the training period."""

    model_config = ConfigDict(extra="forbid")
    label: str
    alignment: float = Field(description="Within-user correlation with the north star, in [-1, 1]")
    low: float = Field(description="Lower end of the 95% confidence interval")
    high: float = Field(description="Upper end of the 95% confidence interval")
    user_day: float | None = Field(description="The same at user-day level: a diagnosis that lets moods in")
    users: int
    rows: int
    reason: str


def compute_eval(phi: Phi, bench: Workbench, on_progress: Progress | None = None) -> Comparison:
    """Compare the alignment of `phi` with production's: same seeds, rows and resampled users.

    The difference is candidate - production of a within-user correlation with the north star (in [-1, 1],
    higher is better), with a 95% interval over users and seeds. RefusedDelta where `phi` is invalid or
    breaks a guardrail; ToolError where a training fails or the surface has no north star. Their
    `cpu_seconds` say what was spent until then.
    """
    tell = on_progress or (lambda message: None)
    tell("checking")
    require_valid(phi, bench)
    found = _outcomes(bench)
    seeds = list(range(bench.seeds))
    tell(f"training {len(seeds)} seeds of the new reward")
    with Spending(bench) as spending:
        evaluations = spending.evaluate_many(
            [(phi, seed) for seed in seeds] + [(bench.production, seed) for seed in seeds]
        )
        ours, theirs = evaluations[: len(seeds)], evaluations[len(seeds) :]
        require_affordable(phi, ours, theirs, spending)
    tell("measuring alignment")
    rows = bench.dataset.bounds["validation"]
    aligned = align([each.predictions for each in evaluations], found, rows, draws=0)
    # A constant prediction rates no item above another: it is aligned with nothing.
    estimates = np.nan_to_num(aligned.estimate)
    per_seed = estimates[: len(seeds)] - estimates[len(seeds) :]
    # How much other users would change the difference is resampled on the mean prediction of each arm: the
    # same spread as that of the mean over the seeds (tested), at a fraction of the arithmetic.
    pooled = align(
        [np.mean([each.predictions for each in arm], axis=0) for arm in (ours, theirs)], found, rows
    )
    draws = np.nan_to_num(pooled.draws)
    resampled = draws[:, 0] - draws[:, 1]
    interval = combine(
        float(per_seed.mean()),
        (float(resampled.std(ddof=1)), float(min(aligned.users, len(resampled)) - 1)),
        (float(per_seed.std(ddof=1)) / math.sqrt(len(seeds)), float(len(seeds) - 1)),
    )
    objectives = bench.system.objective(phi), bench.system.objective(bench.production)
    candidate, production = (
        measure(arm, bench, objective, "full").model_copy(update={"alignment": float(mean)})
        for arm, objective, mean in zip(
            (ours, theirs),
            objectives,
            (estimates[: len(seeds)].mean(), estimates[len(seeds) :].mean()),
            strict=True,
        )
    )
    verdict, reason = decide(
        interval, MARGIN, len(seeds), cheap="", metric="alignment", lower_is_better=False
    )
    user_day = aligned.user_day[: len(seeds)].mean(), aligned.user_day[len(seeds) :].mean()
    diagnosis = (
        f"; at user-day level {user_day[0]:+.4f} and {user_day[1]:+.4f}" if all(np.isfinite(user_day)) else ""
    )
    reason += (
        f" Candidate {candidate.alignment:+.4f}, production {production.alignment:+.4f}, over "
        f"{aligned.users:,} users{diagnosis}."
    )
    return Comparison(
        metric="alignment",
        lower_is_better=False,
        verdict=verdict,
        difference=interval.estimate,
        low=interval.low,
        high=interval.high,
        margin=MARGIN,
        seeds=seeds,
        effort="full",
        rows=aligned.rows,
        candidate=candidate,
        production=production,
        reason=reason,
        cpu_seconds=spending.cpu_seconds,
    )


def label_alignment(objective: Objective, bench: Workbench) -> LabelAlignment:
    """How a label agrees with the north star over the training period, without training anything.

    The same design as compute_eval, with the label itself in the place of a prediction: cheap (seconds),
    noisier, a first look at which signals carry the long term. ToolError if the label cannot be computed.
    """
    found = _outcomes(bench)
    labels = np.asarray(bench.dataset.labels(objective)[bench.dataset.bounds["train"]])
    aligned = align([labels], found, bench.dataset.bounds["train"])
    estimate = float(np.nan_to_num(aligned.estimate[0]))
    error = float(np.nan_to_num(aligned.draws[:, 0]).std(ddof=1))
    degrees = float(min(aligned.users, len(aligned.draws)) - 1)
    interval = combine(estimate, (error, degrees), (0.0, 1.0))
    sense = "for" if interval.low > 0 else "against" if interval.high < 0 else "neither for nor against"
    user_day = float(aligned.user_day[0])
    return LabelAlignment(
        label=objective.label,
        alignment=estimate,
        low=interval.low,
        high=interval.high,
        user_day=user_day if math.isfinite(user_day) else None,
        users=aligned.users,
        rows=aligned.rows,
        reason=f"Label {objective.label!r} speaks {sense} the north star: alignment {estimate:+.4f} "
        f"(95% interval {interval.low:+.4f} to {interval.high:+.4f}, {aligned.users:,} users).",
    )


def _outcomes(bench: Workbench) -> Outcomes:
    north_star = bench.surface.spec.north_star
    if north_star is None:
        raise ToolError(
            f"Surface {bench.surface.name!r} has no north star: no reward can be told better than another. "
            "Add [north_star] to its surface.toml."
        )
    return outcomes(bench.dataset, north_star)
