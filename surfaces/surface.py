"""A surface: one place where recommendations are served, as one readable file, `surface.toml`.

It says where the log is, what its columns mean, what the surface exists for (north star), what must
not be exceeded (guardrails), which system ranks, and the production Φ that deltas are against.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evorank.model.conformance import load_system
from evorank.model.data import Dataset
from evorank.model.errors import ConfigurationError, LogError, RefusedDelta, ToolError
from evorank.model.logs import sources
from evorank.model.logs.encode import Progress, encode
from evorank.model.logs.spec import LogSpec
from evorank.model.schema import resolve
from evorank.model.system import Phi, RankingSystem
from evorank.surfaces.exploration import Exploration
from evorank.surfaces.online import Online
from evorank.surfaces.readable import to_toml

__all__ = [
    "WORLDS",
    "Guardrail",
    "NorthStar",
    "Surface",
    "SurfaceSpec",
    "alone",
    "list_surfaces",
    "open_surface",
    "save_surface",
    "surface_folder",
    "use_system",
]

WORLDS: Mapping[str, str] = {
    "simulated": "home",
    "watch_next": "watch_next",
    "shorts": "shorts",
    "reserved": "reserved",
}
"""Surfaces that are made when they are first opened, and the presets of their worlds: a newcomer without a
log sees both loops work on "simulated"."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NorthStar(_Spec):
    """The long-term outcome the surface exists for, per user and day, higher is better."""

    name: str = Field(description="One or two words, e.g. active_days")
    description: str = Field(description="What it is, in a sentence, with its unit")
    sql: str = Field(
        description="SELECT over `log` returning (user id, day, value): the user's outcome over the horizon "
        "after that day"
    )
    horizon_days: int = Field(ge=1, le=365, description="Days after `day` that `value` looks at")


class Guardrail(_Spec):
    """A bound that no candidate may exceed, whatever it gains."""

    metric: Literal["parameters", "latency_ms", "train_cpu_seconds", "train_cost"] = Field(
        description="Trained parameters; milliseconds to score 500 candidates; CPU-seconds of one training; "
        "the same over production's"
    )
    maximum: float = Field(gt=0)

    def __str__(self) -> str:
        return f"{self.metric} ({_MEANING[self.metric]}) must be at most {self.maximum:,g}"


_MEANING = {
    "parameters": "trained parameters",
    "latency_ms": "milliseconds to score 500 candidates",
    "train_cpu_seconds": "CPU-seconds of one training",
    "train_cost": "training CPU time over production's",
}


class SurfaceSpec(_Spec):
    """The content of `surface.toml`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Folder name of the surface")
    description: str = Field(default="", description="What is ranked, for whom; agents read it")
    log: LogSpec
    north_star: NorthStar | None = None
    guardrails: list[Guardrail] = Field(default_factory=list)
    exploration: Exploration | None = Field(
        default=None, description="What the log shows at random. None: nothing, or it is not known"
    )
    online: Online | None = Field(
        default=None, description="Live traffic: platform, metrics, tests. None: the online loop is off"
    )
    system: str = Field(default="evorank.model.ranker:NeuralRanker", description="module:Class of the ranker")
    production: Phi = Field(description="The Φ that serves today. TOML has no null: leave such a field out")


@dataclass(frozen=True)
class Surface:
    """An opened surface. Its log is encoded when `dataset` is first asked for."""

    spec: SurfaceSpec
    directory: Path

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def home(self) -> Path:
        """The home that it is under."""
        return self.directory.parent.parent

    @property
    def layer(self) -> str:
        """Seed of the hash that divides the surface's users into the slots of live tests and the holdback."""
        return f"evorank/{self.name}"

    @property
    def reward_persona_off(self) -> str | None:
        """Why the reward persona is switched off here, or None where it works."""
        if self.spec.north_star is not None:
            return None
        return (
            f"Surface {self.name!r} has no north star in its log, so no reward can be told better than "
            "another: "
            "the reward persona is switched off. Add a [north_star] to surface.toml to switch it on."
        )

    def dataset(self, progress: Progress | None = None, memory_limit: str = "1GB") -> Dataset:
        """The encoded log: made on first use (seconds per million rows), then opened in milliseconds."""
        try:
            return encode(
                self.spec.log.based_at(self.directory), self.directory / "data", progress, memory_limit
            )
        except LogError as error:
            raise LogError(f"Surface {self.name!r}: {error}") from error

    def system(self) -> RankingSystem:
        """The surface's ranker with its production Φ. ConfigurationError names what cannot be imported."""
        return self._system

    def production(self) -> Phi:
        """The production Φ, complete: fields that surface.toml leaves out have the schema's defaults."""
        return deepcopy(self._production)

    @cached_property
    def _production(self) -> Phi:
        schema = self._build(self.spec.production).schema()
        return cast(Phi, _with_defaults(deepcopy(self.spec.production), schema, schema))

    @cached_property
    def _system(self) -> RankingSystem:
        return self._build(self.production())

    def _build(self, production: Phi) -> RankingSystem:
        return load_system(self.spec.system)(self.dataset().schema, production)

    def check_label(self) -> None:
        """LogError where the production label cannot be computed or is one class only."""
        objective = self.system().objective(self.production())
        try:
            self.dataset().labels(objective)
        except (ToolError, RefusedDelta) as error:
            raise LogError(f"Surface {self.name!r}: production {error}") from error


def open_surface(home: Path, name: str) -> Surface:
    """The surface `name` under `home`. Those of WORLDS are made when they are first opened, in seconds.

    ConfigurationError: no such surface (the known ones are listed), or a surface.toml that is not valid.
    """
    path = surface_folder(home, name) / "surface.toml"
    if not path.exists() and name in WORLDS:
        from evorank.surfaces.simulated.create import create

        return create(home, name, WORLDS[name])
    if not path.exists():
        known = sorted({*list_surfaces(home), *WORLDS})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigurationError(
            f"`surface` must be one of {known}, got {name!r}.{hint} "
            "`evorank surface import` makes one from a log."
        )
    try:
        spec = SurfaceSpec.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_problems(error)}") from error
    if spec.name != name:
        raise ConfigurationError(f"{path}: `name` must be its folder's, {name!r}, got {spec.name!r}.")
    # Resolved: one folder has one set of arrays in memory, however it is linked.
    return Surface(spec, path.parent.resolve())


def save_surface(home: Path, spec: SurfaceSpec) -> Surface:
    """Write `surface.toml` under `home` (whole or not at all) and open it. Encoded data is left alone."""
    directory = surface_folder(home, spec.name)
    with sources.explained("surface.toml"):
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / f".surface.toml.{os.getpid()}.tmp"
        try:
            partial.write_text(to_toml(spec), encoding="utf-8")
            partial.replace(directory / "surface.toml")
        finally:
            partial.unlink(missing_ok=True)
    return open_surface(home, spec.name)


def use_system(home: Path, surface: Surface, system: str) -> Surface:
    """Let `module:Class` rank the surface from now on, starting at that class's own production Φ."""
    production = load_system(system)(surface.dataset().schema, None).production()
    saved = save_surface(home, surface.spec.model_copy(update={"system": system, "production": production}))
    saved.check_label()
    return saved


def list_surfaces(home: Path) -> list[str]:
    """Names of the surfaces under `home`, and the built-in one."""
    found = {path.parent.name for path in (Path(home) / "surfaces").glob("*/surface.toml")}
    return sorted(found | {"simulated"})


def surface_folder(home: Path, name: str) -> Path:
    """Where the surface `name` lies under `home`. ConfigurationError where it cannot be a folder's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigurationError(
            f"`surface` must be letters, digits, '.', '_' or '-' (64 at most), got {name!r}. Try 'my-log'."
        )
    return Path(home) / "surfaces" / name


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time, by a lock on the file `path`; the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _problems(error: ValidationError) -> str:
    """pydantic's findings as sentences: field, rule, value."""
    told = []
    for each in error.errors()[:5]:
        field = ".".join(map(str, each["loc"])) or "(whole)"
        seen = f", got {each['input']!r}"[:120] if each["type"] not in ("missing", "value_error") else ""
        told.append(f"`{field}` {each['msg'].removeprefix('Value error, ')}{seen}.")
    return " ".join(told)


def _with_defaults(value: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    """`value` with the schema's defaults for the fields it leaves out: how null survives TOML."""
    schema = resolve(schema, root)
    if not isinstance(value, dict) or not isinstance(schema, Mapping):
        return value
    branches = [resolve(branch, root) for branch in schema.get("anyOf", ())]
    objects = [branch for branch in branches if isinstance(branch, Mapping) and "properties" in branch]
    for branch in [schema, *(objects if len(objects) == 1 else ())]:
        for name, field in branch.get("properties", {}).items():
            field = resolve(field, root)
            if name not in value and isinstance(field, Mapping) and "default" in field:
                value[name] = deepcopy(field["default"])
            if name in value:
                value[name] = _with_defaults(value[name], field, root)
    return value
