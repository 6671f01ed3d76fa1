"""compute_loss: the proxy signal. Cheap, repeatable, and blind to the north star.

A ladder of effort: static checks, a recent slice of a large log, one full training, then more seeds. Every
rung but the last can only stop a candidate that is clearly *worse* (futility); `better` and `cheaper` are
said by the last rung alone, once, so peeking costs no false positives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evorank.model.errors import RefusedDelta, ToolError
from evorank.model.system import Objective, Phi
from evorank.tools import metrics
from evorank.tools.comparison import MARGIN, Comparison, Effort, Measurement, decide, saving
from evorank.tools.evaluator.executor import Evaluation
from evorank.tools.statistics import Interval, cluster_error, combine, paired_difference
from evorank.tools.workbench import Progress, Workbench

__all__ = ["compute_loss", "final_comparison", "measure", "require_valid"]

FUTILITY = 3.0
"""A rung stops a candidate only this many standard errors beyond the margin."""
METRICS = {"bce": "log_loss", "mse": "mse", "huber": "huber"}


def compute_loss(phi: Phi, bench: Workbench, on_progress: Progress | None = None) -> Comparison:
    """Compare the validation loss of `phi` with production's: same seeds, rows and order.

    The difference is candidate - production in units of the loss ("bce": nats per impression), lower is
    better, with a 95% interval over users and seeds. RefusedDelta where `phi` is invalid or breaks a
    guardrail; ToolError where a training fails, or where `phi` has another label or loss than production
    (losses of different rewards mean different things; use compute_eval).
    """
    tell = on_progress or (lambda message: None)
    objective = _same_objective(phi, bench)
    tell("checking")
    require_valid(phi, bench)
    if bench.has_slice:
        tell("training on a slice")
        futile = _one_seed(phi, bench, objective, "slice")
        if futile is not None:
            return futile
    tell("training in full, seed 0")
    futile = _one_seed(phi, bench, objective, "full")
    if futile is not None:
        return futile
    seeds = list(range(bench.seeds))
    tell(f"training {len(seeds) - 1} more seeds")
    return _compare(phi, bench, objective, seeds, "full")


def final_comparison(phi: Phi, bench: Workbench, seeds: Sequence[int]) -> Comparison:
    """The same comparison on the test period, for final reporting only: the loop must never see its answer.

    Both arms train on the training period, as in the loop, and predict the test period.
    """
    objective = _same_objective(phi, bench)
    if len(set(seeds)) < 2:
        raise ToolError(f"`seeds` must name at least two different seeds, got {list(seeds)}.")
    require_valid(phi, bench)
    return _compare(phi, bench, objective, sorted(set(seeds)), "test")


def require_valid(phi: Phi, bench: Workbench) -> None:
    """RefusedDelta with the findings where Φ is invalid or too large for the surface's guardrails."""
    findings = bench.check(phi)
    if findings:
        raise RefusedDelta(findings)


def measure(
    evaluations: Sequence[Evaluation], bench: Workbench, objective: Objective, effort: Effort
) -> Measurement:
    """All metrics of one arm: means over the seeds, medians of the costs."""
    labels, users = np.asarray(bench.labels(objective, effort)), bench.user_codes(effort)
    positive = metrics.positives(labels, objective.loss)
    train = bench.train_slice(effort)
    cpu = float(np.median([each.train_cpu_seconds for each in evaluations]))

    def mean(values: list[float]) -> float | None:
        value = float(np.mean(values))
        return value if math.isfinite(value) else None

    arms = [each.predictions for each in evaluations]
    return Measurement(
        loss=float(np.mean([metrics.row_losses(p, labels, objective.loss).mean() for p in arms])),
        auc=mean([metrics.auc(p, positive) for p in arms]),
        gauc=mean([metrics.gauc(p, positive, users) for p in arms]),
        ndcg=mean([metrics.ndcg(p, labels, users) for p in arms]),
        calibration=mean([metrics.calibration(p, labels) for p in arms]),
        parameters=evaluations[0].parameters,
        train_cpu_seconds=cpu,
        samples_per_cpu_second=(train.stop - train.start) / max(cpu, 1e-9),
        latency_ms=float(np.median([each.latency_ms for each in evaluations])),
    )


def _same_objective(phi: Phi, bench: Workbench) -> Objective:
    candidate, production = bench.system.objective(phi), bench.system.objective(bench.production)
    if candidate != production:
        raise ToolError(
            f"/reward label {candidate.label!r} with loss {candidate.loss} differs from production's "
            f"{production.label!r} with {production.loss} (factors count too): losses of different rewards "
            "cannot be compared. Use compute_eval."
        )
    return candidate


def _arms(
    phi: Phi, bench: Workbench, candidate: Sequence[int], production: Sequence[int], effort: Effort
) -> tuple[list[Evaluation], list[Evaluation]]:
    """Evaluations of both arms, trained side by side; RefusedDelta if a measured guardrail breaks."""
    wanted = [(phi, seed) for seed in candidate] + [(bench.production, seed) for seed in production]
    found = bench.evaluate_many(wanted, effort)
    ours, theirs = found[: len(candidate)], found[len(candidate) :]
    if effort != "slice":  # a slice is cheaper than what the guardrail is about
        findings = bench.exceeded(
            latency_ms=float(np.median([each.latency_ms for each in ours])),
            train_cpu_seconds=float(np.median([each.train_cpu_seconds for each in ours])),
        )
        if findings:
            raise RefusedDelta(findings)
    return ours, theirs


def _losses(
    evaluations: Sequence[Evaluation], bench: Workbench, objective: Objective, effort: Effort
) -> npt.NDArray[Any]:
    """Loss of every scored row, [seeds, rows]."""
    labels = np.asarray(bench.labels(objective, effort))
    return np.stack([metrics.row_losses(each.predictions, labels, objective.loss) for each in evaluations])


def _one_seed(phi: Phi, bench: Workbench, objective: Objective, effort: Effort) -> Comparison | None:
    """A futility rung: the comparison where the candidate is clearly worse with seed 0, else None.

    How much a difference varies between seeds is known from production, trained with every seed (once, then
    cached): two independent arms, so sqrt(2) times the spread of its mean loss.
    """
    ours, theirs = _arms(phi, bench, [0], range(bench.seeds), effort)
    losses = _losses(theirs, bench, objective, effort)
    spread = math.sqrt(2.0) * float(losses.mean(axis=1).std(ddof=1))
    difference = _losses(ours, bench, objective, effort)[0] - losses[0]
    margin = MARGIN * abs(float(losses.mean()))
    interval = combine(
        float(difference.mean()),
        cluster_error(difference, bench.user_codes(effort)),
        (spread, float(bench.seeds - 1)),
    )
    if interval.estimate <= margin + FUTILITY * interval.error or interval.low <= 0:
        return None
    return _comparison(bench, objective, [0], effort, ours, theirs[:1], interval, stopped=True)


def _compare(
    phi: Phi, bench: Workbench, objective: Objective, seeds: list[int], effort: Effort
) -> Comparison:
    ours, theirs = _arms(phi, bench, seeds, seeds, effort)
    differences = _losses(ours, bench, objective, effort) - _losses(theirs, bench, objective, effort)
    interval = paired_difference(differences, bench.user_codes(effort))
    return _comparison(bench, objective, seeds, effort, ours, theirs, interval)


def _comparison(
    bench: Workbench,
    objective: Objective,
    seeds: list[int],
    effort: Effort,
    ours: Sequence[Evaluation],
    theirs: Sequence[Evaluation],
    interval: Interval,
    stopped: bool = False,
) -> Comparison:
    candidate = measure(ours, bench, objective, effort)
    production = measure(theirs, bench, objective, effort)
    metric, margin = METRICS[objective.loss], MARGIN * abs(production.loss)
    verdict, reason = decide(interval, margin, len(seeds), cheap=saving(ours, theirs), metric=metric)
    if stopped:
        where = "on a slice of the log" if effort == "slice" else "with the first seed"
        reason = f"Stopped {where}: {reason[0].lower()}{reason[1:]}"
    return Comparison(
        metric=metric,
        lower_is_better=True,
        verdict=verdict,
        difference=interval.estimate,
        low=interval.low,
        high=interval.high,
        margin=margin,
        seeds=seeds,
        effort=effort,
        rows=len(ours[0].predictions),
        candidate=candidate,
        production=production,
        reason=reason,
        cpu_seconds=sum(each.cpu_seconds for each in [*ours, *theirs]),
    )
