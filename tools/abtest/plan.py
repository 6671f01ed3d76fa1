"""What a live test measures and promises before it starts: metrics, their roles, horizon, error rates.

Everything that could be chosen after seeing data is fixed here first; a plan is never edited while its test
runs.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Metric", "Plan", "naive_utc"]


class Metric(BaseModel):
    """One number per user, or a ratio of two, from a table with a row per user and event or day.

    The SQL is the surface owner's and is trusted like their code; an agent's SQL never comes here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    description: str = Field(default="", description="What it is, in a sentence, with its unit")
    source: str = Field(
        description="What stands behind FROM (a table, a view, read_parquet('...'), a query in parentheses), "
        "with the columns user_id and timestamp (UTC) and those that `value` needs"
    )
    value: str = Field(
        description="SQL aggregate over the rows of one user, e.g. sum(watch_s) or count(DISTINCT day); "
        "a user without rows counts as 0"
    )
    denominator: str | None = Field(
        default=None,
        description="A second aggregate: the metric is then sum of values / sum of denominators over an arm, "
        "e.g. dislikes per impression. None: the mean of `value` per exposed user",
    )
    grain: Literal["event", "day"] = Field(
        default="event",
        description="event: rows count from the moment of a user's first exposure. day: a row sums up a "
        "whole day; rows count from the day of first exposure, and the pre-period ends before its day",
    )
    higher_is_better: bool = True
    success: bool = Field(default=False, description="A reason to launch if superior at the horizon")
    margin: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Makes it a guardrail: the relative harm that is still acceptable (0.02: 2% worse than "
        "production); breaking it aborts, and a launch needs harm beyond it ruled out",
    )
    rows_expected: bool = Field(
        default=True,
        description="Every exposed user has a row, so a missing one is lost data. False for tables of rare "
        "events, where no row means that nothing happened",
    )

    @model_validator(mode="after")
    def _has_a_role(self) -> Self:
        if not self.success and self.margin is None:
            raise ValueError("a metric must be a success metric, a guardrail (with a `margin`), or both")
        return self

    @property
    def sign(self) -> float:
        """+1 where higher is better, else -1: sign * lift is a gain."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def threshold(self) -> float:
        """candidate / production at which the harm is exactly the margin."""
        return 1.0 - self.sign * (self.margin or 0.0)


def naive_utc(moment: datetime) -> datetime:
    """Without a zone, as the tables are; a moment without a zone is UTC already."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


class Plan(BaseModel):
    """The promise of a test with two equal arms. Its error rates hold if it is read as planned.

    A launch without any true gain has at most (1 - level) / 2 probability whatever the number of success
    metrics (Bonferroni); an abort of a candidate within all margins at most `abort_alpha`, over all
    guardrails and looks. Non-inferiority is not corrected for the number of guardrails, because all must
    pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    experiment_id: str = Field(min_length=1)
    start: datetime = Field(description="First moment of live traffic; without a zone it is UTC")
    horizon_days: int = Field(
        default=14, ge=7, multiple_of=7, description="Read once after so many days: whole weeks"
    )
    pre_days: int = Field(
        default=14, ge=0, description="Days before the start whose values reduce variance (CUPED); 0: none"
    )
    metrics: tuple[Metric, ...] = Field(min_length=1)
    control: str = Field(default="0", description="variation_id of production")
    candidate: str = Field(default="1", description="variation_id of the candidate")
    level: float = Field(default=0.95, gt=0.5, lt=1, description="Two-sided confidence level at the horizon")
    abort_alpha: float = Field(default=0.05, gt=0, lt=0.5, description="One-sided, all guardrails and looks")
    power: float = Field(default=0.8, gt=0.5, lt=1, description="Asked for when the test is planned")
    minimum_users: int = Field(
        default=200, ge=2, description="Per arm; before that the normal approximation is not trusted: no look"
    )

    @field_validator("start")
    @classmethod
    def _in_utc(cls, start: datetime) -> datetime:
        return naive_utc(start)

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"metric names must differ, got {names}")
        if not self.successes:
            raise ValueError("a test needs at least one success metric, else nothing could be launched")
        if self.control == self.candidate:
            raise ValueError("`control` and `candidate` must differ")
        return self

    @property
    def successes(self) -> tuple[Metric, ...]:
        return tuple(metric for metric in self.metrics if metric.success)

    @property
    def guardrails(self) -> tuple[Metric, ...]:
        return tuple(metric for metric in self.metrics if metric.margin is not None)

    @property
    def success_level(self) -> float:
        """Confidence level of each success metric: any of them may launch, so they share 1 - level."""
        return 1.0 - (1.0 - self.level) / len(self.successes)

    @property
    def guardrail_alpha(self) -> float:
        """What one guardrail may spend over all of its looks: any of them may abort, so they share it."""
        return self.abort_alpha / max(len(self.guardrails), 1)

    @property
    def end(self) -> datetime:
        """The horizon: the moment after which the test is read, once."""
        return self.start + timedelta(days=self.horizon_days)

    def fraction(self, until: datetime) -> float:
        """Calendar time used by data up to `until`, in 0..1: what the spending of alpha goes by."""
        return min(max((until - self.start) / (self.end - self.start), 0.0), 1.0)
