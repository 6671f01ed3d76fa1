"""What passes between us and GrowthBook: the parts of its answers that we read, and our note in theirs.

Fields are named as in its documented API (v1); those we do not name are ignored in answers, and never sent.
The note is the last line of a description: which test it is, and which idempotency keys were used on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evorank.model.errors import PlatformError
from evorank.surfaces.platform import LiveTest

__all__ = ["MARK", "Experiment", "Feature", "Note", "Page", "Results", "digest", "read_answer"]

Json = dict[str, Any]
MARK = "evorank: "
"""Begins the line of a description that is ours."""
KEPT = 100
"""Launches whose keys the feature remembers: a description has room for 10,000 characters."""


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
