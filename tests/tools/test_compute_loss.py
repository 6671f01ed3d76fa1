from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evorank.model.errors import RefusedDelta, ToolError
from evorank.surfaces.surface import Guardrail
from evorank.tools import workbench
from evorank.tools.compute_loss import compute_loss, final_comparison


def test_a_candidate_that_learns_more_is_better_and_says_so_in_numbers(bench):
    found = compute_loss(bench.production | {"steps": 12}, bench)
    assert found.verdict == "better", found.reason
    assert found.high < 0
    assert found.low <= found.difference <= found.high
    assert found.effort == "full"
    assert found.seeds == list(range(bench.seeds))
    assert found.candidate.loss - found.production.loss == pytest.approx(found.difference, abs=1e-6)
    assert found.candidate.auc > found.production.auc
    assert found.others["auc"].low > 0
    assert found.others["auc"].difference == pytest.approx(found.candidate.auc - found.production.auc)
    assert f"{found.difference:+.5f}" in found.reason


def test_production_against_itself_is_equal(bench):
    found = compute_loss(dict(bench.production), bench)
    assert (found.verdict, found.difference) == ("equal", 0.0)
    assert {name: each.difference for name, each in found.others.items()} == dict.fromkeys(found.others, 0.0)
    assert found.others


def test_a_candidate_that_is_clearly_worse_stops_after_one_seed(bench):
    found = compute_loss({"lr": 0.5, "shift": 3.0, "label": "click"}, bench)
    assert found.verdict == "worse"
    assert found.seeds == [0]
    assert found.low > 0
    assert found.reason.startswith("Stopped with the first seed")


def test_the_same_quality_with_fewer_parameters_is_cheaper(bench):
    found = compute_loss(bench.production | {"parameters": 500}, bench)
    assert found.verdict == "cheaper"
    assert "500 parameters instead of 1,000" in found.reason


def test_the_same_quality_in_less_training_time_is_cheaper(bench):
    bench.production = bench.production | {"burn": 0.2}
    found = compute_loss(bench.production | {"burn": 0.0}, bench)
    assert found.verdict == "cheaper"
    assert "training CPU-seconds" in found.reason


def test_a_large_log_is_tried_on_a_slice_first(bench, monkeypatch):
    monkeypatch.setattr(workbench, "SLICE_ABOVE", 5_000)
    monkeypatch.setattr(workbench, "SLICE_ROWS", 3_000)
    found = compute_loss({"lr": 0.5, "shift": 3.0, "label": "click"}, bench)
    assert (found.verdict, found.effort) == ("worse", "slice")
    train = bench.train_slice("slice")
    assert (train.stop - train.start, train.stop) == (3_000, bench.dataset.bounds["train"].stop)
    assert compute_loss(bench.production | {"steps": 12}, bench).effort == "full"


def test_an_invalid_candidate_is_refused_before_any_training(bench):
    with pytest.raises(RefusedDelta, match="/lr must be a positive number"):
        compute_loss({"lr": -1, "label": "click"}, bench)
    assert not list(bench.cache.directory.glob("*.npy"))


@pytest.mark.parametrize(
    ("metric", "maximum", "candidate"),
    [
        ("parameters", 900, {}),
        ("latency_ms", 1e-6, {"l2": 0.1}),
        ("train_cpu_seconds", 0.2, {"burn": 0.4}),
        ("train_cost", 3, {"burn": 0.4}),
    ],
)
def test_a_candidate_over_a_guardrail_is_refused(bench, metric, maximum, candidate):
    bench.surface.spec.guardrails.append(Guardrail(metric=metric, maximum=maximum))
    with pytest.raises(RefusedDelta, match=f"breaks the guardrail {metric} <="):
        compute_loss(bench.production | candidate, bench)


def test_a_refusal_says_what_it_cost_with_the_clocks_that_were_looked_at_again(bench):
    bench.surface.spec.guardrails.append(Guardrail(metric="train_cpu_seconds", maximum=0.3))
    bench.evaluate_many([(bench.production, seed) for seed in range(bench.seeds)])
    with pytest.raises(RefusedDelta, match="breaks the guardrail") as told:
        compute_loss(bench.production | {"burn": 0.4}, bench)
    assert told.value.cpu_seconds >= 2 * 0.4  # once in the ladder, once beside production


def test_what_costs_many_times_too_much_is_not_trained_again_to_be_sure(bench, monkeypatch):
    bench.surface.spec.guardrails.append(Guardrail(metric="train_cpu_seconds", maximum=0.05))
    bench.evaluate_many([(bench.production, seed) for seed in range(bench.seeds)])
    monkeypatch.setattr(bench, "evaluate_many", _once(bench.evaluate_many))
    with pytest.raises(RefusedDelta, match="breaks the guardrail train_cpu_seconds"):
        compute_loss(bench.production | {"burn": 0.4}, bench)


def _once(evaluate):
    def evaluate_many(wanted, effort="full", *, again=False):
        assert not again, "trained once more"
        return evaluate(wanted, effort)

    return evaluate_many


def test_a_comparison_counts_the_clocks_that_were_looked_at_again(bench):
    candidate = bench.production | {"burn": 0.2}
    bench.surface.spec.guardrails.append(Guardrail(metric="train_cpu_seconds", maximum=5))
    bench.evaluate_many([(phi, n) for phi in (candidate, bench.production) for n in range(bench.seeds)])
    slow = replace(bench.evaluate(candidate, 0), train_cpu_seconds=12.0)
    bench.cache.store(bench._key(candidate, 0, "full"), slow)
    assert compute_loss(candidate, bench).cpu_seconds >= 0.2


def test_a_clock_of_a_busy_day_refuses_nobody(bench):
    candidate = bench.production | {"l2": 0.1}
    bench.surface.spec.guardrails.append(Guardrail(metric="train_cpu_seconds", maximum=5))
    slow = replace(bench.evaluate(candidate, 0), train_cpu_seconds=12.0)
    bench.cache.store(bench._key(candidate, 0, "full"), slow)
    assert bench.evaluate(candidate, 0).train_cpu_seconds == 12.0
    assert compute_loss(candidate, bench).verdict in ("equal", "inconclusive", "worse")


def test_a_report_tells_what_a_candidate_costs_and_never_refuses_it_for_that(bench):
    bench.surface.spec.guardrails.append(Guardrail(metric="train_cost", maximum=1.5))
    found = final_comparison(bench.production | {"burn": 0.4}, bench, seeds=[100, 101])
    assert found.effort == "test"
    assert found.candidate.train_cpu_seconds > 1.5 * found.production.train_cpu_seconds


def test_losses_of_different_rewards_are_never_compared(bench):
    with pytest.raises(ToolError, match=r"losses of different rewards.*compute_eval"):
        compute_loss({"lr": 0.5, "label": '"like"'}, bench)


def test_a_broken_training_is_a_tool_error(bench):
    with pytest.raises(ToolError, match="no rows left"):
        compute_loss(bench.production | {"fault": "raise"}, bench)


def test_the_final_comparison_scores_the_test_period(bench):
    found = final_comparison(bench.production | {"steps": 12}, bench, [5, 6, 7])
    test = bench.dataset.bounds["test"]
    assert (found.effort, found.seeds, found.rows) == ("test", [5, 6, 7], test.stop - test.start)
    assert found.verdict == "better"
    with pytest.raises(ToolError, match="at least two different seeds"):
        final_comparison(bench.production, bench, [1, 1])


def test_the_metrics_are_those_of_the_predictions(bench):
    found = compute_loss(dict(bench.production), bench)
    labels = np.asarray(bench.labels(bench.system.objective(bench.production)))
    predictions = bench.evaluate(bench.production, 0).predictions
    assert found.production.calibration == pytest.approx(predictions.sum() / labels.sum(), rel=0.05)
    assert found.production.samples_per_cpu_second * found.production.train_cpu_seconds == pytest.approx(
        bench.dataset.bounds["train"].stop
    )


def test_what_wins_by_a_clock_must_win_again_side_by_side(bench, monkeypatch):
    """Production's cached clocks are of a busier moment here: the same Φ would look twice as fast."""
    rival = bench.production | {"l2": 1e-18}  # another fingerprint, the same training
    load = bench.cache.load

    def busy(key):
        found = load(key)
        return found and replace(found, train_cpu_seconds=found.train_cpu_seconds * 50 + 10)

    bench.evaluate_many([(bench.production, seed) for seed in range(bench.seeds)])
    monkeypatch.setattr(bench.cache, "load", busy)
    monkeypatch.setattr(bench, "evaluate_many", _alike(bench.evaluate_many))
    found = compute_loss(rival, bench)
    assert found.verdict == "equal", found.reason


def _alike(evaluate):
    """Trainings of milliseconds that are repeated side by side take as long as each other, whatever else this
    machine does."""

    def evaluate_many(wanted, effort="full", *, again=False):
        found = evaluate(wanted, effort, again=again)
        return [replace(each, train_cpu_seconds=1.0) for each in found] if again else found

    return evaluate_many
