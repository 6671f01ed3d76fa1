from __future__ import annotations

import multiprocessing
import threading
import time

import numpy as np
import pytest
from small_world import SmallSurface

from evorank.model.errors import ConfigurationError, ToolError
from evorank.tools.cache import EvaluationCache
from evorank.tools.evaluator.executor import Evaluation
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.workbench import Spending, Workbench


class Counting:
    """The real pool, counting what it is asked."""

    def __init__(self, pool):
        self.pool, self.jobs, self.apart = pool, [], []

    def submit(self, job):
        self.jobs.append((job.seed, job.phi))
        self.apart.append(job.apart)
        return self.pool.submit(job)

    def __getattr__(self, name):
        return getattr(self.pool, name)


@pytest.fixture
def counted(dataset, pool, tmp_path):
    executor = Counting(pool)
    return Workbench(SmallSurface(dataset, tmp_path), executor, tmp_path / "cache"), executor.jobs


def test_the_same_phi_is_never_trained_twice_on_the_same_data(counted):
    bench, jobs = counted
    first = bench.evaluate({"lr": 0.5, "l2": 0.0}, seed=0)
    again = bench.evaluate({"l2": 0, "lr": 0.5}, seed=0)  # another order of keys, 0 for 0.0: the same Φ
    assert len(jobs) == 1
    assert np.array_equal(first.predictions, again.predictions)
    assert (first.cached, again.cached, again.cpu_seconds) == (False, True, 0.0)
    assert again.train_cpu_seconds == first.train_cpu_seconds
    bench.evaluate({"lr": 0.5, "l2": 0.0}, seed=1)
    bench.evaluate({"lr": 0.5, "l2": 0.1}, seed=0)
    bench.evaluate({"lr": 0.5, "l2": 0.0}, seed=0, effort="test")
    assert len(jobs) == 4


def test_duplicates_in_flight_share_one_training(counted):
    bench, jobs = counted
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(bench.evaluate({"lr": 0.5, "burn": 0.3}, seed=0)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 5
    assert len(jobs) == 1
    assert sum(not each.cached for each in found) == 1
    both = bench.evaluate_many([({"lr": 0.2}, 0), ({"lr": 0.2}, 0)])
    assert len(jobs) == 2
    assert both[0] is both[1]


def test_a_failed_training_is_not_cached_and_does_not_block_the_others(counted):
    bench, jobs = counted
    for _ in range(2):
        with pytest.raises(ToolError, match="no rows left"):
            bench.evaluate_many([({"lr": 0.5, "fault": "raise"}, 0), ({"lr": 0.5}, 7)])
    assert bench.evaluate({"lr": 0.5}, seed=7).parameters == 1000
    assert len([phi for _, phi in jobs if phi.get("fault")]) == 2


def test_where_one_training_fails_the_error_says_what_all_of_them_cost(counted):
    bench, jobs = counted
    wanted = [({"lr": 0.5, "burn": 0.3}, 0), ({"lr": 0.5, "burn": 0.2, "fault": "nan"}, 0)]
    with pytest.raises(ToolError, match="not finite") as told:
        bench.evaluate_many([*wanted, ({"lr": 0.5, "burn": 0.3}, 1), ({"lr": 0.5, "burn": 0.3}, 2)])
    assert len(jobs) == 4
    kept = [bench.cache.load(bench._key({"lr": 0.5, "burn": 0.3}, seed, "full")) for seed in range(3)]
    assert told.value.cpu_seconds >= 0.2 + sum(each.train_cpu_seconds for each in kept if each)


def test_a_training_that_ended_before_another_one_failed_is_kept(counted, pool):
    bench, _ = counted
    result = bench.executor.result

    def waiting(id, timeout=None):  # the other one has ended by then
        while any(not task.future.done() for task in list(pool._tasks.values())):
            time.sleep(0.01)
        return result(id, timeout)

    bench.executor.result = waiting
    with pytest.raises(ToolError, match="no rows left") as told:
        bench.evaluate_many([({"lr": 0.5, "fault": "raise"}, 0), ({"lr": 0.5, "burn": 0.2}, 3)])
    kept = bench.evaluate({"lr": 0.5, "burn": 0.2}, seed=3)
    assert kept.cached
    assert told.value.cpu_seconds >= kept.train_cpu_seconds >= 0.2


def test_what_a_candidate_cost_before_an_error_goes_with_it(counted):
    bench, _ = counted
    spending = Spending(bench)
    first = spending.evaluate_many([({"lr": 0.5, "burn": 0.3}, 0)] * 2)
    assert spending.cpu_seconds == first[0].cpu_seconds
    with pytest.raises(ToolError) as told, spending:
        spending.evaluate_many([({"lr": 0.5, "burn": 0.2, "fault": "nan"}, 0)])
    assert told.value.cpu_seconds >= spending.cpu_seconds + 0.2


def test_another_source_of_the_system_is_another_entry(counted, monkeypatch):
    bench, jobs = counted
    bench.evaluate({"lr": 0.5}, seed=0)
    monkeypatch.setitem(bench.__dict__, "_source", "edited")
    bench.evaluate({"lr": 0.5}, seed=0)
    assert len(jobs) == 2


def test_another_device_is_another_entry_for_both_arms(counted):
    bench, jobs = counted
    bench.evaluate_many([({"lr": 0.5}, 0), (bench.production, 0)])
    bench.executor.device = "cuda"  # as a pool on a GPU would say; what computes here is the same CPU
    assert not any(each.cached for each in bench.evaluate_many([({"lr": 0.5}, 0), (bench.production, 0)]))
    assert len(jobs) == 4
    bench.executor.device = "cpu"
    assert bench.evaluate({"lr": 0.5}, 0).cached


def test_a_damaged_entry_is_ignored_and_written_again(counted):
    bench, jobs = counted
    bench.evaluate({"lr": 0.5}, seed=0)
    (npy,), (json,) = (list(bench.cache.directory.glob(pattern)) for pattern in ("*.npy", "*.json"))
    good, told = npy.read_bytes(), json.read_text()
    for path, content in [
        (npy, good[:-4] + b"\0\0\0\0"),
        (npy, good[:50]),
        (npy, b""),
        (json, told[:20]),
        (json, "[]"),
        (json, told.replace('"parameters"', '"surprise"')),
    ]:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        before = len(jobs)
        assert not bench.evaluate({"lr": 0.5}, seed=0).cached
        assert len(jobs) == before + 1
    assert npy.read_bytes() == good
    assert not list(bench.cache.directory.glob("*.tmp"))


def entry(value, rows=1000):
    return Evaluation(np.full(rows, value, np.float32), value, value, value, int(value))


def write(directory, worker):
    cache = EvaluationCache(directory)
    for round in range(30):
        cache.store("shared", entry(float(worker)))
        cache.store(f"own-{worker}-{round}", entry(float(worker)))


def test_several_processes_write_and_every_entry_read_is_whole(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(tmp_path, worker)) for worker in (1, 2, 3)]
    for writer in writers:
        writer.start()
    cache = EvaluationCache(tmp_path)
    while any(writer.is_alive() for writer in writers):
        found = cache.load("shared")
        assert found is None or (found.predictions == found.parameters).all()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert all(
        cache.load(f"own-{worker}-{round}").parameters == worker
        for worker in (1, 2, 3)
        for round in range(30)
    )


def test_the_cache_forgets_the_oldest_beyond_its_limit(tmp_path):
    cache = EvaluationCache(tmp_path, limit=10_000)
    for name in range(5):
        cache.store(str(name), entry(1.0))
    left = [name for name in range(5) if cache.load(str(name)) is not None]
    assert left == [3, 4]


def test_predictions_that_are_not_ours_are_not_unpickled(tmp_path):
    cache = EvaluationCache(tmp_path)
    cache.store("a", entry(1.0))
    np.save(tmp_path / "a.npy", np.array([None]), allow_pickle=True)
    assert cache.load("a") is None


def test_a_cache_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cache directory"):
        EvaluationCache(tmp_path / "file" / "cache")


def test_the_built_in_ranker_runs_through_the_pool_and_repeats_itself(dataset, tmp_path):
    from evorank.model.config import default_phi
    from evorank.model.ranker import NeuralRanker
    from evorank.tools.compute_loss import compute_loss

    surface = SmallSurface(dataset, tmp_path)
    phi = default_phi(label="click", factors={}, batch_size=512, embedding_dim=4)
    surface.spec.system = "evorank.model.ranker:NeuralRanker"
    surface.system = lambda: NeuralRanker(dataset.schema, phi)
    with LocalPool(workers=2) as pool:
        bench = Workbench(surface, pool, tmp_path / "cache", seeds=2)
        assert bench.check(phi) == []
        assert [f.pointer for f in bench.check(phi | {"surprise": 1})] != []
        first = bench.evaluate(phi, 0)
        assert np.array_equal(
            first.predictions, pool.result(pool.submit(bench._job(phi, 0, "full"))).predictions
        )
        small = phi | {"architecture": {"embedding_dim": 4, "layers": {"output": "dense(inputs, 1)"}}}
        found = compute_loss(small, bench)
        assert found.candidate.parameters < found.production.parameters
        assert found.verdict in ("better", "cheaper", "equal", "worse", "inconclusive")


def test_costs_that_are_compared_are_all_of_processes_of_their_own_where_one_brings_code(
    dataset, pool, tmp_path
):
    from evorank.model.config import default_phi
    from evorank.model.ranker import NeuralRanker

    surface = SmallSurface(dataset, tmp_path)
    phi = default_phi(label="click", factors={}, batch_size=512, embedding_dim=4)
    surface.spec.system = "evorank.model.ranker:NeuralRanker"
    surface.system = lambda: NeuralRanker(dataset.schema, phi)
    twice = "class Twice(nn.Module):\n    def forward(self, x):\n        return 2 * x\n"
    own = phi | {"components": {"Twice": {"kind": "activation", "source": twice}}}
    own |= {"architecture": {"embedding_dim": 4, "layers": {"output": "Twice(dense(inputs, 1))"}}}
    other = phi | {"optimizer": phi["optimizer"] | {"batch_size": 1024}}
    executor = Counting(pool)
    bench = Workbench(surface, executor, tmp_path / "cache", seeds=2)
    for seed, arms, again, apart in (
        (0, [phi, other], True, [False, False]),
        (0, [own, phi], True, [True, True]),
        (1, [own, other], False, [False, False]),
    ):
        executor.apart.clear()
        bench.evaluate_many([(arm, seed) for arm in arms], again=again)
        assert executor.apart == apart
    bench.close()
