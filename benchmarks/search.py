"""Is the embedded engineer a good search? Best validation loss at equal budgets, against Optuna and random
search.

    python benchmarks/search.py ../shared/data/ml-100k --budget 40 --repeats 5
    python benchmarks/search.py simulated --json

Every searcher turns the same numeric and categorical part of Φ (optimizer, learning rate, weight decay,
batch size, epochs, schedule, embedding size, width, depth, dropout, activation, norm) and pays one full
training for each Φ, all with the same rows and the same training seed in one repeat. `engineer` works
through the real prompts and knows its playbook; `engineer, schema only` sees a flat system with JSON
Schema bounds and nothing else, as Optuna does; `tpe` and `random` are Optuna's samplers, told the loss of
production as the engineers are. A failed training counts as no improvement.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy import stats

from evorank.graph.choice import SHARES, Past, categories
from evorank.model.delta import apply_delta, diff, fingerprint
from evorank.model.errors import EvorankError, ToolError
from evorank.model.functions import FUNCTIONS
from evorank.model.system import Phi
from evorank.personas.embedded.engineer import EmbeddedEngineer
from evorank.personas.embedded.optimization import SCALES
from evorank.personas.embedded.towers import ACTIVATIONS, Blueprint, draw
from evorank.personas.persona import load_personas
from evorank.prompts import render
from evorank.prompts.answers import Delta, Proposal
from evorank.prompts.briefing import Briefing
from evorank.surfaces.surface import Surface, list_surfaces, open_surface
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.metrics import log_loss
from evorank.tools.workbench import Workbench

MARKS = (5, 10, 20, 40, 80, 160)
POINTERS = [
    "/optimizer/name", "/optimizer/args", "/optimizer/batch_size", "/optimizer/epochs", "/optimizer/schedule",
    "/architecture/embedding_dim", "/architecture/layers",
]  # fmt: skip
PLAIN = ("dense", "layer_norm", "dropout", *ACTIVATIONS)
"""Layer functions of a plain tower: what the flat space below can express."""

FLAT: dict[str, Any] = {
    "optimizer": {"enum": list(SCALES), "description": "optimizer of all weights"},
    "lr": {"type": "number", "minimum": 1e-4, "maximum": 1.0, "description": "learning rate"},
    "weight_decay": {"enum": [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2], "description": "weight decay"},
    "batch_size": {"enum": [128, 256, 512, 1024, 2048, 4096, 8192], "description": "rows of a step"},
    "epochs": {"type": "number", "minimum": 0.25, "maximum": 4, "description": "passes over the log"},
    "schedule": {
        "enum": ["constant", "linear", "cosine", "exponential"],
        "description": "of the learning rate",
    },
    "embedding_dim": {"type": "integer", "minimum": 4, "maximum": 64, "description": "embedding size"},
    "width": {"type": "integer", "minimum": 16, "maximum": 512, "description": "units of a layer"},
    "depth": {"type": "integer", "minimum": 1, "maximum": 4, "description": "layers"},
    "dropout": {"type": "number", "minimum": 0, "maximum": 0.5, "description": "share dropped"},
    "activation": {"enum": list(ACTIVATIONS), "description": "after each layer"},
    "norm": {"enum": ["none", "output", "layers", "both"], "description": "where layer norm stands"},
}
FLAT_PRODUCTION: Phi = {
    "optimizer": "Adagrad", "lr": 0.1, "weight_decay": 0.0, "batch_size": 512, "epochs": 1,
    "schedule": "constant", "embedding_dim": 16, "width": 128, "depth": 2, "dropout": 0.0,
    "activation": "relu", "norm": "output",
}  # fmt: skip
Evaluate = Callable[[Phi], float]


class Task:
    """One log and its production Φ; `loss(phi, seed)` is what a searcher pays for."""

    def __init__(self, bench: Workbench) -> None:
        self.bench, self.production = bench, bench.production
        self.labels = bench.labels(bench.system.objective(self.production))

    def loss(self, phi: Phi, seed: int) -> float:
        findings = self.bench.check(phi)
        if findings:
            raise ToolError(" ".join(map(str, findings)))
        return float(log_loss(self.bench.evaluate(phi, seed).predictions, self.labels))

    def unflattened(self, flat: Phi) -> Phi:
        """The built-in ranker's Φ for a point of the flat space."""
        args = {k: v for k, v in SCALES[flat["optimizer"]].items() if k != "lr"} | {"lr": flat["lr"]}
        if flat["weight_decay"]:
            args["weight_decay"] = flat["weight_decay"]
        plan = Blueprint(
            width=flat["width"], depth=flat["depth"], dropout=flat["dropout"], activation=flat["activation"],
            norm=flat["norm"],
        )  # fmt: skip
        optimizer = self.production["optimizer"] | {
            "name": flat["optimizer"], "args": args, "batch_size": flat["batch_size"],
            "epochs": flat["epochs"], "schedule": {"name": flat["schedule"], "args": {}},
        }  # fmt: skip
        layers = draw(plan, self.bench.dataset.schema)
        return self.production | {
            "optimizer": optimizer,
            "architecture": {"embedding_dim": flat["embedding_dim"], "layers": layers},
        }


def with_optuna(sampler: optuna.samplers.BaseSampler, task: Task, seed: int, budget: int) -> list[float]:
    def objective(trial: optuna.Trial) -> float:
        flat: Phi = {}
        for name, spec in FLAT.items():
            if "enum" in spec:
                flat[name] = trial.suggest_categorical(name, spec["enum"])
            elif spec["type"] == "integer":
                flat[name] = trial.suggest_int(name, spec["minimum"], spec["maximum"], log=name != "depth")
            else:
                log = name in ("lr", "epochs")
                flat[name] = trial.suggest_float(name, spec["minimum"], spec["maximum"], log=log)
        try:
            return task.loss(task.unflattened(flat), seed)
        except ToolError:
            return 10.0

    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(FLAT_PRODUCTION)  # what the engineer knows from the start, and nobody pays for
    study.optimize(objective, n_trials=1 + budget)
    return [float(trial.value or math.inf) for trial in study.trials[1:]]


def with_engineer(task: Task, seed: int, budget: int, flat: bool) -> list[float]:
    """Think, code, apply, train, journal: the offline loop's steps, one at a time, without its retries."""
    engineer = EmbeddedEngineer(seed=seed)
    propose, write = engineer.with_structured_output(Proposal), engineer.with_structured_output(Delta)
    production = FLAT_PRODUCTION if flat else task.production
    evaluate: Evaluate = lambda phi: task.loss(task.unflattened(phi) if flat else phi, seed)  # noqa: E731
    reference = evaluate(production)
    known = {fingerprint(production): production}
    journal: list[dict[str, Any]] = []
    losses = []
    for step in range(budget):
        briefing = _briefing(task, production, production, journal, step, seed, flat)
        proposal = propose.invoke(render.think(briefing))
        base = next((phi for name, phi in known.items() if name.startswith(proposal.base)), production)
        briefing = _briefing(task, production, base, journal, step, seed, flat)
        delta = write.invoke(render.code(briefing, proposal))
        phi = apply_delta(base, [_operation(operation) for operation in delta.patch])
        known[fingerprint(phi)] = phi
        try:
            loss = evaluate(phi)
        except ToolError as error:
            loss, reason = math.inf, str(error)
        else:
            reason = ""
        losses.append(loss)
        journal.append(_attempt(step, proposal, production, base, phi, loss - reference, reason))
    return losses


def _operation(operation: Any) -> dict[str, Any]:
    written = operation.model_dump(mode="json", by_alias=True)
    unused = {"from"} if operation.op not in ("move", "copy") else set()
    unused |= {"value"} if operation.op not in ("add", "replace", "test") else set()
    return {key: value for key, value in written.items() if key not in unused}


def _attempt(
    step: int, proposal: Proposal, production: Phi, base: Phi, phi: Phi, difference: float, reason: str
) -> dict[str, Any]:
    comparison = None
    if math.isfinite(difference):
        comparison = {
            "metric": "log_loss", "lower_is_better": True, "difference": difference, "low": difference,
            "high": difference, "effort": "full",
        }  # fmt: skip
    return {
        "id": str(step), "step": step, "persona": "optimizer", "category": proposal.category,
        "hypothesis": proposal.hypothesis,
        "outcome": "failed" if comparison is None else "better" if difference < 0 else "worse",
        "fingerprint": fingerprint(phi), "base": fingerprint(base), "production": fingerprint(production),
        "changes": diff(production, phi), "comparison": comparison, "reason": reason,
    }  # fmt: skip


def _briefing(
    task: Task, production: Phi, base: Phi, journal: list[dict[str, Any]], step: int, seed: int, flat: bool
) -> Briefing:
    known = [
        Past("optimizer", attempt["category"], None, measured=bool(attempt["comparison"]), turn=True)
        for attempt in journal
    ]
    return Briefing(
        persona=load_personas()["optimizer"],
        surface=task.bench.surface.name,
        description="",
        objectives={str(name): share for name, share in SHARES.items()},
        # The shares as they are: what a bandit would move must not decide between two searchers.
        wanted={categories(known, "optimizer", 1)[0]: 1},
        guardrails=[],
        schema={"type": "object", "properties": FLAT} if flat else task.bench.system.schema(),
        patchable=[f"/{name}" for name in FLAT] if flat else POINTERS,
        production=production,
        production_fingerprint=fingerprint(production),
        base=base,
        base_fingerprint=fingerprint(base),
        log=task.bench.dataset.schema,
        functions={} if flat else {str(FUNCTIONS[name]): FUNCTIONS[name].doc for name in PLAIN},
        journal=journal,
        run="benchmark",
        step=step,
        seed=seed,
    )


SEARCHERS: dict[str, Callable[[Task, int, int], list[float]]] = {
    "engineer": lambda task, seed, budget: with_engineer(task, seed, budget, flat=False),
    "engineer, schema only": lambda task, seed, budget: with_engineer(task, seed, budget, flat=True),
    "tpe": lambda task, seed, budget: with_optuna(optuna.samplers.TPESampler(seed=seed), task, seed, budget),
    "random": lambda task, seed, budget: with_optuna(
        optuna.samplers.RandomSampler(seed=seed), task, seed, budget
    ),
}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95% t interval (nan for one value)."""
    if len(values) < 2:
        return float(np.mean(values)), math.nan
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def table(results: dict[str, list[list[float]]], budget: int) -> str:
    marks = [n for n in MARKS if n <= budget]
    lines = [
        "| searcher | repeats | " + " | ".join(f"best of {n}" for n in marks) + " | minus tpe, paired |",
        "|---|---:|" + "---:|" * (len(marks) + 1),
    ]
    for name, repeats in results.items():
        cells = []
        for n in marks:
            mean, half = interval([min(losses[:n]) for losses in repeats])
            cells.append(f"{mean:.5f} ± {half:.5f}")
        cells.append(_against(repeats, results.get("tpe")) if name != "tpe" else "")
        lines.append(f"| {name} | {len(repeats)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against(repeats: list[list[float]], others: list[list[float]] | None) -> str:
    """Difference of the best losses within each repeat, whose trainings share their seed."""
    if not others:
        return ""
    differences = [min(ours) - min(theirs) for ours, theirs in zip(repeats, others, strict=True)]
    mean, half = interval(differences)
    return f"{mean:+.5f} ± {half:.5f}, lower in {sum(d < 0 for d in differences)} of {len(differences)}"


def _surface(log: str, home: Path) -> Surface:
    path = Path(log)
    if not path.is_dir():
        return open_surface(home, log)
    if path.name in list_surfaces(home):
        return open_surface(home, path.name)
    from evorank.surfaces.importers.recbole import import_recbole

    return import_recbole(path, path.name, home)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", help="a folder of RecBole atomic files, or the name of a surface (simulated)")
    parser.add_argument("--budget", type=int, default=40, help="trainings of each searcher in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS), choices=list(SEARCHERS))
    parser.add_argument("--home", type=Path, default=None, help="keep the log and the cache here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("langchain").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary, LocalPool() as pool:
        home = options.home or Path(temporary)
        try:
            task = Task(Workbench(_surface(options.log, home), pool, home / "cache"))
        except EvorankError as error:
            sys.exit(f"error: {error}")
        started = time.perf_counter()
        production = [task.loss(task.production, seed) for seed in range(options.repeats)]
        jobs = [(name, seed) for seed in range(options.repeats) for name in options.searchers]

        def run(job: tuple[str, int]) -> list[float]:
            losses = SEARCHERS[job[0]](task, job[1], options.budget)
            marks = " ".join(f"{min(losses[:n]):.5f}" for n in MARKS if n <= options.budget)
            print(f"{job[0]}, seed {job[1]}: {marks}", file=sys.stderr, flush=True)
            return losses

        with ThreadPoolExecutor(2) as threads:
            losses = dict(zip(jobs, threads.map(run, jobs), strict=True))
        results = {name: [losses[name, s] for s in range(options.repeats)] for name in options.searchers}
        seconds = time.perf_counter() - started
    if options.json:
        print(
            json.dumps({"log": options.log, "production": production, "losses": results, "seconds": seconds})
        )
    else:
        print(f"{options.log}: production {np.mean(production):.5f}, {seconds / 60:.1f} minutes\n")
        print(table(results, options.budget))


if __name__ == "__main__":
    main()
