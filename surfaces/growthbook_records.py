"""What passes between us and GrowthBook: options, the parts of its answers that we read, our note in theirs.

Fields are named as in its documented API (v1); those we do not name are ignored in answers, and never sent.
The note is the last line of a description: which test it is, and which idempotency keys were used on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from evorank.model.errors import ConfigurationError, PlatformError
from evorank.surfaces.online import Online
from evorank.surfaces.platform import LiveTest
from evorank.surfaces.warehouse import Tables

__all__ = ["MARK", "Experiment", "Feature", "Note", "Options", "Page", "Results", "digest", "read_answer"]

Json = dict[str, Any]
MARK = "evorank: "
"""Begins the line of a description that is ours."""
KEPT = 100
"""Launches whose keys the feature remembers: a description has room for 10,000 characters."""


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


def digest(text: str) -> str:
    """Short name of a text, the same everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Note(BaseModel):
    """Our line in a description."""

    test: LiveTest | None = Field(default=None, description="None: the feature")
    keys: dict[str, str] = Field(
        default_factory=dict, description="Idempotency key -> the call it was used for"
    )

    @classmethod
    def of(cls, description: str, where: str) -> Self | None:
        """The note in a description; None: there is none. PlatformError: it was damaged by hand."""
        line = next((line for line in description.splitlines() if line.startswith(MARK)), None)
        if line is None:
            return None
        try:
            return cls.model_validate_json(line.removeprefix(MARK))
        except ValidationError as error:
            raise PlatformError(
                f"The description of {where} in GrowthBook lost its line `{MARK}...`, which holds what was "
                "done there: restore it from the history."
            ) from error

    def into(self, description: str, key: str, call: str) -> str:
        """`description` with this note, in which `key` is used for `call`, in place of the one it had."""
        text = [line for line in description.splitlines() if not line.startswith(MARK)]
        kept = dict([*self.keys.items(), (key, call)][-KEPT:])
        noted = self.model_copy(update={"keys": kept})
        return "\n".join([*text, MARK + noted.model_dump_json(exclude_none=True)])


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Variation(_Answer):
    variationId: str  # noqa: N815 - GrowthBook's name, as all below
    key: str


class Weight(_Answer):
    weight: float


class Namespace(_Answer):
    namespaceId: str  # noqa: N815
    range: tuple[float, float]


class Phase(_Answer):
    name: str
    dateStarted: str  # noqa: N815
    seed: str
    coverage: float = Field(ge=0, le=1)
    trafficSplit: list[Weight]  # noqa: N815
    namespace: Namespace | None = None
    targetingCondition: str = ""  # noqa: N815
    savedGroupTargeting: list[Json] = Field(default_factory=list)  # noqa: N815
    prerequisites: list[Json] = Field(default_factory=list)

    def at(self, coverage: float) -> Json:
        """The same phase, to be sent, at another coverage: nobody who takes part moves."""
        sent: Json = {
            "name": self.name,
            "dateStarted": self.dateStarted,
            "seed": self.seed,
            "coverage": coverage,
            "variationWeights": [0.5, 0.5],
        }
        if self.namespace is not None:
            sent["namespace"] = self.namespace.model_dump() | {"enabled": True}
        if self.targetingCondition:
            sent["condition"] = self.targetingCondition
        if self.savedGroupTargeting:
            sent["savedGroupTargeting"] = self.savedGroupTargeting
        if self.prerequisites:
            sent["prerequisites"] = self.prerequisites
        return sent


class Experiment(_Answer):
    id: str
    trackingKey: str  # noqa: N815
    status: Literal["draft", "running", "stopped"]
    description: str
    variations: list[Variation]
    phases: list[Phase] = Field(min_length=1)

    @property
    def note(self) -> Note | None:
        return Note.of(self.description, f"experiment {self.trackingKey!r}")

    @property
    def phase(self) -> Phase:
        """The one phase. PlatformError where somebody changed what a test depends on."""
        found = self.phases[-1]
        if len(self.phases) > 1 or [each.weight for each in found.trafficSplit] != [0.5, 0.5]:
            raise PlatformError(
                f"Experiment {self.trackingKey!r} was changed in GrowthBook: it has {len(self.phases)} "
                f"phases and weights {[each.weight for each in found.trafficSplit]} in the last. Users were "
                "moved between arms, so it proves nothing: abort it."
            )
        return found

    def variation(self, key: str) -> str:
        """variationId of an arm."""
        for each in self.variations:
            if each.key == key:
                return each.variationId
        raise PlatformError(
            f"Experiment {self.trackingKey!r} has no variation {key!r} in GrowthBook: abort it."
        )


class Page(_Answer):
    experiments: list[Json]  # other people's need not be of our kind
    hasMore: bool  # noqa: N815
    nextOffset: int | None = None  # noqa: N815


class Environment(_Answer):
    enabled: bool
    rules: list[Json]


class Feature(_Answer):
    id: str
    valueType: str  # noqa: N815
    defaultValue: str  # noqa: N815
    description: str
    environments: dict[str, Environment]

    @property
    def note(self) -> Note:
        return Note.of(self.description, f"feature {self.id!r}") or Note()


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Analysis(_Answer):
    engine: str
    percentChange: _Finite  # noqa: N815 - a fraction, despite its name
    ciLow: _Finite  # noqa: N815
    ciHigh: _Finite  # noqa: N815


class VariationResult(_Answer):
    variationId: str  # noqa: N815
    users: int
    analyses: list[Analysis]


class MetricResult(_Answer):
    metricId: str  # noqa: N815
    variations: list[VariationResult]


class Slice(_Answer):
    metrics: list[MetricResult]


class Results(_Answer):
    dateUpdated: str  # noqa: N815
    results: list[Slice]


_Model = TypeVar("_Model", bound=BaseModel)


def read_answer(model: type[_Model], answer: Mapping[str, Any], within: str | None = None) -> _Model:
    """An answer (or its field `within`) as `model`. PlatformError names the field that is wrong."""
    try:
        return model.model_validate(answer if within is None else answer.get(within))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, (*([within] if within else []), *first["loc"])))
        raise PlatformError(
            f"GrowthBook's answer is not as its API says: `{field}` {first['msg']}. Is `online.options.url` "
            "the address of its API, and its version new enough?"
        ) from error
