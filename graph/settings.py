"""Settings of a run: evorank.toml, EVORANK_* variables and flags, in rising order of precedence.

Kept apart from Φ, which agents patch, and from live handles, which belong to a session.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from evorank.graph.keys import load_keys, trace
from evorank.graph.models import EMBEDDED, Provider, Role, describe, names
from evorank.graph.prices import Price, Prices
from evorank.graph.trackers import TrackerName
from evorank.model.errors import ConfigurationError, EvorankError, PlatformError
from evorank.prompts.briefing import PROMPT_TOKENS, History
from evorank.tools.evaluator.choose import ExecutorName, require_executor
from evorank.tools.evaluator.gpu import DeviceName, choose_device

if TYPE_CHECKING:
    from evorank.surfaces.platform import Ranker

__all__ = ["Settings", "health", "load_settings", "platform_health"]


class Settings(BaseSettings):
    """What `run` would do when no flag is given."""

    model_config = SettingsConfigDict(
        env_prefix="EVORANK_", toml_file="evorank.toml", extra="forbid", env_ignore_empty=True
    )
    home: str = Field(".evorank", min_length=1, description="Folder of everything a run reads and writes")
    surface: str = Field("simulated", min_length=1, description="Surface to improve")
    model: str | None = Field(
        None, description="Chat model as provider:model, several with commas; none: embedded engineer"
    )
    models: dict[Role, str] = Field({}, description="Other chat models by role: think, code, linter ...")
    providers: dict[str, Provider] = Field({}, description="How providers are reached, by their names")
    prices: dict[str, Price] = Field({}, description="Dollars per million tokens by provider:model")
    generation: Literal["delta", "full"] = Field("delta", description="What CODE answers")
    history: History = Field("sorted", description="How prompts show the journal")
    max_usd: float | None = Field(None, gt=0, description="What the calls of a run may cost, in US dollars")
    max_tokens: int | None = Field(None, ge=1, description="Tokens that a run may use")
    max_minutes: float | None = Field(None, gt=0, description="Minutes until a run asks for nothing more")
    record: str | None = Field(None, description="File that every call is written to")
    replay: str | None = Field(None, description="File of a recording that answers instead of models")
    trace: bool = Field(False, description="Let LangSmith hear of everything")
    personas: list[str] | None = Field(None, description="Only these personas; none: all that apply")
    steps: int = Field(50, ge=1, description="Candidates to try")
    days: int = Field(112, ge=0, description="Days of traffic that a run may let pass on a simulated surface")
    seed: int = Field(0, ge=0, description="Seed of proposals and trainings")
    seeds: int = Field(8, ge=2, le=32, description="Paired trainings of a finalist")
    parallel: int = Field(4, ge=1, le=64, description="Candidates in flight")
    selection: Literal["fifo", "ranked"] = Field("ranked", description="Who is tested live next")
    approve: bool = Field(False, description="A person approves every launch")
    inspect: bool = Field(False, description="A person looks at every candidate before it is measured")
    replicate: bool = Field(False, description="A candidate must win two live tests")
    proposals: str = Field("1", description="Proposals in one call: a number, or X/Y/Z of each kind")
    queries: int = Field(5, ge=0, le=50, description="SQL queries of the log before a proposal")
    prompt_tokens: int = Field(PROMPT_TOKENS, ge=2_000, description="Length of a prompt")
    insight_every: int = Field(10, ge=0, description="Attempts between two notes of what works; 0: none")
    persona_folder: str | None = Field(None, description="Folder of persona files; none: HOME/personas")
    steering: list[str] = Field(default_factory=list, description="What every proposal must heed")
    executor: ExecutorName = Field("local", description="Where candidates are trained: local or ray")
    address: str | None = Field(None, description="Ray cluster as HOST:PORT or auto; none: start Ray here")
    workers: int | None = Field(None, ge=1, le=4096, description="Training processes; none: the cores")
    device: DeviceName = Field("auto", description="Where to compute: cpu, cuda, or auto")
    store: str | None = Field(
        None, repr=False, description="postgresql://... for several machines; none: a file in the home"
    )
    trackers: list[TrackerName] = Field(
        default_factory=list, description="Where runs are mirrored: mlflow, otel, or both"
    )
    allow_degraded: bool = Field(False, description="Train also where the lock is not whole")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def context(self) -> dict[str, Any]:
        """The fields that the graphs' context has too."""
        return self.model_dump(exclude={"steps", "days", "trace"})


def load_settings(flags: Mapping[str, Any], base_url: str | None = None) -> Settings:
    """Flags over environment over evorank.toml over defaults; ConfigurationError names field and source.

    `.env` in the working directory is part of the environment from here on; LangSmith hears of nothing from
    here on, unless `trace` is set. In a replay, what the recording was made with lies between flags and
    environment. `base_url`: the address of the provider of `model`.
    """
    load_keys()
    try:
        settings = Settings(**flags)
        if settings.replay is not None:
            from evorank.graph.recording import read_head

            recorded = read_head(Path(settings.replay)).settings(set(Settings.model_fields))
            settings = Settings(**(recorded | dict(flags)))
        trace(settings.trace)
        return settings if base_url is None else _at(settings, base_url)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        source = f"--{name.replace('_', '-')}" if name in flags else f"EVORANK_{name.upper()} or evorank.toml"
        known = ", ".join(Settings.model_fields)
        hint = f" Settings are: {known}." if first["type"] == "extra_forbidden" else ""
        raise ConfigurationError(
            f"`{name}` ({source}): {first['msg']}, got {first['input']!r}.{hint}"
        ) from error
    except ValueError as error:  # tomllib.TOMLDecodeError
        raise ConfigurationError(f"`evorank.toml` is not valid TOML: {error}.") from error


def _at(settings: Settings, base_url: str) -> Settings:
    providers = {name.partition(":")[0] for name in names(settings.model)}
    if len(providers) != 1:
        raise ConfigurationError(
            "`--base-url` is the address of one provider, that of --model; here are "
            f"{', '.join(sorted(providers)) or 'none'}. In evorank.toml: [providers.NAME] base_url = ..."
        )
    (name,) = providers
    known = settings.providers.get(name, Provider()).model_dump(exclude_unset=True)
    try:
        provider = Provider.model_validate(known | {"base_url": base_url})
    except ValidationError as error:
        raise ConfigurationError(f"`--base-url`: {error.errors()[0]['msg']}, got {base_url!r}.") from None
    return settings.model_copy(update={"providers": settings.providers | {name: provider}})


def health(settings: Settings) -> list[dict[str, Any]]:
    """What `doctor` says: one row per thing that a run needs, with what to mend."""
    checks = (_python, _packages, _home, _chat_model, _surface, _executor, _lock, _device)
    results = []
    for check in checks:
        try:
            passed, message = True, check(settings)
        except EvorankError as error:
            passed, message = False, str(error)
        results.append(
            {"name": check.__name__.strip("_").replace("_", " "), "passed": passed, "message": message}
        )
    return results


def platform_health(settings: Settings, name: str, artifact: Path) -> list[dict[str, Any]]:
    """What `doctor --platform` says: which promises the class (`own`: the surface's) keeps on the surface.

    `artifact` is what both arms of the checks' A/A tests are served. ConfigurationError: no such surface or
    class, or no [online] section.
    """
    from evorank.graph.ledger import StoredLedger
    from evorank.graph.store import Store
    from evorank.surfaces.platform import platform_class
    from evorank.surfaces.platform_conformance import platform_conformance
    from evorank.surfaces.surface import open_surface

    surface = open_surface(Path(settings.home), settings.surface)
    online = surface.spec.online
    if online is None:
        raise ConfigurationError(
            f"Surface {surface.name!r} has no [online] section in surface.toml to check."
        )
    if not artifact.is_dir():
        raise ConfigurationError(f"`--artifact` must be a folder that production can serve, got {artifact}.")
    found = platform_class(online.platform if name == "own" else name, "--platform")
    store = Store.open(Path(settings.home), settings.store)
    try:
        served, ledger = str(artifact.absolute()), StoredLedger(store, surface)
        results = platform_conformance(found, surface, _scores_nothing, served, ledger)
    finally:
        store.close()
    return [{"name": check.name, "passed": check.passed, "message": check.message} for check in results]


def _scores_nothing(artifact: Path) -> Ranker:
    raise PlatformError(f"`load` is not at hand in doctor, got {artifact}. Load artifacts when they score.")


def _python(_: Settings) -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _packages(_: Settings) -> str:
    shown = []
    for name in ("torch", "langgraph", "duckdb", "numpy", "pydantic", "langchain-google-genai"):
        try:
            shown.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            raise ConfigurationError(f"`{name}` is not installed. Try: pip install {name}") from None
    return ", ".join(shown)


def _home(settings: Settings) -> str:
    from evorank.graph.journal import Journal

    home = Path(settings.home)
    if settings.store is None and not (home / "journal.sqlite").exists():
        return f"{home.resolve()}, no journal yet"
    journal = Journal.open(home, create=settings.store is not None, url=settings.store)
    try:
        return f"{home.resolve()}, {len(journal.attempts())} attempts in the journal"
    finally:
        journal.close()


def _chat_model(settings: Settings) -> str:
    """Which models would be asked, and what is missing for them; nothing is sent."""
    from evorank.graph.chats import require_models, used_models
    from evorank.graph.context import Context

    context = Context(**settings.context())
    require_models(context)
    told = []
    for name, roles in used_models(context).items():
        if name == EMBEDDED:
            told.append(f"{', '.join(roles)}: the embedded engineer, a search algorithm, no key needed")
            continue
        price = Prices(settings.prices).of(name)
        cost = f"${price.input:g} in, ${price.output:g} out a million tokens" if price else "price not known"
        told.append(f"{', '.join(roles)}: {describe(name)}, {cost}")
    return "; ".join(told)


def _surface(settings: Settings) -> str:
    from evorank.surfaces.surface import WORLDS, list_surfaces, open_surface

    known = list_surfaces(Path(settings.home))
    made = (Path(settings.home) / "surfaces" / settings.surface / "surface.toml").exists()
    if settings.surface in WORLDS and not made:
        return f"{settings.surface}: a simulated world with its log, made by the first run"
    rows = open_surface(Path(settings.home), settings.surface).dataset().bounds
    counts = ", ".join(f"{bounds.stop - bounds.start:,} {period}" for period, bounds in rows.items())
    others = ", ".join(sorted(set(known) - {settings.surface})) or "none"
    return f"{settings.surface} with {counts} rows; others here: {others}"


def _executor(settings: Settings) -> str:
    import os

    require_executor(settings.executor, settings.address)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if settings.executor == "local":
        where = f"local, {settings.workers or cores} training processes on {cores} cores"
    elif settings.address is None:
        where = f"ray {version('ray')}, started here, {settings.workers or cores} training processes"
    else:
        where = f"ray {version('ray')} at {settings.address}, {settings.workers or 'all its'} CPUs"
    return (
        f"{where}; `python cli.py run` would try {settings.steps} candidates, {settings.parallel} at a time, "
        f"{settings.seeds} seeds per finalist"
    )


def _lock(settings: Settings) -> str:
    """The tier in force on this machine, tried out just now: what a run here would refuse or accept."""
    from evorank.tools.evaluator.tier import HOLDS, self_test

    report = self_test()
    holding = [layer + said.removeprefix(HOLDS) for layer, said in report.layers.items()]
    if report.tier != "degraded":
        return f"{report.tier}: code of candidates cannot leave its process; {', '.join(holding)} hold"
    missing = "; ".join(f"{layer}: {said}" for layer, said in report.missing.items())
    if settings.allow_degraded:
        return f"degraded, as allowed, so trust every model that proposes code; {missing}"
    raise ConfigurationError(
        f"degraded: candidates cannot be locked up here; {missing}. A run needs Linux 5.13 or later on "
        "x86-64 or aarch64, or --allow-degraded where every model that proposes code is trusted."
    )


def _device(settings: Settings) -> str:
    """Where candidates would compute, and why; tried out where there is a GPU."""
    if settings.executor == "ray" and settings.device != "cuda":
        return "the CPU of each node"
    if settings.executor == "ray":
        return "cuda on each node, which tries it when a run starts"
    return choose_device(settings.device, allow_degraded=settings.allow_degraded).why
