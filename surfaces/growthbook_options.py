"""`[online.options]` of a surface that GrowthBook serves, and what must be said when they do not suit."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from evorank.model.errors import ConfigurationError
from evorank.surfaces.online import Online
from evorank.surfaces.warehouse import Tables

__all__ = ["Options"]


class Options(Tables):
    """`[online.options]` of a surface that GrowthBook serves.

    With `tables` or `setup`, tests are read from the tables by our own statistics, guardrails every day; with
    `metrics` alone GrowthBook's results are taken, with the engine and the corrections that are set there.
    """

    url: str = Field(
        default="https://api.growthbook.io/api",
        description="Address of the API, without /v1; https unless near",
    )
    key_variable: str = Field(
        default="GROWTHBOOK_API_KEY",
        description="Environment variable with an API key that may change experiments and features",
    )
    feature: str = Field(
        description="Key of the string feature that the service reads; its value is an artifact"
    )
    environment: str = Field(default="production", description="Where the feature's rules are changed")
    assignment_query: str = Field(description="ID of the data source's assignment query")
    datasource: str | None = Field(default=None, description="ID of the data source; metrics need it")
    project: str | None = Field(default=None, description="ID of the project that experiments belong to")
    hash_attribute: str = Field(default="id", description="Attribute of the user id")
    namespace: str | None = Field(
        default=None,
        description="ID of a namespace: the layer that tests share. Needed unless a test gets all",
    )
    holdout: str | None = Field(
        default=None, description="ID of a holdout: GrowthBook's form of the holdback"
    )
    metrics: dict[str, str] = Field(
        default_factory=dict,
        description="Name of a metric of [online] -> ID of the same metric in GrowthBook",
    )
    level: float = Field(default=0.95, gt=0.5, lt=1, description="Confidence level that is set in GrowthBook")
    timeout_s: float = Field(default=10.0, gt=0, description="Seconds to wait for an answer")
    tries: int = Field(default=5, ge=1, le=20)
    pause_s: float = Field(
        default=1.0, ge=0, description="Before the second try; doubles with every further one"
    )
    patience_s: float = Field(default=60.0, ge=0, description="Longest single pause")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            # Not shown, as it may hold a password.
            raise ValueError(
                "must be http(s)://HOST[:PORT]/PATH without a user; keys come from the environment"
            )
        return url.rstrip("/").removesuffix("/v1")

    @property
    def reads_tables(self) -> bool:
        return bool(self.tables or self.setup)

    def check(self, online: Online) -> None:
        """ConfigurationError where these options do not suit the rest of `[online]`."""
        names = [metric.name for metric in online.metrics]
        if unknown := sorted(set(self.metrics) - set(names)):
            raise ConfigurationError(f"`online.options.metrics` names {unknown}, [online] has {names}.")
        if not self.reads_tables and (missing := [name for name in names if name not in self.metrics]):
            raise ConfigurationError(
                f"`online.options.metrics` must give GrowthBook's IDs of all metrics, {missing} are missing; "
                "or give `tables` (or `setup`) to read exposures and metrics from."
            )
        if self.metrics and self.datasource is None:
            raise ConfigurationError(
                "`online.options.metrics` need `datasource`, the ID of their data source."
            )
        if self.namespace is None and (online.slots > 1 or online.holdback):
            raise ConfigurationError(
                "`online.options.namespace` must be the ID of a namespace of GrowthBook where a test does "
                f"not get all users: `slots` is {online.slots}, `holdback` {online.holdback:g}."
            )
        if online.holdback and self.holdout is None:
            raise ConfigurationError(
                f"`online.options.holdout` must be the ID of a holdout of GrowthBook, since `holdback` is "
                f"{online.holdback:g}; or set `holdback = 0`."
            )
