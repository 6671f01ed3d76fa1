"""What a surface says of its live traffic: the `[online]` section of surface.toml, and the metrics in it.

Metrics and roles are the surface owner's, fixed before any test and the same for all of them. A surface
without this section has no live traffic: nothing can be tested there, and nothing is launched.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Metric", "Online"]


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


class Online(BaseModel):
    """The `[online]` section: who serves the traffic, how it is divided, what a live test measures."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    platform: str = Field(
        default="simulated",
        description='Who serves: "simulated", "warehouse", "growthbook", or your own as module:Class',
    )
    options: dict[str, Any] = Field(default_factory=dict, description="What that platform wants to know")
    metrics: tuple[Metric, ...] = Field(description="Success metrics and guardrails of every test")
    horizon_days: int = Field(
        default=14, ge=7, multiple_of=7, description="A test is read once after so many days: whole weeks"
    )
    pre_days: int = Field(
        default=14, ge=0, description="Days before a test whose values reduce variance (CUPED); 0: none"
    )
    ramp: tuple[float, ...] = Field(
        default=(0.2, 1.0),
        min_length=1,
        description="Share of the slot's users who take part on the first, second ... day; the last stays",
    )
    slots: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Tests at once; they share the traffic equally, no user is in two",
    )
    holdback: float = Field(
        default=0.05, ge=0, le=0.5, description="Share of users whom no launch ever reaches; 0: none"
    )
    refresh_days: int = Field(
        default=14,
        ge=0,
        description="What serves, and the holdback's Φ, are trained again on the newest log whenever a test "
        "is trained, and after so many days at the latest; 0: never, the models are trained elsewhere",
    )
    wanted_lift: float = Field(
        default=0.05, gt=0, description="Effect on a success metric that a test shall be able to find"
    )
    minimum_rows: int = Field(
        default=10_000, ge=1, description="Training rows below which no candidate is trained for live traffic"
    )

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"names of metrics must differ, got {names}")
        if not any(metric.success for metric in self.metrics):
            raise ValueError(
                "`metrics` needs at least one with success = true, else nothing could be launched"
            )
        if not 0 < self.ramp[0] <= self.ramp[-1] <= 1 or list(self.ramp) != sorted(self.ramp):
            raise ValueError(f"`ramp` must rise within 0..1, got {list(self.ramp)}")
        return self

    def slot(self, number: int) -> tuple[float, float]:
        """[low, high) of the layer's hash that the test in slot `number`, counted from 0, gets.

        The holdback is [0, holdback); the slots divide the rest equally. ValueError: no such slot.
        """
        if not 0 <= number < self.slots:
            raise ValueError(f"`number` must lie in 0..{self.slots - 1}, got {number}")
        low, high = (self.holdback + (1 - self.holdback) * i / self.slots for i in (number, number + 1))
        return low, min(high, 1.0)

    def coverage(self, day: int) -> float:
        """Share of its slot that takes part on day `day` of a test, counted from 0."""
        return self.ramp[min(day, len(self.ramp) - 1)]
