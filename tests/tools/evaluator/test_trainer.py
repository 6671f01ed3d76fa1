"""A process that trains one candidate after another: the same bits as in processes of their own, its limits,
its end, and that no code but ours ever runs in it."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import children, until, zygote

from evorank.model.config import default_phi
from evorank.model.errors import Stopped, ToolError
from evorank.model.system import Objective
from evorank.tools.evaluator import trainer
from evorank.tools.evaluator.executor import Job
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.evaluator.supervisor import Supervisor
from evorank.tools.evaluator.trainer import Trainer

RANKER = "evorank.model.ranker:NeuralRanker"
PRODUCTION = default_phi(label="click", factors={}, batch_size=512, embedding_dim=4)
SQUARE = "class Square(nn.Module):\n    def forward(self, x):\n        return torch.relu(x) ** 2\n"


def optimizer(phi=PRODUCTION, **changes):
    return phi | {"optimizer": phi["optimizer"] | changes}


def layers(phi=PRODUCTION, **bindings):
    return phi | {"architecture": phi["architecture"] | {"layers": bindings}}


CANDIDATES = {
    "production": PRODUCTION,
    "Adam": optimizer(name="Adam", args={"lr": 0.003}),
    "bfloat16": optimizer(precision="bfloat16"),
    "two passes": optimizer(epochs=2.0),
    "wider": layers(h="relu(dense(inputs, 200))", output="dense(h, 1)"),
    "dropout": layers(h="dropout(relu(dense(inputs, 64)), 0.3)", output="dense(h, 1)"),
    "diverges": optimizer(
        layers(h="square(square(dense(inputs, 8)))", output="dense(square(h), 1)"),
        name="SGD",
        args={"lr": 9.0},
        epochs=10.0,
    )
    | {"reward": PRODUCTION["reward"] | {"loss": "mse"}},
    "breaks a rule": optimizer(name="Adam", args={"speed": 3}),
}
ENDLESS = optimizer(epochs=100.0, batch_size=16)
FAIL = {"diverges": "diverged", "breaks a rule": "speed"}
OWN_CODE = layers(h="Square(dense(inputs, 24))", output="dense(h, 1)") | {
    "components": {"Square": {"kind": "activation", "source": SQUARE}}
}


@pytest.fixture
def spawned(monkeypatch):
    """Kinds of the processes that were started, as they start."""
    kinds, spawn = [], Supervisor.spawn

    def noted(self, request, files, limits):
        kinds.append(request["kind"])
        return spawn(self, request, files, limits)

    monkeypatch.setattr(Supervisor, "spawn", noted)
    return kinds


@pytest.fixture
def lone():
    with LocalPool(workers=1) as pool:
        yield pool


def job(dataset, phi=PRODUCTION, seed=0, label="click", **changes):
    train, score = dataset.bounds["train"], dataset.bounds["validation"]
    wanted = Job(
        dataset=dataset.directory,
        system=RANKER,
        production=PRODUCTION,
        phi=phi,
        label_path=dataset.label_path(Objective(label), "train"),
        loss="bce",
        seed=seed,
        train=(train.start, train.stop),
        score=(score.start, score.stop),
    )
    return replace(wanted, **changes)


def result(pool, wanted):
    return pool.result(pool.submit(wanted), 120)


def waiting(pool):
    """The one trainer that waits for work."""
    ((_, found),) = pool._trainers._idle
    return found


def process(pool):
    """The only child that is left: the trainer that waits for work."""
    until(lambda: len(children(pool, RANKER)) == 1)
    return children(pool, RANKER)[0]


# --------------------------------------------------------------------------- the same bits


@pytest.fixture(scope="module")
def alone(dataset, pool):
    """What each candidate gets in processes of its own, or the error."""
    found = {}
    for name, phi in CANDIDATES.items():
        try:
            found[name] = result(pool, job(dataset, phi, seed=3, apart=True))
        except ToolError as error:
            found[name] = str(error)
    return found


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(CANDIDATES)), min_size=2, max_size=6))
def test_whatever_was_trained_before_a_candidate_gets_the_bits_of_a_process_of_its_own(
    dataset, lone, alone, names
):
    for name in names:
        if name in FAIL:
            with pytest.raises(ToolError, match=FAIL[name]):
                result(lone, job(dataset, CANDIDATES[name], seed=3))
            assert FAIL[name] in alone[name]
            continue
        found, expected = result(lone, job(dataset, CANDIDATES[name], seed=3)), alone[name]
        assert np.array_equal(found.predictions, expected.predictions)
        assert (found.parameters, found.curve) == (expected.parameters, expected.curve)
        assert found.train_cpu_seconds > 0
        assert found.score_cpu_seconds > 0
        assert found.latency_ms > 0
        assert found.peak_memory > 50e6


def test_jobs_of_one_kind_share_a_process_and_the_kinds_that_come_take_turns(dataset, lone, spawned):
    for seed in (0, 1):
        clicks = result(lone, job(dataset, seed=seed))
        result(lone, job(dataset, CANDIDATES["Adam"], seed=seed))
        likes = result(lone, job(dataset, label='"like"', seed=seed))
        assert not np.array_equal(likes.predictions, clicks.predictions)
    assert spawned == ["stay", "stay"]
    result(lone, job(dataset, label='greatest(click, "like")'))
    assert len(lone._trainers._idle) == 2, "twice as many processes as workers, and no more"
    result(lone, job(dataset, label='"like"'))
    assert spawned == ["stay"] * 3, "the one that waited longest had to go"


def test_each_worker_has_a_process(dataset, spawned):
    with LocalPool(workers=2) as two:
        ids = [two.submit(job(dataset, seed=seed)) for seed in range(6)]
        found = [two.result(id, 120).predictions for id in ids]
        assert spawned == ["stay", "stay"]
        assert np.array_equal(found[4], result(two, job(dataset, seed=4)).predictions)


# --------------------------------------------------------------------------- nobody's code but ours


def test_code_that_a_candidate_brings_never_runs_in_a_process_that_stays(dataset, lone, spawned):
    found = result(lone, job(dataset, OWN_CODE))
    assert spawned == ["train", "score", "score"]
    assert not np.array_equal(found.predictions, result(lone, job(dataset)).predictions)


def test_a_process_that_stays_refuses_code_even_where_somebody_sends_it(dataset, lone, monkeypatch):
    monkeypatch.setattr("evorank.tools.evaluator.executor.runs_only_ours", lambda system, phi: True)
    with pytest.raises(
        ToolError, match="Training failed: a process that stays runs no code that a candidate"
    ):
        result(lone, job(dataset, OWN_CODE))
    monkeypatch.setattr("evorank.tools.evaluator.local.runs_only_ours", lambda system, phi: True)
    with pytest.raises(ToolError, match="The check failed: a process that stays runs no code"):
        lone.check(dataset.directory, RANKER, PRODUCTION, OWN_CODE)
    assert waiting(lone).jobs == 1
    result(lone, job(dataset))
    assert waiting(lone).jobs == 2, "and goes on with others"


def test_a_users_system_never_runs_in_a_process_that_stays(dataset, lone, spawned):
    wanted = job(dataset, {"lr": 0.5}, system="linear_system:LinearSystem", production={"lr": 0.5})
    result(lone, wanted)
    lone.check(wanted.dataset, wanted.system, wanted.production, wanted.phi)
    assert spawned == ["train", "score", "score", "check"]


def test_a_model_that_is_exported_is_trained_by_itself_and_scores_the_same(dataset, lone, spawned, tmp_path):
    exported = result(lone, job(dataset, artifact=tmp_path / "model"))
    assert spawned == ["train", "score"]
    assert np.array_equal(exported.predictions, result(lone, job(dataset)).predictions)


def test_checks_without_code_share_a_process_and_find_the_same(dataset, lone, spawned):
    def check(phi):
        return lone.check(dataset.directory, RANKER, PRODUCTION, phi)

    shared = [check(CANDIDATES[name]) for name in ("wider", "breaks a rule", "production")]
    assert spawned == ["stay"]
    reward = PRODUCTION | {"reward": PRODUCTION["reward"] | {"label": "CAST(clik AS DOUBLE)"}}
    assert [finding.pointer for finding in check(reward).findings] == ["/reward/label"]
    assert check(OWN_CODE).findings == []
    assert spawned == ["stay", "check", "check"], "SQL and components are read in processes of their own"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("evorank.tools.evaluator.local.runs_only_ours", lambda system, phi: False)
        assert [check(CANDIDATES[name]) for name in ("wider", "breaks a rule", "production")] == shared
    assert spawned[3:] == ["check"] * 3


# --------------------------------------------------------------------------- limits and deaths


def test_each_limit_is_a_reason_and_the_next_job_is_done(dataset, alone):
    wide = {f"h{n}": f"dense({f'h{n - 1}' if n else 'inputs'}, 4000)" for n in range(4)}
    for options, phi, reason in (
        ({"cpu_limit": 1.0}, ENDLESS, "used more than 1 CPU-seconds"),
        ({"limit": 1.5}, ENDLESS, "took longer than 1.5 seconds"),
        ({"memory": 1 << 28}, layers(**wide, output="h3"), "needed more than 0.3 GB of memory"),
    ):
        with LocalPool(workers=1, **options) as strict:
            for _ in range(2):
                with pytest.raises(ToolError, match=reason):
                    result(strict, job(dataset, phi))
                found = result(strict, job(dataset, seed=3))
                assert np.array_equal(found.predictions, alone["production"].predictions)


def test_a_job_that_is_short_of_memory_after_others_is_tried_in_a_fresh_process(
    dataset, lone, spawned, monkeypatch
):
    result(lone, job(dataset))
    monkeypatch.setattr(waiting(lone).child, "told", lambda: {"error": "memory"})
    with pytest.raises(ToolError, match="speed"):
        result(lone, job(dataset, CANDIDATES["breaks a rule"]))
    assert spawned == ["stay", "stay"]


def test_a_process_that_is_killed_while_it_works_costs_a_second_try(dataset, lone, spawned):
    longer = optimizer(epochs=20.0)
    expected = result(lone, job(dataset, longer)).predictions
    for moment in (0.0, 0.02, 0.1):
        victim = process(lone)
        id = lone.submit(job(dataset, longer))
        time.sleep(moment)
        os.kill(victim, signal.SIGKILL)
        assert np.array_equal(lone.result(id, 120).predictions, expected)
    assert spawned == ["stay"] * 4


def test_one_that_was_killed_while_it_waited_is_not_asked_again(dataset, lone, spawned):
    expected = result(lone, job(dataset)).predictions
    gone = waiting(lone)
    os.kill(process(lone), signal.SIGKILL)
    gone.child.ended.result(60)
    assert np.array_equal(result(lone, job(dataset)).predictions, expected)
    assert spawned == ["stay", "stay"]


def test_a_zygote_that_dies_takes_its_trainers_with_it_and_the_next_job_is_done(dataset, lone):
    expected = result(lone, job(dataset)).predictions
    gone = waiting(lone)
    os.kill(zygote(lone, RANKER), signal.SIGKILL)
    assert np.array_equal(result(lone, job(dataset)).predictions, expected)
    assert waiting(lone) is not gone


def test_a_job_that_is_cancelled_ends_its_process_and_counts_its_own_cost_only(dataset, lone, spawned):
    for _ in range(3):
        spent = result(lone, job(dataset, CANDIDATES["two passes"])).cpu_seconds
    id = lone.submit(job(dataset, ENDLESS))
    time.sleep(0.3)
    lone.cancel(id)
    with pytest.raises(ToolError, match="was cancelled") as refused:
        lone.result(id, 60)
    assert 0 < refused.value.cpu_seconds < 0.3 + 2 * spent
    result(lone, job(dataset))
    assert spawned == ["stay", "stay"]


def test_a_training_that_is_clearly_worse_than_production_is_stopped(dataset, lone):
    rows = len(dataset.rows("train"))
    better = tuple((rows * n // 16, 0.01) for n in range(1, 17))
    slow = optimizer(batch_size=16)
    with pytest.raises(Stopped, match="of the training: over its last") as told:
        result(lone, job(dataset, slow, against=better))
    assert told.value.cpu_seconds > 0
    assert len(result(lone, job(dataset, slow)).curve) > len(told.value.curves["candidate"])


# --------------------------------------------------------------------------- nothing is left


def test_a_process_that_nothing_is_asked_of_ends_and_the_next_job_gets_another(
    dataset, lone, spawned, monkeypatch
):
    monkeypatch.setattr(trainer, "PATIENCE", 0.2)
    expected = result(lone, job(dataset)).predictions
    tired = waiting(lone)
    assert tired.child.ended.result(30)["code"] == 0
    seen = property(lambda trainer: not trainer._closed)
    monkeypatch.setattr(Trainer, "usable", seen)  # as if it had ended just after it was looked at
    assert np.array_equal(result(lone, job(dataset)).predictions, expected)
    assert spawned == ["stay", "stay"]


def test_a_process_that_is_old_or_was_large_is_replaced(dataset, lone, spawned, monkeypatch):
    monkeypatch.setattr(trainer, "MOST_JOBS", 2)
    for seed in range(5):
        result(lone, job(dataset, seed=seed))
    assert spawned == ["stay"] * 3
    monkeypatch.setattr(trainer, "MOST_MEMORY", 1 << 20)
    result(lone, job(dataset))
    assert lone._trainers._idle == []


def test_a_closed_pool_leaves_no_process_and_no_file_open(dataset):
    def held():
        gc.collect()  # a page of memory is given back with what refers to it
        names = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        return Counter(name for name in names if "memfd" in name or "socket" in name)

    before = held()
    with LocalPool(workers=2) as two:
        for id in [two.submit(job(dataset, seed=seed)) for seed in range(4)]:
            two.result(id, 120)
        two.check(dataset.directory, RANKER, PRODUCTION, PRODUCTION)
        pids = children(two, RANKER)
        assert len(pids) == 3
        assert held() - before
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert not held() - before


def test_many_threads_check_at_once(dataset, lone):
    with ThreadPoolExecutor(6) as threads:
        found = list(
            threads.map(lambda phi: lone.check(dataset.directory, RANKER, PRODUCTION, phi), [PRODUCTION] * 6)
        )
    assert found == [lone.check(dataset.directory, RANKER, PRODUCTION, PRODUCTION)] * 6
    assert found[0].parameters


@pytest.mark.heavy
def test_hundreds_of_jobs_in_a_row_leave_nothing_behind(dataset, lone, monkeypatch):
    monkeypatch.setattr(trainer, "MOST_JOBS", 10_000)
    sizes = []
    for number in range(200):
        phi = CANDIDATES[("production", "Adam", "wider", "bfloat16")[number % 4]]
        result(lone, job(dataset, phi, seed=number))
        if number in (99, 199):
            pid = process(lone)
            sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096)
            files = len(list(Path(f"/proc/{pid}/maps").read_text().splitlines()))
    assert sizes[1] < sizes[0] + (4 << 20)
    assert files < 2000
