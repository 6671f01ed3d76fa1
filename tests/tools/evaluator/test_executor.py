from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from evorank.model.errors import ToolError
from evorank.model.system import Objective
from evorank.tools.evaluator.executor import Checked, Job
from evorank.tools.evaluator.local import LocalPool

SYSTEM = "linear_system:LinearSystem"


@pytest.fixture(scope="module")
def lone(dataset):
    """A pool of one worker with a short limit."""
    with LocalPool(workers=1, limit=3.0) as pool:
        yield pool


def job(dataset, seed=0, **phi):
    train, score = dataset.bounds["train"], dataset.bounds["validation"]
    return Job(
        dataset=dataset.directory,
        system=SYSTEM,
        production={"lr": 0.5},
        phi={"lr": 0.5} | phi,
        label_path=dataset.label_path(Objective("click"), "train"),
        loss="bce",
        seed=seed,
        train=(train.start, train.stop),
        score=(score.start, score.stop),
    )


def test_a_job_gives_predictions_and_what_they_cost(pool, dataset):
    evaluation = pool.result(pool.submit(job(dataset)), timeout=60)
    rows = dataset.bounds["validation"]
    assert evaluation.predictions.shape == (rows.stop - rows.start,)
    assert evaluation.predictions.dtype == np.float32
    assert evaluation.parameters == 1000
    assert evaluation.train_cpu_seconds > 0
    assert evaluation.latency_ms > 0


def test_the_same_job_gives_the_same_predictions_in_any_worker(pool, dataset):
    ids = [pool.submit(job(dataset, seed=3)) for _ in range(4)]
    first, *others = [pool.result(id, timeout=60).predictions for id in ids]
    assert all(np.array_equal(first, other) for other in others)


def test_results_match_their_jobs_when_many_threads_submit(pool, dataset):
    found = {}

    def one(shift):
        found[shift] = float(pool.result(pool.submit(job(dataset, shift=shift)), 60).predictions.mean())

    threads = [threading.Thread(target=one, args=[shift]) for shift in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found, key=found.__getitem__) == [-2.0, -1.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("die", "died"),
        ("raise", "no rows left after filtering"),
        ("memory", r"needed more than [\d.]+ GB of memory"),
        ("nan", "1 of .* not finite.*learning rate"),
        ("short", r"must return float32 \[\d+\], got float32"),
        ("double", "got float64"),
        ("beyond", r"probabilities in \[0, 1\]"),
    ],
)
def test_a_broken_training_is_a_tool_error_and_the_next_one_works(pool, dataset, fault, message):
    with pytest.raises(ToolError, match=message):
        pool.result(pool.submit(job(dataset, fault=fault)), timeout=60)
    assert len(pool.result(pool.submit(job(dataset)), timeout=60).predictions)


@pytest.mark.parametrize("fault", ["nan", "double"])
def test_a_training_that_gives_nothing_says_what_it_cost(pool, dataset, fault):
    with pytest.raises(ToolError) as told:
        pool.result(pool.submit(job(dataset, fault=fault, burn=0.4)), timeout=60)
    assert told.value.cpu_seconds >= 0.4


def test_a_cancelled_training_says_what_it_cost_by_then(lone, dataset):
    id = lone.submit(job(dataset, burn=30.0))
    while id not in lone._running or not lone._running[id].children:
        time.sleep(0.01)
    time.sleep(0.5)
    lone.cancel(id)
    with pytest.raises(ToolError, match="cancelled") as told:
        lone.result(id, timeout=60)
    assert 0 < told.value.cpu_seconds < 30


def test_a_hung_training_is_stopped_at_its_limit(lone, dataset):
    hung, next_one = lone.submit(job(dataset, fault="hang")), lone.submit(job(dataset))
    with pytest.raises(ToolError, match="longer than 3 seconds"):
        lone.result(hung, timeout=60)
    assert lone.result(next_one, timeout=60).parameters == 1000


def test_a_cancelled_job_fails_whether_it_runs_or_waits(lone, dataset):
    running, waiting = lone.submit(job(dataset, fault="hang")), lone.submit(job(dataset, fault="hang"))
    while running not in lone._running:
        time.sleep(0.01)
    lone.cancel(waiting)
    lone.cancel(running)
    for id in (running, waiting):
        with pytest.raises(ToolError, match="cancelled"):
            lone.result(id, timeout=60)
    assert lone.result(lone.submit(job(dataset)), timeout=60)


def test_poll_says_none_until_the_result_is_there(pool, dataset):
    id = pool.submit(job(dataset, burn=0.3))
    assert pool.poll(id) is None
    while (found := pool.poll(id)) is None:
        time.sleep(0.01)
    assert found.train_cpu_seconds >= 0.3
    with pytest.raises(ToolError, match="result was taken"):
        pool.poll(id)


def test_workers_do_not_see_the_keys_of_the_parent(pool, dataset, monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "hunter2")
    with LocalPool(workers=1) as fresh, pytest.raises(ToolError, match="key is nowhere"):
        fresh.result(fresh.submit(job(dataset, fault="secret")), timeout=60)


def test_check_runs_in_a_worker_and_gives_findings(pool, dataset):
    found = pool.check(dataset.directory, SYSTEM, {"lr": 0.5}, {"lr": -1})
    assert [(finding.pointer, finding.value) for finding in found.findings] == [("/lr", "-1")]
    assert found.parameters is None
    assert pool.check(dataset.directory, SYSTEM, {"lr": 0.5}, {"lr": 0.1}) == Checked([], 1000)


def test_a_system_that_cannot_be_found_is_a_tool_error(pool, dataset):
    with pytest.raises(ToolError, match="no_such_module"):
        pool.check(dataset.directory, "no_such_module:Ranker", {}, {})


def test_a_closed_pool_refuses_jobs_and_fails_the_ones_it_had(dataset):
    pool = LocalPool(workers=1)
    id = pool.submit(job(dataset, fault="hang"))
    pool.close()
    pool.close()
    with pytest.raises(ToolError, match=r"closed|died"):
        pool.result(id, timeout=10)
    with pytest.raises(ToolError, match="closed"):
        pool.submit(job(dataset))


def descendants(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found, wanted = set(), {pid}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted}
        found |= wanted
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_no_process_survives_a_parent_that_is_killed_while_training(dataset, tmp_path):
    program = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from evorank.tools.evaluator.executor import Job
        from evorank.tools.evaluator.local import LocalPool
        pool = LocalPool(workers=2)
        labels = Path({str(dataset.label_path(Objective("click"), "train"))!r})
        jobs = [Job(Path({str(dataset.directory)!r}), {SYSTEM!r}, {{}}, {{"lr": 1, "fault": "hang"}},
                    labels, "bce", 0, (0, 10), (10, 20))] * 2
        ids = [pool.submit(job) for job in jobs]
        while len(pool._running) < 2: pass
        assert "torch" not in sys.modules
        print("training", flush=True)
        pool.result(ids[0])
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"training\n"
    until(lambda: len(descendants(parent.pid)) >= 3)  # the zygote and two workers
    family = descendants(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not any(alive(pid) for pid in family))


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_cancelling_a_job_never_harms_the_next_one(lone, dataset):
    """The kill may land after the cancelled job has answered: it must not meet what comes after."""
    lone.result(lone.submit(job(dataset)), timeout=60)
    for round in range(25):
        first, second = lone.submit(job(dataset, steps=1 + round)), lone.submit(job(dataset))
        time.sleep(0.002 * (round % 5))
        lone.cancel(first)
        assert lone.result(second, timeout=60).parameters == 1000
