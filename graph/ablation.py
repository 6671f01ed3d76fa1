"""ablation: does it matter? Independent runs of the offline loop that differ in one thing.

Every run has a home of its own, HOME/ablations/STUDY-.../VARIANT/SEED, so no run learns from another; the
surface and the cache of trainings are shared, so the same Φ is trained once for all. Runs with the same seed
are a pair. A run that was interrupted, or is asked for more ideas, goes on.

A loss is told as a share of production's on the same seeds and rows: 1 is production, lower is better. The
best idea of a run is chosen on the validation period, so its loss there is flattered (the winner's curse);
the test period, with seeds that no choice was made on, is not.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evorank.graph import offline
from evorank.graph.chats import require_models
from evorank.graph.context import Context, Session, open_session
from evorank.graph.plan import NOT_RECORDED, write
from evorank.graph.state import Attempt, Usage
from evorank.graph.studies import Study, Variant, variants
from evorank.model.errors import ChatModelError, EvorankError, RefusedDelta, ToolError
from evorank.model.system import Phi
from evorank.surfaces.surface import open_surface
from evorank.tools.compute_loss import final_comparison, measure
from evorank.tools.statistics import t_quantile
from evorank.tools.workbench import Workbench

__all__ = ["Ablation", "Estimate", "Line", "Score", "Unfinished", "ablate", "line_of"]

TEST_SEEDS = 4
"""Trainings of the best idea of a run, and of production, for the test period."""
FREE = NOT_RECORDED | {
    "max_usd",
    "max_tokens",
    "max_minutes",
    "max_cpu_seconds",
    "max_calls",
    "seed",
    "store",
}
"""Fields of a context that may change while an ablation goes on: another seed is another run of it."""
ONE_PER_CORE: dict[str, Any] = {"parallel": 1, "proposals": "1", "insight_every": 0, "queries": 0}
"""Each idea sees all that came before it, and nothing but the journal tells of it."""

Event = Mapping[str, Any]


class Unfinished(EvorankError):  # noqa: N818 - no malfunction
    """An ablation ended before its last run. `reason`: "interrupted", or as OfflineOutput.stopped has it."""

    def __init__(self, reason: str, folder: Path) -> None:
        super().__init__(f"{reason}. The same command goes on; what is done lies in {folder}.")
        self.reason = reason


class Score(BaseModel):
    """What one run found."""

    model_config = ConfigDict(extra="forbid")
    variant: str
    seed: int
    losses: list[float | None]
    """Validation loss of each idea over production's; None: it was refused, or failed."""
    test: float | None = None
    """The same of its best idea on the test period; 1 where no idea was better than production; None where
    the best could not be scored there."""
    outcomes: dict[str, int] = Field(default_factory=dict)
    usage: Usage = Field(default_factory=Usage)

    @property
    def best(self) -> list[float]:
        """After each idea the lowest loss so far: production's at first."""
        return list(accumulate((1.0 if loss is None else loss for loss in self.losses), min, initial=1.0))[1:]

    @property
    def mean(self) -> float | None:
        """Over the ideas that have a loss."""
        known = [loss for loss in self.losses if loss is not None]
        return float(np.mean(known)) if known else None

    @property
    def measured(self) -> float:
        """Share of the ideas that have one."""
        return sum(loss is not None for loss in self.losses) / len(self.losses)


class Estimate(BaseModel):
    """A mean over independent runs, with Student's 95% interval where there are two or more."""

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean=mean)
        half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
        return cls(mean=mean, low=mean - half, high=mean + half)


class Line(BaseModel):
    """One variant. Losses over production's, lower is better; `minus_*`: less the first variant's, run by run
    with the same seed."""

    variant: str
    runs: int
    best: Estimate
    """Validation loss of the best of all ideas."""
    minus_best: Estimate | None = None
    test: Estimate | None = None
    """Of that idea on the test period."""
    minus_test: Estimate | None = None
    ideas: Estimate | None = None
    """Mean validation loss of all ideas that have one."""
    measured: float
    """Share of ideas that have a loss; the others were refused or failed."""
    outcomes: dict[str, int]
    usage: Usage
    curve: list[Estimate]
    """Best so far, after each idea."""


class Ablation(BaseModel):
    """What an ablation found, as `results.json` keeps it."""

    study: Study
    surface: str
    ideas: int
    runs: int
    model: str
    production: str
    data_version: str
    folder: str
    lines: list[Line]
    scores: list[Score]


def ablate(
    study: Study,
    context: Context,
    *,
    runs: int,
    ideas: int,
    together: int = 2,
    on_event: Callable[[Event], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Ablation:
    """Carry out what is missing of a study, `together` runs at once, and compare its variants.

    Budgets of `context` hold for each run. Raises ConfigurationError where the study cannot be made,
    Unfinished where it was interrupted (`stop`) or a budget was spent, ChatModelError where a model does not
    answer.
    """
    compared = variants(study, context)
    for each in compared:  # what one of them lacks is told before another one trains
        require_models(context.model_copy(update=each.settings))
    surface = open_surface(context.home_path(), context.surface)
    bench = open_session(context).workbench
    told = {"study": study, "production": bench.production, "data": bench.dataset.key}
    asked = {key: value for key, value in context.model_dump(mode="json").items() if key not in FREE}
    digest = hashlib.sha256(json.dumps(told | asked, sort_keys=True).encode()).hexdigest()[:8]
    folder = context.home_path() / "ablations" / f"{study}-{digest}"
    stop = stop or threading.Event()

    def one(place: tuple[int, Variant]) -> Score:
        number, variant = place
        if stop.is_set():
            raise Unfinished("interrupted", folder)
        try:
            return _run(variant, _own(context, variant, number, folder), ideas, on_event, stop)
        except BaseException:
            stop.set()  # nobody looks at a table with a hole: the other runs finish their idea, and end
            raise

    places = [(number, variant) for number in range(runs) for variant in compared]
    pool = ThreadPoolExecutor(max_workers=together)
    try:
        scores = _first_error(pool.map(_kept(one), places))
    finally:  # at once, where a second Ctrl-C ends it: who closes the sessions ends the trainings
        pool.shutdown(wait=False, cancel_futures=True)
    lines = [line_of(each.name, scores, compared[0].name) for each in compared]
    found = Ablation(
        study=study,
        surface=surface.name,
        ideas=ideas,
        runs=runs,
        model=context.model or "embedded",
        production=open_session(context).production_fingerprint,
        data_version=bench.dataset.key,
        folder=str(folder),
        lines=lines,
        scores=scores,
    )
    write(folder / "results.json", found.model_dump_json(indent=2))
    return found


def _kept(one: Callable[[tuple[int, Variant]], Score]) -> Callable[[tuple[int, Variant]], Score | Exception]:
    """The same, with an error as its answer: all runs end before one of them is told."""

    def kept(place: tuple[int, Variant]) -> Score | Exception:
        try:
            return one(place)
        except Exception as error:
            return error

    return kept


def _first_error(answers: Iterable[Score | Exception]) -> list[Score]:
    """The scores, or the error that says most: others were only told to stop."""
    found = list(answers)
    errors = [each for each in found if isinstance(each, Exception)]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, Unfinished) and error.reason == "interrupted")
    return [each for each in found if isinstance(each, Score)]


def _own(context: Context, variant: Variant, number: int, folder: Path) -> Context:
    """The context of one run, and its home: empty but for links to the surface and to the cache."""
    shared, seed = context.home_path(), context.seed + number
    home = folder / re.sub(r"[^A-Za-z0-9._-]+", "-", variant.name) / str(seed)
    home.mkdir(parents=True, exist_ok=True)
    (shared / "cache").mkdir(exist_ok=True)
    for name in ("surfaces", "cache"):
        if not (home / name).is_symlink():
            (home / name).symlink_to(shared / name, target_is_directory=True)
    personas = Path(context.persona_folder or shared / "personas").expanduser()
    if variant.persona_files:
        personas = home / "personas"
        personas.mkdir(exist_ok=True)
        for name, text in variant.persona_files.items():
            (personas / name).write_text(text, encoding="utf-8")
    own = ONE_PER_CORE | {"home": str(home), "seed": seed, "trackers": [], "store": None}
    if personas.is_dir():
        own["persona_folder"] = str(personas)
    return context.model_copy(update=own | variant.settings)


def _run(
    variant: Variant, context: Context, ideas: int, on_event: Callable[[Event], None], stop: threading.Event
) -> Score:
    """Carry out a run, or what is left of it, and score it. Raises as `ablate`."""
    home = context.home_path()
    name = f"{home.parent.name}-{context.seed}"
    told = {"variant": variant.name, "seed": context.seed}
    path = home / "score.json"
    if path.exists():
        score = Score.model_validate_json(path.read_text(encoding="utf-8"))
        if len(score.losses) == ideas:
            on_event({"event": "scored", "ideas": ideas, "best": score.best[-1]} | told)
            return score
    session = open_session(context)
    session.chats.desk.budget.begin()
    ended: Mapping[str, Any] = {}
    events: Any = offline.graph.stream(
        {"steps": ideas, "run": name},
        {"recursion_limit": 10 * ideas + 100},
        context=context,
        stream_mode=["values", "custom"],
        subgraphs=True,
    )
    for inside, mode, event in events:
        if stop.is_set():
            session.request_stop("interrupted")
        if mode == "values" and not inside:
            ended = event
        elif mode == "custom" and event.get("event") == "attempt":
            on_event({"event": "idea", "outcome": event["outcome"]} | told)
    reason = ended.get("stopped")
    if reason and str(reason).startswith("chat model"):
        raise ChatModelError(f"{reason} (variant {variant.name}, seed {context.seed})")
    attempts = sorted(session.journal.attempts(run=name), key=lambda attempt: attempt.step)[:ideas]
    if len(attempts) < ideas:
        raise Unfinished(str(reason or "interrupted"), home.parent.parent)
    score = _score(variant.name, attempts, session)
    write(path, score.model_dump_json(indent=2))
    on_event({"event": "scored", "ideas": ideas, "best": score.best[-1]} | told)
    return score


def _score(variant: str, attempts: Sequence[Attempt], session: Session) -> Score:
    losses: list[float | None] = []
    known: dict[str | None, float | None] = {session.production_fingerprint: 1.0}
    for attempt in attempts:
        if attempt.fingerprint not in known or attempt.comparison:
            known[attempt.fingerprint] = _relative(attempt, session) if attempt.fingerprint else None
        losses.append(known[attempt.fingerprint])
    outcomes = [attempt.outcome for attempt in attempts]
    return Score(
        variant=variant,
        seed=session.context.seed,
        losses=losses,
        test=_tested(attempts, losses, session),
        outcomes={each: outcomes.count(each) for each in dict.fromkeys(sorted(outcomes))},
        usage=sum((attempt.usage for attempt in attempts), Usage()),
    )


def _relative(attempt: Attempt, session: Session) -> float | None:
    """Validation loss of a candidate over production's, on the same seeds; None where it has none."""
    if attempt.comparison:
        return float(attempt.comparison["candidate"]["loss"]) / float(
            attempt.comparison["production"]["loss"]
        )
    if attempt.outcome != "worse" or attempt.phi is None:
        return None
    # Its training was given up on the way. It is trained to its end, in a cache of its own, so that a run
    # beside this one finds what it would find alone.
    bench = session.workbench
    apart = Workbench(bench.surface, bench.executor, session.home / "to-the-end", bench.seeds)
    try:
        (theirs,) = bench.evaluate_many([(bench.production, 0)])
        (ours,) = apart.evaluate_many([(attempt.phi, 0)], again=True)
    except ToolError:  # it diverges
        return None
    finally:
        apart.close()
    objective = bench.system.objective(bench.production)
    loss = [measure([each], bench, objective, "full").loss for each in (ours, theirs)]
    return loss[0] / loss[1]


def _tested(attempts: Sequence[Attempt], losses: Sequence[float | None], session: Session) -> float | None:
    """Test loss of the best idea over production's."""
    ranked = sorted((loss, place) for place, loss in enumerate(losses) if loss is not None and loss < 1.0)
    if not ranked:
        return 1.0
    phi: Phi | None = attempts[ranked[0][1]].phi
    assert phi is not None
    first = 1000 * (1 + session.context.seed)
    try:
        found = final_comparison(phi, session.workbench, range(first, first + TEST_SEEDS))
    except (RefusedDelta, ToolError):
        return None
    return found.candidate.loss / found.production.loss


def line_of(variant: str, scores: Sequence[Score], baseline: str) -> Line:
    """What a variant's runs found together, and less what those of `baseline` found with the same seeds."""
    own = [score for score in scores if score.variant == variant]
    first = {score.seed: score for score in scores if score.variant == baseline}
    others = variant != baseline
    tested = [score.test for score in own if score.test is not None]
    pairs = [(score, first[score.seed]) for score in own]
    both = [(a.test, b.test) for a, b in pairs if a.test is not None and b.test is not None]
    means = [score.mean for score in own if score.mean is not None]
    outcomes = sorted({name for score in own for name in score.outcomes})
    return Line(
        variant=variant,
        runs=len(own),
        best=Estimate.of([score.best[-1] for score in own]),
        minus_best=Estimate.of([a.best[-1] - b.best[-1] for a, b in pairs]) if others else None,
        test=Estimate.of(tested) if tested else None,
        minus_test=Estimate.of([a - b for a, b in both]) if others and both else None,
        ideas=Estimate.of(means) if means else None,
        measured=float(np.mean([score.measured for score in own])),
        outcomes={name: sum(score.outcomes.get(name, 0) for score in own) for name in outcomes},
        usage=sum((score.usage for score in own), Usage()),
        curve=[Estimate.of(values) for values in zip(*(score.best for score in own), strict=True)],
    )
