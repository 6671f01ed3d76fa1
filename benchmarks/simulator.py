"""Is the simulated world a world in which proxies mislead, and in which every part of Φ matters? All of
docs/simulator.md.

    python benchmarks/simulator.py --gap --headroom --validation --grid --speed --json      # about 20 minutes
    python benchmarks/simulator.py --gap --preset shorts --users 2000

`gap`: what ranking by a true expectation does to clicks and to active days. `headroom`: what a trained ranker
gains by each part of Φ, its logs made by its own production. `validation`: marginal rates, sessions, A/A,
and planted effects recovered. `grid`: whether the gap hangs on a parameter. `speed`: impressions per second.
Differences are paired over users (common random numbers); intervals are 95%.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from evorank.model.data import Dataset
from evorank.model.delta import apply_delta
from evorank.model.logs.encode import encode
from evorank.model.logs.spec import Split
from evorank.model.ranker import NeuralRanker
from evorank.model.system import Phi, Weights
from evorank.surfaces.simulated import policies
from evorank.surfaces.simulated.live import LiveEncoder
from evorank.surfaces.simulated.logs import LogWriter
from evorank.surfaces.simulated.parameters import WorldParameters
from evorank.surfaces.simulated.policies import Counting, Greedy, Oracle, Random
from evorank.surfaces.simulated.presets import PRESETS, Preset
from evorank.surfaces.simulated.traffic import CandidateRows, DayReport, LogSink, Policy, Sinks
from evorank.surfaces.simulated.world import World, everybody
from evorank.tools.metrics import log_loss

FORMULAS = {
    "click (true)": policies.clicks,
    "watch time (true)": policies.watch_time,
    "watch share (true)": policies.watch_share,
    "composed (true)": policies.composed,
    "joy: the ceiling": policies.joyful,
}
TOWER = {"h1": "relu(dense(inputs, 128))", "h2": "relu(dense(h1, 128))"}


@dataclass
class Outcome:
    """What came of some days under one policy."""

    days: np.ndarray
    """Active days of each user."""
    totals: dict[str, float]
    concentration: float

    def row(self, name: str, base: Outcome | None = None) -> dict[str, object]:
        t, shown = self.totals, self.totals["impressions"]
        row = {
            "policy": name,
            "CTR": t["clicks"] / shown,
            "watch s / impression": t["watch_s"] / shown,
            "dislikes / 1000": 1000 * t["hates"] / shown,
            "impressions / session": shown / t["sessions"],
            "top 5% creators": self.concentration,
            "satisfied s / user": t["satisfied_s"] / len(self.days),
            "active days": float(self.days.mean()),
        }
        if base is not None:
            row |= difference(self.days, base.days)
        return row


def difference(days: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Relative difference of active days, paired over users, in percent, and half of its interval."""
    paired = days - base
    return {
        "difference %": 100 * float(paired.mean() / base.mean()),
        "±": 196 * float(paired.std() / np.sqrt(len(paired)) / base.mean()),
    }


def live(world: World, policy: Policy, days: int, sink: LogSink | None = None) -> Outcome:
    """`days` more days of `world`, which is used up."""
    active = np.zeros(world.parameters.population.users)
    totals: dict[str, float] = {}
    authors = np.zeros(world.parameters.catalogue.authors, np.int64)
    for _ in range(days):
        report = world.step_day(everybody(), [policy], sink)
        active[report.users["user_id"] - world.people.user_id[0]] += 1
        for name in report.users:
            if name not in ("user_id", "arm"):
                totals[name] = totals.get(name, 0.0) + report.total(name)
        authors += report.authors[0]
    whole = DayReport(0, world.date, {}, authors[None])
    return Outcome(active, totals, whole.creator_concentration())


# --------------------------------------------------------------------------- the gap


def gap(parameters: WorldParameters, seed: int, days: int) -> Iterator[dict[str, object]]:
    """Random, counted clicks, and every oracle, each from day 0 of the same world."""
    base = live(World(parameters, seed), Random(), days)
    yield base.row("random")
    counting = Counting()
    yield live(World(parameters, seed), counting, days, counting).row("click (counted)", base)
    for name, formula in FORMULAS.items():
        world = World(parameters, seed)
        yield live(world, Oracle(world, formula), days).row(name, base)


# --------------------------------------------------------------------------- headroom of a trained ranker


class Trained:
    """A trained ranker as a policy, in this process: a benchmark trusts its own network."""

    exploration = 0.0

    def __init__(self, system: NeuralRanker, phi: Phi, weights: Weights, encoder: LiveEncoder) -> None:
        self.system, self.phi, self.weights, self.encoder = system, phi, weights, encoder

    def score(self, rows: CandidateRows) -> np.ndarray:
        return self.system.predict(self.phi, self.weights, self.encoder.encode(rows)).reshape(rows.shape)


def put(path: str, value: object) -> dict[str, object]:
    return {"op": "add", "path": path, "value": value}


OPTIMIZER = [
    put("/optimizer/name", "Adam"),
    put("/optimizer/args", {"lr": 0.001}),
    put("/optimizer/embedding", {"name": "Adagrad", "args": {"lr": 0.1}}),
]
DOTS = [
    put(
        "/architecture/layers/output",
        "dense(layer_norm(h2), 1) + dot(tag, mean(watched_tags)) + dot(user_id, tag)",
    )
]
WATCHED = [put("/reward/label", "clicked * watched")]
ENGAGED = [
    put(
        "/reward/factors/good",
        "LEAST(0.6 * watched + 0.5 * is_like + 0.5 * is_forward + 0.5 * active_engagement, 1) "
        "* (1 - is_hate)",
    ),
    put("/reward/label", "clicked * good"),
]
COMPOSED = [
    put("/reward/factors/deliberate", "0.5 * (is_like + is_forward + active_engagement)"),
    put("/reward/factors/joy", "watched - 0.5 + deliberate - 2 * is_hate"),
    put("/reward/label", "GREATEST(0, LEAST(1, 0.4 + 0.5 * clicked * joy))"),
]
ARMS: dict[str, list[dict[str, object]]] = {
    "production": [],
    "optimizer: Adam, tables Adagrad": OPTIMIZER,
    "optimizer: the same, batch 256": [*OPTIMIZER, put("/optimizer/batch_size", 256)],
    "architecture: two dot products": DOTS,
    "reward: click x watched": WATCHED,
    "reward: the same, and active engagement": ENGAGED,
    "reward: composed, regret counts against": COMPOSED,
    "optimizer + architecture": [*OPTIMIZER, *DOTS],
    "all three": [*OPTIMIZER, *DOTS, *COMPOSED],
}


def trained(
    dataset: Dataset, preset: Preset, patch: list[dict[str, object]], seed: int
) -> tuple[Trained, float]:
    """A Φ trained on the training period, and its validation loss on its own label."""
    system = NeuralRanker(dataset.schema, preset.production)
    phi = apply_delta(copy.deepcopy(preset.production), patch, ["/optimizer", "/architecture", "/reward"])
    if findings := system.check(phi):
        raise SystemExit(f"not valid: {findings}")
    labels = dataset.labels(system.objective(phi))
    weights = system.fit(phi, dataset.rows("train"), labels[dataset.bounds["train"]], seed)
    predicted = system.predict(phi, weights, dataset.rows("validation"))
    loss = log_loss(predicted, labels[dataset.bounds["validation"]])
    return Trained(system, phi, weights, LiveEncoder(dataset)), loss


def history(
    preset: Preset, parameters: WorldParameters, seed: int, folder: Path, days: int
) -> tuple[World, Dataset]:
    """A world with its log: counted clicks for a third of `days`, then production trained on these; a tenth
    of the sessions at random throughout."""
    world, counting, first = World(parameters, seed), Counting(), max(4, days // 3)

    def log_of(name: str) -> LogWriter:
        return LogWriter(folder / name / "log")

    def dataset(name: str) -> Dataset:
        log_of(name).begin_day(world.date, world.users_active(world.day))
        spec = preset.surface("benchmark").log.based_at(folder / name)
        spec = spec.model_copy(update={"split": Split(train=0.85, validation=0.1)})
        return encode(spec, folder / name / "data")

    live(world, Random(), 2, Sinks([log_of("first"), counting]))
    live(world, Greedy(counting, 0.1), first - 2, Sinks([log_of("first"), counting]))
    production, _ = trained(dataset("first"), preset, [], seed)
    sinks = Sinks([log_of("second"), production.encoder])
    live(world, Greedy(production, 0.1), days - first, sinks)
    return world, dataset("second")


def headroom(
    name: str, parameters: WorldParameters, seed: int, days: int, seeds: int, before: int
) -> Iterator[dict[str, object]]:
    """Every arm trained on the same log and serving the same days of the same world."""
    preset = PRESETS[name]
    with tempfile.TemporaryDirectory() as folder:
        world, dataset = history(preset, parameters, seed, Path(folder), before)
        yield {
            "log": {"rows": len(dataset), "training rows": dataset.schema.training_rows} | user_level(dataset)
        }
        base: np.ndarray | None = None
        arms: dict[str, list[Policy | None]] = {arm: [None] * seeds for arm in ARMS}
        for arm in [*arms, "random", "joy: the ceiling"]:
            outcomes, losses = [], []
            for number in range(seeds if arm in ARMS else 1):
                twin = world.copy()
                if arm in ARMS:
                    policy, loss = trained(dataset, preset, ARMS[arm], number)
                    losses.append(loss)
                    outcomes.append(live(twin, policy, days, policy.encoder))
                else:
                    other = Random() if arm == "random" else Oracle(twin, policies.joyful)
                    outcomes.append(live(twin, other, days))
            mean = Outcome(
                np.mean([each.days for each in outcomes], axis=0),
                {key: float(np.mean([o.totals[key] for o in outcomes])) for key in outcomes[0].totals},
                float(np.mean([each.concentration for each in outcomes])),
            )
            base = mean.days if base is None else base
            row = mean.row(arm) | difference(mean.days, base)
            yield row | {"loss": float(np.mean(losses)) if losses else None}


def user_level(dataset: Dataset) -> dict[str, float]:
    """In the log itself: correlation over users (30 impressions or more) of click rate and active days."""
    with dataset.connect("test") as connection:
        found = connection.execute(
            "SELECT corr(rate, days), count(*) FROM (SELECT avg(is_click) AS rate, "
            "count(DISTINCT day) AS days FROM log GROUP BY user_id HAVING count(*) >= 30)"
        ).fetchone()
    return {
        "correlation of click rate and active days over users": found[0],
        "users of 30 impressions": found[1],
    }


# --------------------------------------------------------------------------- validation


class Collected:
    """Columns of everything that happened."""

    def __init__(self) -> None:
        self.blocks: list[dict[str, np.ndarray]] = []

    def begin_day(self, day: object, active: np.ndarray) -> None: ...
    def end_day(self) -> None: ...
    def write(self, columns: dict[str, np.ndarray]) -> None:
        self.blocks.append(dict(columns))


def validation(parameters: WorldParameters, seed: int, days: int) -> Iterator[dict[str, object]]:
    counting, log = Counting(), Collected()
    world = World(parameters, seed)
    served = live(world, Greedy(counting, 0.1), days, Sinks([log, counting]))
    c = {name: np.concatenate([block[name] for block in log.blocks]) for name in log.blocks[0]}
    clicked = c["is_click"] == 1
    rates = {name: float(c[name].mean()) for name in ("is_click", "long_view", "is_rand")}
    acts = ("is_like", "is_hate", "is_forward", "is_follow", "is_comment", "active_engagement")
    rates |= {f"{name} given click": float(c[name][clicked].mean()) for name in acts}
    asked = c["survey_score"][c["survey_score"] > 0]
    age = c["video_age_days"]
    yield {"marginal rates (counted clicks)": rates}
    sessions = np.unique(np.stack([c["user_id"], c["time_ms"]]), axis=1, return_counts=True)[1]
    per_user = np.bincount(c["user_id"], minlength=parameters.population.users)
    yield {
        "shape": {
            "impressions of a session, quartiles": np.quantile(sessions, [0.25, 0.5, 0.75]).tolist(),
            "impressions of a user, deciles 1 5 9": np.quantile(per_user, [0.1, 0.5, 0.9]).tolist(),
            "active days, deciles 1 5 9": np.quantile(served.days, [0.1, 0.5, 0.9]).tolist(),
            "impressions of videos of today": float((age == 0).mean()),
            "watched share given click, quartiles": np.quantile(
                (c["play_time_ms"] / c["duration_ms"])[clicked], [0.25, 0.5, 0.75]
            ).tolist(),
            "click rate by position, 0 4 9": [
                float(c["is_click"][(c["position"] == k) & (c["is_rand"] == 1)].mean())
                for k in (0, 4, min(9, parameters.feed.slate - 1))
            ],
            "surveys answered / 1000 clicks": 1000 * len(asked) / clicked.sum(),
            "survey scores 1 to 5": (np.bincount(asked, minlength=6)[1:] / max(len(asked), 1)).tolist(),
        }
    }
    yield experiments(parameters, seed, days)


def experiments(parameters: WorldParameters, seed: int, days: int, draws: int = 2000) -> dict[str, object]:
    """Users do not interfere, so the runs of two policies are both potential outcomes of every user: an A/B
    test is a choice of one for each."""
    worlds = [World(parameters, seed) for _ in range(3)]
    a = live(worlds[0], Random(), days).days
    b = live(worlds[1], Oracle(worlds[1], policies.watch_time), days).days
    # That this holds is tested, and shown once more here: a real A/B run equals the choice.
    real, arms = np.zeros(len(a)), [Random(), Oracle(worlds[2], policies.watch_time)]
    for _ in range(days):
        report = worlds[2].step_day(lambda ids: ids % 2, arms)
        real[report.users["user_id"]] += 1
    chosen = np.where(np.arange(len(a)) % 2 == 1, b, a)
    rng, truth = np.random.default_rng(0), float((b - a).mean())
    false, covered, estimates = 0, 0, []
    for _ in range(draws):
        treated = rng.random(len(a)) < 0.5
        null, error = welch(a[treated], a[~treated])
        false += abs(null) > 1.96 * error
        effect, error = welch(b[treated], a[~treated])
        covered += abs(effect - truth) <= 1.96 * error
        estimates.append(effect)
    return {
        "experiments": {
            "A/B run equals potential outcomes": bool(np.array_equal(real, chosen)),
            "A/A: |t| > 1.96": false / draws,
            "planted effect, active days": truth,
            "mean of its estimates": float(np.mean(estimates)),
            "its 95% intervals that cover it": covered / draws,
        }
    }


def welch(treated: np.ndarray, control: np.ndarray) -> tuple[float, float]:
    """Difference of means and its standard error."""
    error = np.sqrt(treated.var(ddof=1) / len(treated) + control.var(ddof=1) / len(control))
    return float(treated.mean() - control.mean()), float(error)


# --------------------------------------------------------------------------- parameters


def grid(parameters: WorldParameters, seed: int, days: int) -> Iterator[dict[str, object]]:
    """One number at a time, well to both sides."""
    p = parameters
    click, joy = p.response.click, p.response.joy

    def times(values: tuple[float, ...], place: int, factor: float) -> tuple[float, ...]:
        return tuple(v * factor if i == place else v for i, v in enumerate(values))

    changes: dict[str, dict[str, dict[str, object]]] = {"as it is": {}}
    for factor in (0.7, 1.3):
        changes |= {
            f"pull x {factor}": {"returning": {"pull": p.returning.pull * factor}},
            f"taste x {factor}": {"response": {"affinity": p.response.affinity * factor}},
            f"bait in clicks x {factor}": {"response": {"click": times(click, 2, factor)}},
            f"bait in joy x {factor}": {"response": {"joy": times(joy, 3, factor)}},
            f"quality in joy x {factor}": {"response": {"joy": times(joy, 2, factor)}},
        }
    changes |= {
        "memory 0.1": {"returning": {"memory": 0.1}},
        "memory 0.4": {"returning": {"memory": 0.4}},
        "no gating, no mood": {"feed": {"gating": 0.0, "mood": 0.0}},
        "gating 0.8": {"feed": {"gating": 0.8}},
        "12 candidates": {"feed": {"candidates": 12}},
        "44 candidates": {"feed": {"candidates": 44}},
        "no fatigue": {"response": {"fatigue": 0.0}},
        "fatigue x 2": {"response": {"fatigue": p.response.fatigue * 2}},
        "no boredom": {"response": {"boredom": 0.0}},
        "bait independent of quality": {"catalogue": {"bait_against_quality": 0.0}},
        "drift x 4": {"population": {"drift": min(1.0, p.population.drift * 4)}},
    }
    for name, change in changes.items():
        base, *others = gap(parameters.changed(**change), seed, days)
        found = {str(row["policy"]): row for row in others}
        yield {
            "world": name,
            "CTR of click / random": found["click (true)"]["CTR"] / base["CTR"],
            **{each: found[each]["difference %"] for each in FORMULAS if each != "watch share (true)"},
        }


def speed(parameters: WorldParameters, seed: int) -> Iterator[dict[str, object]]:
    """A week under policies that cost little, so that it is the world that is measured."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("random", "an oracle", "counted clicks", "random, with a log on disk"):
            world, counting = World(parameters, seed), Counting()
            policy = {"an oracle": Oracle(world, policies.composed), "counted clicks": counting}.get(
                name, Random()
            )
            sink = {"counted clicks": counting, "random, with a log on disk": LogWriter(Path(folder))}.get(
                name
            )
            start = time.process_time()
            shown = live(world, policy, 7, sink).totals["impressions"]
            pace = shown / (time.process_time() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            yield {"policy": name, "impressions / CPU-second": pace, "peak resident MB so far": peak}


# --------------------------------------------------------------------------- showing


def show(title: str, rows: Iterator[dict[str, object]], as_json: bool) -> None:
    if not as_json:
        print(f"\n## {title}\n")
    header: list[str] = []
    for row in rows:
        if as_json:
            print(json.dumps({"part": title} | row), flush=True)
            continue
        if len(row) == 1 and isinstance(next(iter(row.values())), dict):
            ((name, facts),) = row.items()
            print(f"{name}:", *(f"- {key}: {number(value)}" for key, value in facts.items()), sep="\n")
            continue
        if list(row) != header and len(row) > len(header):
            header = list(row)
            if title.startswith("gap"):  # the first row is what the others are compared with
                header += ["difference %", "±"]
            print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
        print("| " + " | ".join(number(row.get(name, "")) for name in header) + " |", flush=True)


def number(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(number, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("gap", "headroom", "validation", "grid", "speed")
    for part in parts:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument(
        "--preset", action="append", choices=sorted(PRESETS), help="default: each for gap, else home"
    )
    parser.add_argument("--users", type=int, help="fewer (or more) than the preset has")
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--before", type=int, default=24, help="days of log before the headroom is measured")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each arm of headroom")
    parser.add_argument("--seed", type=int, default=0, help="of the world")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    wanted = [part for part in parts if getattr(given, part)] or list(parts)
    for part in wanted:
        for name in given.preset or (list(PRESETS) if part == "gap" else ["home"]):
            p = PRESETS[name].parameters
            if given.users:
                p = p.changed(population={"users": given.users})
            rows = {
                "gap": lambda p=p: gap(p, given.seed, given.days),
                "headroom": lambda p=p, name=name: headroom(
                    name, p, given.seed, given.days, given.seeds, given.before
                ),
                "validation": lambda p=p: validation(p, given.seed, given.days),
                "grid": lambda p=p: grid(p, given.seed, given.days),
                "speed": lambda p=p: speed(p, given.seed),
            }[part]()
            show(f"{part}: {name}", rows, given.json)


if __name__ == "__main__":
    main()
