"""Is the data of a test fit to be judged? Checks at every reading that need no opinion on the effect.

A failure ends the test, whatever its metrics say: numbers from broken data are not evidence.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.tools.abtest.plan import Plan
from evorank.tools.abtest.sufficient import Statistics

__all__ = ["SRM_ALPHA", "Failure", "check", "sample_ratio"]

SRM_ALPHA = 0.001
"""Equal arms are doubted below this p-value (Fabijan et al. 2019): rare in healthy tests, even at daily
looks."""
CROSSED = 0.01
"""More than this share of users in both arms means that assignment is not sticky."""
COVERAGE = 0.95
"""Of a metric whose rows are expected, at least this share of exposed users must have one."""


class Failure(BaseModel):
    """One thing that is wrong with the data of a test, and what usually causes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rule: Literal["no_exposures", "sample_ratio", "crossed_users", "metric_coverage"]
    reason: str = Field(description="A sentence with the numbers and where to look")


def sample_ratio(
    control: npt.ArrayLike, candidate: npt.ArrayLike, share: float = 0.5
) -> npt.NDArray[np.float64]:
    """p-value of control having `share` of the users, equal arms by default: the chi-square test of goodness
    of fit with one degree of freedom [...]."""
    from scipy.special import chdtrc

    a, b = np.asarray(control, np.float64), np.asarray(candidate, np.float64)
    users = a + b
    return np.asarray(chdtrc(1, (a - share * users) ** 2 / np.maximum(users * share * (1.0 - share), 0.25)))


def check(
    plan: Plan,
    statistics: Statistics,
    share: float = 0.5,
    arms: tuple[str, str] = ("production", "the candidate"),
) -> list[Failure]:
    """All failures of one reading; empty for data that may be judged.

    `share` of both arms' users were planned for control; `arms` is what the two are called in sentences.
    """
    control, candidate = statistics.users_control, statistics.users_candidate
    exposed = control + candidate + statistics.crossed + statistics.unknown
    if exposed == 0:
        lost = f" {statistics.unusable} rows had no user, time or arm." if statistics.unusable else ""
        return [
            Failure(
                rule="no_exposures",
                reason=f"No user was exposed between {plan.start} and {statistics.until}.{lost} "
                "Look at whether the assignment is served and its exposures are written.",
            )
        ]
    found = []
    if statistics.crossed + statistics.unknown > CROSSED * exposed:
        found.append(
            Failure(
                rule="crossed_users",
                reason=f"{statistics.crossed} of {exposed} users were exposed to both arms and "
                f"{statistics.unknown} to an arm that the plan does not know, more than {CROSSED:.0%}: "
                "assignment is not sticky.",
            )
        )
    p = float(sample_ratio(control, candidate, share))
    if p < SRM_ALPHA:
        planned = "equal arms" if share == 0.5 else f"arms of {share:.1%} and {1 - share:.1%}"
        found.append(
            Failure(
                rule="sample_ratio",
                reason=f"{control} users in {arms[0]} and {candidate} in {arms[1]} cannot be {planned} "
                f"(p = {p:.2g} < {SRM_ALPHA}): exposures of one arm are lost, or logged otherwise.",
            )
        )
    for metric in plan.metrics:
        read = statistics.metrics[metric.name]
        for name, arm in zip(arms, (read.control, read.candidate), strict=True):
            if metric.rows_expected and arm.with_rows < COVERAGE * arm.users:
                found.append(
                    Failure(
                        rule="metric_coverage",
                        reason=f"{metric.name}: {arm.with_rows} of {arm.users} users exposed to {name} have "
                        f"rows, expected at least {COVERAGE:.0%}: its table is late, or loses rows.",
                    )
                )
    return found
