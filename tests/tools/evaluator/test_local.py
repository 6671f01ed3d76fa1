"""The pool's promises that need its insides: the same bits, retries, limits, and nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from processes import LINEAR, children, family, until, zygote

from evorank.model.config import default_phi
from evorank.model.errors import LockError, ToolError
from evorank.model.system import Objective
from evorank.tools.evaluator import evaluate, local
from evorank.tools.evaluator.executor import Checked, Job
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.evaluator.tier import TierReport

RANKER = "evorank.model.ranker:NeuralRanker"


def job(dataset, system=LINEAR, seed=0, phi=None, **changes):
    train, score = dataset.bounds["train"], dataset.bounds["validation"]
    return Job(
        dataset=dataset.directory,
        system=system,
        production={"lr": 0.5},
        phi=(phi or {"lr": 0.5}) | changes,
        label_path=dataset.label_path(Objective("click"), "train"),
        loss="bce",
        seed=seed,
        train=(train.start, train.stop),
        score=(score.start, score.stop),
    )


@pytest.fixture
def network():
    return default_phi(label="click", factors={}, batch_size=512, embedding_dim=4)


# --------------------------------------------------------------------------- the same bits


def test_a_network_gets_the_same_bits_in_any_pool_after_any_job(dataset, pool, network):
    wanted = job(dataset, RANKER, seed=5, phi=network)
    first = pool.result(pool.submit(wanted), 120)
    other = network | {"optimizer": network["optimizer"] | {"name": "Adam", "args": {"lr": 0.01}}}
    ids = [pool.submit(job(dataset, RANKER, phi=other)), *(pool.submit(wanted) for _ in range(3))]
    changed, *again = [pool.result(id, 120) for id in ids]
    assert not np.array_equal(changed.predictions, first.predictions)
    with LocalPool(workers=1) as lone:
        again.append(lone.result(lone.submit(wanted), 120))
    assert all(np.array_equal(each.predictions, first.predictions) for each in again)


def test_predictions_come_back_in_the_order_of_the_log(dataset, pool):
    from linear_system import LinearSystem

    wanted = job(dataset, seed=2)
    system = LinearSystem(dataset.schema)
    weights = system.fit(wanted.phi, dataset.rows("train"), np.load(wanted.label_path), 2)
    here = system.predict(wanted.phi, weights, dataset.rows("validation"))
    assert np.array_equal(pool.result(pool.submit(wanted), 60).predictions, here)


def test_several_requests_of_rows_give_what_one_gives(dataset, pool, monkeypatch):
    whole = pool.result(pool.submit(job(dataset)), 60)
    monkeypatch.setattr(evaluate, "BATCH", 700)
    assert np.array_equal(pool.result(pool.submit(job(dataset)), 60).predictions, whole.predictions)


# --------------------------------------------------------------------------- deaths


def test_a_killed_training_is_tried_once_more(dataset, pool):
    id = pool.submit(job(dataset, burn=1.0))
    (victim, *_) = until(lambda: children(pool) if LINEAR in pool._supervisors else [])
    os.kill(victim, signal.SIGKILL)
    assert pool.result(id, 60).parameters == 1000


def test_a_training_that_is_killed_twice_says_so(dataset, pool):
    pool.result(pool.submit(job(dataset)), 60)
    id = pool.submit(job(dataset, burn=5.0))
    for _ in range(2):
        (victim, *_) = until(lambda: children(pool))
        os.kill(victim, signal.SIGKILL)
        until(lambda gone=victim: gone not in children(pool))
    with pytest.raises(ToolError, match="died twice: it was killed"):
        pool.result(id, 60)


def test_a_killed_zygote_is_started_again_and_its_jobs_are_done(dataset):
    with LocalPool(workers=2) as fresh:
        fresh.result(fresh.submit(job(dataset)), 60)
        ids = [fresh.submit(job(dataset, seed=seed, burn=1.0)) for seed in (0, 1)]
        until(lambda: len(children(fresh)) >= 2)
        old = zygote(fresh)
        os.kill(old, signal.SIGKILL)
        assert all(fresh.result(id, 60).parameters == 1000 for id in ids)
        assert zygote(fresh) != old


def test_a_job_survives_kills_at_any_moment(dataset):
    """Each job loses one process at a moment that nobody chose; all of them are done, and are right."""
    with LocalPool(workers=1) as fresh:
        expected = fresh.result(fresh.submit(job(dataset)), 60).predictions
        generator = np.random.default_rng(0)
        for _ in range(8):
            id = fresh.submit(job(dataset))
            time.sleep(generator.uniform(0, 0.15))
            for victim in children(fresh)[:1]:
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            assert np.array_equal(fresh.result(id, 60).predictions, expected)


def test_an_interrupt_of_the_terminal_stops_no_training(dataset, pool):
    """Ctrl-C reaches every process of a terminal; only the parent may act on it."""
    id = pool.submit(job(dataset, burn=1.0))
    for pid in until(lambda: children(pool) if LINEAR in pool._supervisors else []):
        os.kill(pid, signal.SIGINT)
    os.kill(zygote(pool), signal.SIGINT)
    assert pool.result(id, 60).train_cpu_seconds >= 1.0


def test_the_zygote_has_one_thread_no_key_and_no_data(dataset, pool, monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "hunter2")
    with LocalPool(workers=1) as fresh:
        fresh.result(fresh.submit(job(dataset)), 60)
        pid = zygote(fresh)
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"hunter2" not in environment
        assert b"HOME=" not in environment
        opened = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
        assert not any(str(dataset.directory) in path for path in opened)
        assert str(dataset.directory) not in Path(f"/proc/{pid}/maps").read_text()


# --------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("options", "phi", "reason"),
    [
        ({"cpu_limit": 1.0}, {"burn": 30.0}, "used more than 1 CPU-seconds"),
        ({"limit": 2.0}, {"fault": "hang"}, "took longer than 2 seconds"),
        ({"memory": 1 << 28}, {"hoard": 1 << 30}, "needed more than 0.3 GB of memory"),
    ],
)
def test_each_limit_is_a_reason(dataset, options, phi, reason):
    with LocalPool(workers=1, **options) as strict:
        with pytest.raises(ToolError, match=reason):
            strict.result(strict.submit(job(dataset, **phi)), 60)
        assert strict.result(strict.submit(job(dataset)), 60).parameters == 1000


def test_labels_of_other_rows_are_refused_before_anything_runs(dataset, pool):
    from dataclasses import replace

    wanted = replace(job(dataset), label_path=dataset.label_path(Objective("click"), "validation"))
    with pytest.raises(ToolError, match="training rows and no others"):
        pool.result(pool.submit(wanted), 60)


def test_a_machine_that_cannot_lock_is_refused_unless_it_is_allowed(dataset, monkeypatch):
    report = TierReport("degraded", {"landlock": "not in this kernel", "seccomp": "holds"})
    monkeypatch.setattr(local, "self_test", lambda: report)
    with pytest.raises(LockError, match=r"landlock: not in this kernel.*--allow-degraded"):
        LocalPool(workers=1)
    with LocalPool(workers=1, allow_degraded=True) as degraded:
        assert degraded.result(degraded.submit(job(dataset)), 60).parameters == 1000


def test_data_among_the_code_of_a_system_is_refused(dataset, tmp_path, monkeypatch):
    """What candidates can read must not hold labels."""
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ranker.py").write_text("from linear_system import LinearSystem\n")
    home = package / "home"
    home.symlink_to(dataset.directory)
    monkeypatch.syspath_prepend(tmp_path)
    (package / "copy").mkdir()
    for file in dataset.directory.iterdir():
        target = package / "copy" / file.name
        target.symlink_to(file)
    from evorank.model.data import Dataset

    wanted = job(Dataset.open(package / "copy"), "their_package.ranker:LinearSystem")
    with LocalPool(workers=1) as fresh, pytest.raises(LockError, match="holds data"):
        fresh.result(fresh.submit(wanted), 60)


# --------------------------------------------------------------------------- nothing is left


def test_many_threads_check_at_once(dataset, pool):
    found = []

    def one():
        found.append(pool.check(dataset.directory, LINEAR, {"lr": 0.5}, {"lr": 0.1}))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [Checked([], 1000)] * 8


@pytest.mark.heavy
def test_a_thousand_forks_in_a_row_leave_nothing_behind(dataset):
    with LocalPool(workers=1) as fresh:
        fresh.check(dataset.directory, LINEAR, {"lr": 0.5}, {"lr": 0.1})
        pid = zygote(fresh)

        def held():
            ours, theirs = Path("/proc/self/fd"), Path(f"/proc/{pid}/fd")
            return len(list(ours.iterdir())), len(list(theirs.iterdir())), len(family(pid))

        def resident():
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

        before, size = held(), resident()
        for _ in range(1000):
            fresh.check(dataset.directory, LINEAR, {"lr": 0.5}, {"lr": 0.1})
        # Less is no leak: what other tests of this process left behind may be collected meanwhile.
        until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
        assert resident() < size + (2 << 20)
        assert zygote(fresh) == pid
