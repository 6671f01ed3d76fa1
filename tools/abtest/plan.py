"""What a live test measures and promises before it starts: metrics, their roles, horizon, error rates.

Everything that could be chosen after seeing data is fixed here first; a plan is never edited while its test
runs.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from evorank.surfaces.online import Metric

__all__ = ["Metric", "Plan", "naive_utc"]


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
