"""A running training that is clearly worse than production is stopped, in real locked processes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from small_world import SmallSurface

from evorank.model.errors import Stopped, ToolError
from evorank.model.system import Objective
from evorank.tools.compute_loss import compute_loss
from evorank.tools.evaluator.executor import Job
from evorank.tools.workbench import Workbench

SYSTEM = "learner:Learner"


@pytest.fixture
def job(dataset):
    train, score = dataset.bounds["train"], dataset.bounds["validation"]

    def make(against=(), **phi):
        return Job(
            dataset=dataset.directory,
            system=SYSTEM,
            production={"lr": 0.5},
            phi={"lr": 0.5} | phi,
            label_path=dataset.label_path(Objective("click"), upto="train"),
            loss="bce",
            seed=0,
            train=(train.start, train.stop),
            score=(score.start, score.stop),
            against=against,
        )

    return make


@pytest.fixture
def production(pool, job):
    return pool.result(pool.submit(job()), timeout=60)


def test_an_evaluation_brings_the_curve_that_its_training_told(production, dataset):
    rows = len(dataset.rows("train"))
    assert len(production.curve) == 64
    assert production.curve[-1] == (rows, 0.5)
    assert production.curve[0] == (rows // 64, pytest.approx(0.6 - 0.1 / 64, rel=1e-5))


def test_a_training_that_is_clearly_worse_is_stopped_and_the_slot_is_free_again(pool, job, production):
    stopped = r"Stopped after 75% of the training: over its last .* \(\+\d+%\)"
    with pytest.raises(Stopped, match=stopped) as told:
        pool.result(pool.submit(job(production.curve, tells="hopeless", waits=True, burn=0.3)), timeout=60)
    assert told.value.cpu_seconds >= 0.3
    curves = told.value.curves
    assert curves["production"] == list(production.curve)
    assert 0 < len(curves["candidate"]) < len(production.curve), "as far as it came"
    again = pool.result(pool.submit(job(production.curve)), timeout=60)
    assert np.array_equal(again.predictions, production.predictions)


def test_without_productions_curve_it_is_trained_to_its_end(pool, job, production):
    found = pool.result(pool.submit(job(tells="hopeless")), timeout=60)
    assert np.array_equal(found.predictions, production.predictions)
    assert found.curve[-1][1] == 1.0


def test_a_loss_that_is_no_number_stops_a_training_that_goes_on_regardless(pool, job):
    with pytest.raises(
        ToolError, match=r"stopped after 3\d% of the training: the loss diverged at row"
    ) as told:
        pool.result(pool.submit(job(tells="diverging", waits=True)), timeout=60)
    assert not isinstance(told.value, Stopped)


def test_the_workbench_knows_productions_curve_from_its_cache_where_losses_mean_the_same(
    dataset, pool, tmp_path
):
    surface = SmallSurface(dataset, tmp_path)
    surface.spec = SimpleNamespace(system=SYSTEM, guardrails=[], north_star=None)
    bench = Workbench(surface, pool, tmp_path / "cache", seeds=2)
    try:
        slow = bench.production | {"lr": 0.49, "tells": "hopeless", "waits": True}
        submitted = []
        submit = pool.submit
        bench.executor = SimpleNamespace(
            device=pool.device,
            submit=lambda job: submitted.append(job) or submit(job),
            result=pool.result,
            cancel=pool.cancel,
            check=pool.check,
        )
        first = bench.evaluate(bench.production, 0)
        assert submitted[0].against == ()
        with pytest.raises(Stopped, match="after 75% of the training"):
            compute_loss(slow, bench)
        assert [job.against for job in submitted if job.phi == slow] == [first.curve]
        fine = compute_loss(bench.production | {"lr": 0.51}, bench)
        assert fine.curves["production"] == list(first.curve)
        assert len(fine.curves["candidate"]) == 64
        submitted.clear()
        bench.evaluate(bench.production | {"label": "1 - click"}, 0)
        bench.evaluate_many([(bench.production | {"lr": 0.51}, 0)], again=True)
        assert [job.against for job in submitted] == [(), ()]
    finally:
        bench.close()


def test_reports_that_make_no_sense_are_not_believed_and_change_no_result(pool, job, production):
    found = pool.result(pool.submit(job(production.curve, tells="nonsense")), timeout=60)
    assert found.curve == ()
    assert np.array_equal(found.predictions, production.predictions)
