"""What a run is given: a `Context` anyone can write as JSON, and the `Session` of live handles it opens.

Sessions are kept per process, because worker processes and the encoded log cost seconds to open: the same
context gives the same session, and contexts that share a surface share its workers and its journal.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from langchain_core.language_models import BaseChatModel
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.json_schema import SkipJsonSchema

from evorank.graph.ask import Chat
from evorank.graph.chats import Chats, require_models
from evorank.graph.choice import SHARES
from evorank.graph.journal import Journal
from evorank.graph.models import Provider, Role
from evorank.graph.prices import Price
from evorank.graph.spending import Account
from evorank.graph.sqlite import connect, explained
from evorank.graph.state import Attempt
from evorank.graph.store import Store
from evorank.graph.trackers import Tracker, TrackerName, open_tracker
from evorank.model.delta import fingerprint
from evorank.model.errors import ConfigurationError, ToolError
from evorank.model.expression import FUNCTIONS
from evorank.model.ranker import NeuralRanker
from evorank.personas.persona import PARTS, Persona, personas_of
from evorank.prompts.answers import Category
from evorank.prompts.briefing import PROMPT_TOKENS, History
from evorank.surfaces.surface import WORLDS, Surface, open_surface
from evorank.tools.alignment import outcomes
from evorank.tools.evaluator.choose import ExecutorName, open_executor, require_executor
from evorank.tools.evaluator.executor import Executor
from evorank.tools.evaluator.gpu import DeviceName
from evorank.tools.events import Listener
from evorank.tools.workbench import Workbench

if TYPE_CHECKING:
    from evorank.graph.operations import Operations

__all__ = ["Context", "Session", "close_sessions", "context_of", "open_session"]

Made = TypeVar("Made")


class Context(BaseModel):
    """Settings of a run, all of them optional. Live handles are for programs and not part of the form."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    surface: str = Field(
        default="simulated",
        min_length=1,
        description="Surface to improve: one of the home, or a simulated one",
        json_schema_extra={"examples": list(WORLDS)},
    )
    home: str | None = Field(
        default=None,
        description="Folder of everything a run reads and writes; empty: $EVORANK_HOME, or .evorank",
    )
    model: str | None = Field(
        default=None,
        description="Chat model as provider:model, e.g. google_genai:gemini-2.5-pro; several with commas "
        "between: an ensemble; empty: the embedded engineer, a search algorithm that needs no key",
    )
    models: dict[Role, str] = Field(
        default_factory=dict,
        description="Other chat models for single roles: think, code, linter, strategist, insight",
        json_schema_extra={"examples": [{"linter": "google_genai:gemini-2.5-flash"}]},
    )
    providers: dict[str, Provider] = Field(
        default_factory=dict,
        description="How providers are reached, by provider or by provider:model: address, timeout, retries, "
        "limits, options",
    )
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description="Dollars per million tokens by provider:model, where evorank's own table is not right",
    )
    generation: Literal["delta", "full"] = Field(
        default="delta",
        description="What CODE answers: what changes, or (to compare with) the whole configuration",
    )
    history: History = Field(
        default="sorted",
        description="How prompts show the journal: whole and best first; anything else is to compare with",
    )
    personas: list[str] | None = Field(
        default=None,
        description="Only these personas propose; empty: all that the surface allows",
        json_schema_extra={"examples": [["optimizer", "architecture"]]},
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the proposals; training seeds are always 0, 1, 2 ..."
    )
    seeds: int = Field(
        default=8, ge=2, le=32, description="Paired trainings of a candidate that survives the first"
    )
    parallel: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Candidates in flight; each batch sees the journal as it was before it",
    )
    executor: ExecutorName = Field(
        default="local", description="Where candidates are trained: on this machine, or on a Ray cluster"
    )
    address: str | None = Field(
        default=None,
        description="Ray cluster as HOST:PORT, or auto for this machine's own; empty: Ray is started here",
    )
    workers: int | None = Field(
        default=None, ge=1, le=4096, description="Training processes; empty: one per core"
    )
    device: DeviceName = Field(
        default="auto",
        description="Where candidates compute: cpu, cuda, or auto (a GPU where one can be used)",
    )
    store: str | None = Field(
        default=None,
        # A URL may hold a password: whoever writes a context down leaves it out.
        exclude=True,
        repr=False,
        description="Database of the journal and of live tests, postgresql://USER@HOST/DATABASE, for several "
        "machines; empty: a SQLite file in the home",
    )
    allow_degraded: bool = Field(
        default=False, description="Train also where the lock around candidates' code is not whole"
    )
    selection: Literal["fifo", "ranked"] = Field(
        default="ranked",
        description="Which candidate is tested live next: the oldest in the queue, or whom the strategist "
        "ranks first",
    )
    approve: bool = Field(default=False, description="A person approves every launch")
    inspect: bool = Field(
        default=False,
        description="A person looks at every candidate before it is measured: approves it, edits its delta, "
        "or rejects it",
    )
    replicate: bool = Field(
        default=False, description="A candidate must win two live tests, with other users in its arm"
    )
    proposals: str = Field(
        default="1",
        pattern=r"^([1-9]\d?|\d{1,2}/\d{1,2}/\d{1,2})$",
        description="Proposals that a persona is asked for in one call: a number, or X/Y/Z to explore, to "
        "exploit and to innovate; without X/Y/Z the kinds follow what pays off",
        json_schema_extra={"examples": ["1", "2/1/1"]},
    )
    queries: int = Field(
        default=5, ge=0, le=50, description="SQL queries of the log before a persona that may ask proposes"
    )
    prompt_tokens: int = Field(
        default=PROMPT_TOKENS,
        ge=2_000,
        le=10_000_000,
        description="Length of a prompt; a longer journal keeps its best, its newest and all live results",
    )
    insight_every: int = Field(
        default=10, ge=0, description="Attempts after which the journal is summed up for prompts; 0: never"
    )
    persona_folder: str | None = Field(
        default=None, description="Folder of persona files NAME.md; empty: HOME/personas, if it is there"
    )
    steering: list[str] = Field(
        default_factory=list,
        description="What every proposal must heed, a sentence each; `steer add` does the same while it runs",
    )
    trackers: list[TrackerName] = Field(
        default_factory=list,
        description="Where the run is mirrored: mlflow (MLFLOW_TRACKING_URI), otel (OpenTelemetry), or both",
    )
    max_calls: int | None = Field(default=None, ge=1, description="Budget of a run: calls to the chat model")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Budget of a run: tokens reported, in and out"
    )
    max_usd: float | None = Field(
        default=None, gt=0, description="Budget of a run: what its calls cost, in US dollars"
    )
    max_minutes: float | None = Field(
        default=None, gt=0, description="Budget of a run: minutes until it asks for nothing more"
    )
    max_cpu_seconds: float | None = Field(
        default=None, gt=0, description="Budget of a run: CPU-seconds of training and scoring"
    )
    record: str | None = Field(default=None, description="File that every call is written to, to be replayed")
    replay: str | None = Field(default=None, description="File of a recording that answers instead of models")
    chat_model: SkipJsonSchema[BaseChatModel | None] = Field(default=None, exclude=True)
    """A live chat model in place of `model`."""
    pool: SkipJsonSchema[Any] = Field(default=None, exclude=True)
    """A live executor in place of the one that `executor` names; closed by whoever made it."""
    listeners: SkipJsonSchema[list[Any]] = Field(default_factory=list, exclude=True, repr=False)
    """Trackers of the program's own: called with every `tools.events.Event`."""

    @model_validator(mode="after")
    def _fits_a_batch(self) -> Context:
        if self.together > self.parallel:
            raise ValueError(
                f"`proposals` {self.proposals} are {self.together} in one call, and `parallel` is "
                f"{self.parallel}: set parallel to {self.together}, or ask for fewer"
            )
        if self.together == 0:
            raise ValueError("`proposals` must ask for one proposal at least")
        return self

    @property
    def together(self) -> int:
        """Proposals asked for in one call."""
        return sum(int(count) for count in self.proposals.split("/"))

    @property
    def fixed(self) -> dict[Category, int] | None:
        """Category -> proposals of it in one call; None: they follow what pays off."""
        if "/" not in self.proposals:
            return None
        explore, exploit, innovate = map(int, self.proposals.split("/"))
        return {"explore": explore, "exploit": exploit, "innovate": innovate}

    def home_path(self) -> Path:
        """Absolute, so that a later change of the working directory does not split a run in two."""
        return Path(self.home or os.environ.get("EVORANK_HOME") or ".evorank").expanduser().absolute()


class Session:
    """A context's live handles. Made by `open_session`; safe to share between threads."""

    def __init__(self, context: Context, workbench: Workbench, journal: Journal, store: Store) -> None:
        self.context = context
        self.store = store
        self.home = context.home_path()
        self.workbench = workbench
        self.surface = workbench.surface
        self.journal = journal
        self.personas: dict[str, Persona] = personas_of(self.home, context.persona_folder)
        self.switched_off: dict[str, str] = {}
        """Persona -> why it does not propose on this surface."""
        self.proposers = self._proposers()
        ours = isinstance(workbench.system, NeuralRanker)
        self.functions = {str(each): each.doc for each in FUNCTIONS.values()} if ours else {}
        """What prompts say of the layer language: signature -> one line. Empty for other systems."""
        self._dumps: dict[str, dict[str, Any]] = {}
        self.stop = threading.Event()
        self.chats = Chats(context, store, self.surface.name, self.stop)
        self.stop_reason: str | None = None
        self.taken_up: dict[str, int] = {}
        """Run -> how many of its steps were done when this session began with it."""
        self.operations: Operations | None = None
        """The online loop's handles, once `open_operations` was asked for them."""
        self.listeners: list[Listener] = list(context.listeners)
        """Who is told of what is being done."""

    @property
    def production_fingerprint(self) -> str:
        """Of the production Φ that candidates are compared with."""
        return fingerprint(self.workbench.production)

    @property
    def objectives(self) -> Mapping[str, float]:
        """The standing share of each category of proposals."""
        if self.context.fixed is None:
            return {str(name): share for name, share in SHARES.items()}
        return {name: count / self.context.together for name, count in self.context.fixed.items()}

    def patchable(self, persona: str) -> list[str]:
        """JSON Pointer prefixes that a persona may patch here: what its file and the system both allow."""
        return self.personas[persona].patchable(self.workbench.system.patchable())

    def renew(self, surface: Surface) -> None:
        """Go on with this production Φ, on the surface's newest log. No attempt may be under way."""
        self.workbench.renew(surface)

    def request_stop(self, reason: str) -> None:
        """Let running steps finish and begin no further batch, in every run of this session."""
        self.stop_reason = reason
        self.stop.set()

    def chat(self, role: Role, account: Account, journal: Callable[[], Sequence[Attempt]] = tuple) -> Chat:
        """Who answers for a role; the embedded engineer is seeded by the context's seed and the step.

        `journal`: the attempts that an ensemble is chosen by.
        """
        return self.chats.chat(role, account, self.seed(account.step or 0), journal)

    def seed(self, step: int) -> int:
        digest = hashlib.sha256(f"{self.context.seed}/{step}".encode()).digest()
        return int.from_bytes(digest[:4], "big")

    def dump(self, attempt: Attempt) -> dict[str, Any]:
        """A journal record as JSON for prompts, made once: a journal of thousands is shown at every call."""
        if attempt.id not in self._dumps:
            self._dumps[attempt.id] = attempt.model_dump(mode="json")
        return self._dumps[attempt.id]

    @contextmanager
    def checkpointer(self) -> Iterator[SqliteSaver]:
        """Where runs keep their place: HOME/runs/checkpoints.sqlite. Raises JournalError as the journal does.

        Apart from the journal, because a run's states are many and of no use once it is complete.
        """
        path = self.home / "runs" / "checkpoints.sqlite"
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = connect(path)
            try:
                yield SqliteSaver(connection)
            finally:
                connection.close()

    def _proposers(self) -> list[str]:
        asked = self.context.personas
        found = sorted(name for name, persona in self.personas.items() if persona.patches)
        wanted = [*PARTS, *(name for name in found if name not in PARTS)] if asked is None else asked
        for name in wanted:
            if name not in self.personas:
                self.switched_off[name] = f"there is no persona {name!r}; known are {', '.join(found)}"
            elif not self.personas[name].patches:
                self.switched_off[name] = "`patches` in its file is empty, so it proposes nothing"
            elif not self.patchable(name):
                self.switched_off[name] = f"system {self.surface.spec.system} lets it patch nothing"
            elif self.personas[name].judges_rewards and (reason := self._no_north_star()):
                self.switched_off[name] = reason
        proposers = [name for name in dict.fromkeys(wanted) if name not in self.switched_off]
        if (asked is not None and len(proposers) < len(set(asked))) or not proposers:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.switched_off.items())
            raise ConfigurationError(
                f"`personas` must name personas that can work here, got {asked} ({why})."
            )
        return proposers

    def _no_north_star(self) -> str | None:
        """Why no reward can be told better than another here; None where it can."""
        north_star = self.surface.spec.north_star
        if north_star is None:
            return self.surface.reward_persona_off
        try:
            outcomes(self.workbench.dataset, north_star)
        except (ConfigurationError, ToolError) as error:
            return str(error)
        return None


_lock = threading.RLock()
_sessions: dict[object, Session] = {}
_shared: dict[object, tuple[Any, Callable[[], None]]] = {}


def open_session(context: Context, *, asks: bool = True) -> Session:
    """The session of a context, opened on first use (seconds: a log is encoded, workers start).

    Not `asks`: no chat model will be asked, so its key and its package may be missing.

    Raises ConfigurationError (unknown surface, persona, model string), LogError, JournalError.
    """
    home = context.home_path()
    live = (id(context.chat_model), id(context.pool), *map(id, context.listeners))
    key = (home, context.store, context.model_dump_json(exclude={"home"}), live, asks)
    with _lock:
        if key not in _sessions:
            require_models(context, asks)  # what is missing is told now, not after the log is encoded
            if context.pool is None:  # and so is what cannot train
                require_executor(context.executor, context.address, **_lock_and_device(context))
            surface = open_surface(home, context.surface)
            executor = context.pool or _executor(context)
            bench: Workbench = _share(
                ("bench", home, context.surface, context.seeds, id(executor)),
                lambda: Workbench(surface, executor, home / "cache", context.seeds),
                Workbench.close,
            )
            store: Store = _share(
                ("store", home, context.store), lambda: Store.open(home, context.store), Store.close
            )
            journal: Journal = _share(("journal", id(store)), lambda: Journal(store), lambda _: None)
            session = Session(context, bench, journal, store)
            for name in dict.fromkeys(context.trackers):
                session.listeners.append(_tracker(name, session))
            _sessions[key] = session
        return _sessions[key]


def _tracker(name: TrackerName, session: Session) -> Tracker:
    def make() -> Tracker:
        return open_tracker(name, session)

    return _share((name, id(session.journal), session.surface.name), make, lambda made: made.close())


def _executor(context: Context) -> Executor:
    asked = (context.executor, context.address, context.workers)
    more = _lock_and_device(context)

    def make() -> Executor:
        return open_executor(*asked, **more)

    return _share(("pool", asked, *more.values()), make, lambda made: made.close())


def _lock_and_device(context: Context) -> dict[str, Any]:
    return {"device": context.device, "allow_degraded": context.allow_degraded}


def _share(key: object, make: Callable[[], Made], close: Callable[[Made], None]) -> Made:
    if key not in _shared:
        made = make()
        _shared[key] = (made, lambda: close(made))
    value: Made = _shared[key][0]
    return value


def close_sessions() -> None:
    """Close every session of this process: workers end, files are closed. The next open starts afresh."""
    with _lock:
        _sessions.clear()
        while _shared:
            _shared.popitem()[1][1]()


atexit.register(close_sessions)


def context_of(given: Mapping[str, Any] | None, runtime: Runtime[Any]) -> Context:
    """The evorank context of a node, wherever the graph runs.

    In this order: `given`, the graph's input field `context`; the runtime's context when it is ours (or a
    mapping, as a server sends it); its field or attribute `evorank`, when this graph is a node of a graph
    with another context of its own; the defaults when there is no context at all.

    Raises ConfigurationError when a foreign context says nothing about evorank, and for wrong fields.
    """
    if given is not None:
        return _parse(given)
    found: Any = runtime.context
    if found is None or isinstance(found, Context):
        return found or Context()
    inner = found.get("evorank") if isinstance(found, Mapping) else getattr(found, "evorank", None)
    if inner is not None:
        return inner if isinstance(inner, Context) else _parse(inner)
    if isinstance(found, Mapping):
        return _parse(found)
    raise ConfigurationError(
        f"`context` of the surrounding graph is a {type(found).__name__}, which says nothing about evorank. "
        'Give the input field `context` ({} for the defaults), or give that class a field "evorank".'
    )


def _parse(fields: Mapping[str, Any]) -> Context:
    try:
        return Context.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "context"
        live = ("chat_model", "pool", "listeners")
        known = ", ".join(name for name in Context.model_fields if name not in live)
        raise ConfigurationError(
            f"`context.{name}`: {first['msg']}, got {first['input']!r}. Fields are {known}."
        ) from error
