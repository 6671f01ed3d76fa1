"""compute_loss: the proxy signal. Cheap, repeatable, and blind to the north star.

A ladder of effort: static checks, a recent slice of a large log, one full training, half of the seeds, then
all of them. Every rung but the last can only give a candidate up (clearly worse, or not looking better by
then); `better` and `cheaper` are said by the last rung alone, once, so peeking costs no false positives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evorank.model.errors import RefusedDelta, ToolError
from evorank.model.system import Objective, Phi
from evorank.tools import metrics
from evorank.tools.comparison import (
    CHEAPER,
    MARGIN,
    Comparison,
    Difference,
    Effort,
    Measurement,
    decide,
    saving,
)
from evorank.tools.evaluator.executor import Evaluation
from evorank.tools.paired import paired_metrics
from evorank.tools.statistics import Interval, cluster_error, combine, paired_difference
from evorank.tools.workbench import Progress, Spending, Workbench

__all__ = ["compute_loss", "final_comparison", "measure", "require_affordable", "require_valid"]

FUTILITY = 3.0
"""A one-seed rung stops a candidate only this many standard errors beyond the margin."""
PROMISING = 0.5
"""Half of the seeds must show this many standard errors of improvement. Below it, all of them would end with
`better` in 1 to 2% of cases, were the estimate true (conditional power; Lan & Wittes 1988)."""
CERTAIN = 3.0
"""Times a guardrail's bound: what breaks it by more is not trained again to be sure."""
SHORTEST = 0.1
"""CPU-seconds: below it, a ratio of training times is a ratio of moods of the machine."""
METRICS = {"bce": "log_loss", "mse": "mse", "huber": "huber"}


def compute_loss(phi: Phi, bench: Workbench, on_progress: Progress | None = None) -> Comparison:
    """Compare the validation loss of `phi` with production's: same seeds, rows and order.

    The difference is candidate - production in units of the loss ("bce": nats per impression), lower is
    better, with a 95% interval over users and seeds. RefusedDelta where `phi` is invalid or breaks a
    guardrail; Stopped where a training was given up as clearly worse; ToolError where one fails, or where
    `phi` has another label or loss than production (losses of different rewards mean different things; use
    compute_eval). Their `cpu_seconds` say what was spent until then.
    """
    tell = on_progress or (lambda message: None)
    objective = _same_objective(phi, bench)
    tell("checking")
    require_valid(phi, bench)
    with Spending(bench) as spending:
        return _climb(_Ladder(phi, spending, objective), tell)


def _climb(ladder: _Ladder, tell: Progress) -> Comparison:
    bench = ladder.bench
    if bench.has_slice:
        tell("training on a slice")
        futile = ladder.one_seed("slice")
        if futile is not None:
            return futile
    tell("training in full, seed 0")
    futile = ladder.one_seed("full")
    if futile is not None:
        return futile
    seeds = list(range(bench.seeds))
    half = len(seeds) // 2
    if half >= 2:
        tell(f"training {half} seeds")
        futile = ladder.some_seeds(seeds[:half])
        if futile is not None:
            return futile
    tell(f"training all {len(seeds)} seeds")
    return ladder.compare(seeds, "full")


def final_comparison(phi: Phi, bench: Workbench, seeds: Sequence[int]) -> Comparison:
    """The same comparison on the test period, for final reporting only: the loop must never see its answer.

    Both arms train on the training period, as in the loop, and predict the test period.
    """
    objective = _same_objective(phi, bench)
    if len(set(seeds)) < 2:
        raise ToolError(f"`seeds` must name at least two different seeds, got {list(seeds)}.")
    require_valid(phi, bench)
    with Spending(bench) as spending:
        return _Ladder(phi, spending, objective).compare(sorted(set(seeds)), "test")


def require_valid(phi: Phi, bench: Workbench) -> None:
    """RefusedDelta with the findings where Φ is invalid or too large for the surface's guardrails."""
    findings = bench.check(phi)
    if findings:
        raise RefusedDelta(findings)


def require_affordable(
    phi: Phi, evaluations: Sequence[Evaluation], production: Sequence[Evaluation], spending: Spending
) -> None:
    """RefusedDelta where the medians of latency or training time break a guardrail of the surface.

    Clocks of a busy machine lie: what a clock refuses is trained once more beside production, and refused
    only if it breaks a guardrail again. No count of CPU-seconds lies as much as `CERTAIN` says.
    """
    bench = spending.bench
    clocks = _clocks(evaluations, production)
    findings = bench.exceeded(**clocks)
    del clocks["latency_ms"]
    if findings and not bench.exceeded(CERTAIN, **clocks):
        again = spending.evaluate_many([(phi, 0), (bench.production, 0)], again=True)
        findings = bench.exceeded(**_clocks(again[:1], again[1:]))
    if findings:
        raise RefusedDelta(findings)


def _clocks(evaluations: Sequence[Evaluation], production: Sequence[Evaluation]) -> dict[str, float]:
    """What guardrails may bound of what was timed: medians over the trainings."""
    cpu, usual = (
        float(np.median([each.train_cpu_seconds for each in arm])) for arm in (evaluations, production)
    )
    return {
        "latency_ms": float(np.median([each.latency_ms for each in evaluations])),
        "train_cpu_seconds": cpu,
        "train_cost": cpu / max(usual, SHORTEST),
    }


def measure(
    evaluations: Sequence[Evaluation], bench: Workbench, objective: Objective, effort: Effort
) -> Measurement:
    """All metrics of one arm: means over the seeds, medians of the costs."""
    return _summary(evaluations, _by_seed(evaluations, bench, objective, effort), bench, effort)


def _by_seed(
    evaluations: Sequence[Evaluation], bench: Workbench, objective: Objective, effort: Effort
) -> dict[str, list[float]]:
    """Metric -> its value with each seed."""
    labels, users = np.asarray(bench.labels(objective, effort)), bench.user_codes(effort)
    positive = metrics.positives(labels, objective.loss)
    arms = [each.predictions for each in evaluations]
    return {
        "loss": [float(metrics.row_losses(p, labels, objective.loss).mean()) for p in arms],
        "auc": [metrics.auc(p, positive) for p in arms],
        "gauc": [metrics.gauc(p, positive, users) for p in arms],
        "ndcg": [metrics.ndcg(p, labels, users) for p in arms],
        "calibration": [metrics.calibration(p, labels) for p in arms],
    }


def _summary(
    evaluations: Sequence[Evaluation], values: dict[str, list[float]], bench: Workbench, effort: Effort
) -> Measurement:
    train = bench.train_slice(effort)
    cpu = float(np.median([each.train_cpu_seconds for each in evaluations]))

    def mean(values: list[float]) -> float | None:
        value = float(np.mean(values))
        return value if math.isfinite(value) else None

    return Measurement(
        loss=float(np.mean(values["loss"])),
        auc=mean(values["auc"]),
        gauc=mean(values["gauc"]),
        ndcg=mean(values["ndcg"]),
        calibration=mean(values["calibration"]),
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


@dataclass
class _Ladder:
    """One candidate's way through the rungs."""

    phi: Phi
    spending: Spending
    objective: Objective

    @property
    def bench(self) -> Workbench:
        return self.spending.bench

    def one_seed(self, effort: Effort) -> Comparison | None:
        """A futility rung: the comparison where the candidate is clearly worse with seed 0, else None.

        How much a difference varies between seeds is known from production, trained with every seed (once,
        then cached): two independent arms, so sqrt(2) times the spread of its mean loss.
        """
        bench = self.bench
        ours, theirs = self._arms([0], range(bench.seeds), effort)
        losses = self._losses(theirs, effort)
        spread = math.sqrt(2.0) * float(losses.mean(axis=1).std(ddof=1))
        difference = self._losses(ours, effort)[0] - losses[0]
        margin = MARGIN * abs(float(losses.mean()))
        interval = combine(
            float(difference.mean()),
            cluster_error(difference, bench.user_codes(effort)),
            (spread, float(bench.seeds - 1)),
        )
        if interval.estimate <= margin + FUTILITY * interval.error or interval.low <= 0:
            return None
        found = self._answer([0], effort, ours, theirs[:1], interval, cheap="")
        return _stopped(found, "on a slice of the log" if effort == "slice" else "with the first seed")

    def some_seeds(self, seeds: list[int]) -> Comparison | None:
        """A futility rung: the comparison where the candidate neither looks better nor cheaper, else None.

        Its verdict cannot be one that wins: `better` needs a clear difference, `cheaper` a saving.
        """
        ours, theirs = self._arms(seeds, seeds, "full")
        interval = self._paired(ours, theirs, "full")
        cheap = saving(ours, theirs)
        if interval.estimate < -PROMISING * interval.error or cheap:
            return None
        found = self._answer(seeds, "full", ours, theirs, interval, cheap)
        return _stopped(found, f"with {len(seeds)} of {self.bench.seeds} seeds")

    def compare(self, seeds: list[int], effort: Effort) -> Comparison:
        """The last rung: every seed of both arms, and the one verdict that can win."""
        ours, theirs = self._arms(seeds, seeds, effort)
        interval = self._paired(ours, theirs, effort)
        found = self._answer(seeds, effort, ours, theirs, interval, saving(ours, theirs))
        if found.verdict != "cheaper" or ours[0].parameters <= CHEAPER * theirs[0].parameters:
            return found
        # The clocks of production may be of a busier day: what wins by a clock must win again, side by side.
        pairs = [(arm, seed) for seed in seeds[:2] for arm in (self.phi, self.bench.production)]
        again = self.spending.evaluate_many(pairs, effort, again=True)
        return self._answer(seeds, effort, ours, theirs, interval, saving(again[0::2], again[1::2]))

    def _paired(self, ours: Sequence[Evaluation], theirs: Sequence[Evaluation], effort: Effort) -> Interval:
        differences = self._losses(ours, effort) - self._losses(theirs, effort)
        return paired_difference(differences, self.bench.user_codes(effort))

    def _arms(
        self, candidate: Sequence[int], production: Sequence[int], effort: Effort
    ) -> tuple[list[Evaluation], list[Evaluation]]:
        """Evaluations of both arms, trained side by side; RefusedDelta if a measured guardrail breaks."""
        wanted = [(self.phi, seed) for seed in candidate]
        wanted += [(self.bench.production, seed) for seed in production]
        found = self.spending.evaluate_many(wanted, effort)
        ours, theirs = found[: len(candidate)], found[len(candidate) :]
        if effort == "full":  # a slice is cheaper than what a guardrail is about; a report only reports
            require_affordable(self.phi, ours, theirs, self.spending)
        return ours, theirs

    def _losses(self, evaluations: Sequence[Evaluation], effort: Effort) -> npt.NDArray[Any]:
        """Loss of every scored row, [seeds, rows]."""
        labels = np.asarray(self.bench.labels(self.objective, effort))
        return np.stack(
            [metrics.row_losses(each.predictions, labels, self.objective.loss) for each in evaluations]
        )

    def _answer(
        self,
        seeds: list[int],
        effort: Effort,
        ours: Sequence[Evaluation],
        theirs: Sequence[Evaluation],
        interval: Interval,
        cheap: str,
    ) -> Comparison:
        by_seed = [_by_seed(arm, self.bench, self.objective, effort) for arm in (ours, theirs)]
        candidate, production = (
            _summary(arm, values, self.bench, effort)
            for arm, values in zip((ours, theirs), by_seed, strict=True)
        )
        metric, margin = METRICS[self.objective.loss], MARGIN * abs(production.loss)
        verdict, reason = decide(interval, margin, len(seeds), cheap=cheap, metric=metric)
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
            others=self._others(ours, theirs, by_seed[0], by_seed[1], effort),
            reason=reason,
            cpu_seconds=self.spending.cpu_seconds,
            curves={"candidate": list(ours[0].curve), "production": list(theirs[0].curve)},
        )

    def _others(
        self,
        ours: Sequence[Evaluation],
        theirs: Sequence[Evaluation],
        candidate: dict[str, list[float]],
        production: dict[str, list[float]],
        effort: Effort,
    ) -> dict[str, Difference]:
        if len(ours) != len(theirs) or len(ours) < 2:
            return {}
        labels = np.asarray(self.bench.labels(self.objective, effort))
        predictions = [each.predictions for each in ours], [each.predictions for each in theirs]
        positive, users = metrics.positives(labels, self.objective.loss), self.bench.user_codes(effort)
        found = paired_metrics(candidate, production, predictions, labels, positive, users)
        return {
            name: Difference(difference=each.estimate, low=each.low, high=each.high)
            for name, each in found.items()
        }


def _stopped(found: Comparison, where: str) -> Comparison:
    return found.model_copy(
        update={"reason": f"Stopped {where}: {found.reason[0].lower()}{found.reason[1:]}"}
    )
