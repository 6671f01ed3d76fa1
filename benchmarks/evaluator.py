"""What the evaluator costs: candidates per hour, against other ways to run the same trainings.

    python benchmarks/evaluator.py                      # 50,000 training rows: about 10 minutes
    python benchmarks/evaluator.py --rows 1000000 --candidates 6
    python benchmarks/evaluator.py --memory             # resident memory as workers and rows grow

Every arm trains and scores the same candidates (production with another learning rate) on the same encoded
log, `--workers` at a time, one thread each. `evaluator` is what a run does: check, train and score in
locked processes that stay, predictions into the cache; `evaluator, code` does the same in a process for each
step, and probes, as if every candidate had brought code. `loky` and `fresh process` only fit and predict, in
processes that are warm or new, trusted and unlocked. `in process` is the floor: fit and predict in a loop, in
one process per worker that had everything loaded before the clock started. Arms take turns, `--repeats`
times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from memory import SURFACE, import_log, write_log

from evorank.model.system import Phi
from evorank.surfaces.surface import Surface, open_surface
from evorank.tools.evaluator import executor, local
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.workbench import Workbench

TRAINING_SHARE = 0.7
"""Of a log's rows, by time: what the encoder keeps for training."""


@dataclass(frozen=True)
class Result:
    arm: str
    candidates_per_hour: float
    training_ms: float
    """What `in process` needs to fit a candidate: the same in every arm."""
    scoring_ms: float
    """What `in process` needs to predict."""
    overhead_ms: float
    """Per candidate: workers x wall seconds, less both."""
    training_share: float
    """Of workers x wall seconds, what `in process` needs to fit."""


def candidates(production: Phi, count: int) -> list[Phi]:
    rates = [0.1 * 0.97**n for n in range(1, count + 1)]
    optimizer = production["optimizer"]
    return [production | {"optimizer": optimizer | {"args": {"lr": rate}}} for rate in rates]


def one(home: str, phi: Phi) -> tuple[float, float]:
    """Fit and predict in this process: CPU-free wall seconds of each."""
    surface = _opened(home)
    dataset, system = surface.dataset(), surface.system()
    train, score = dataset.bounds["train"], dataset.bounds["validation"]
    labels = dataset.labels(system.objective(phi))[train]
    began = time.perf_counter()
    weights = system.fit(phi, dataset.rows(train), labels, 0)
    fitted = time.perf_counter()
    system.predict(phi, weights, dataset.rows(score))
    return fitted - began, time.perf_counter() - fitted


_surfaces: dict[str, Surface] = {}


def _opened(home: str) -> Surface:
    import torch

    torch.set_num_threads(1)
    if home not in _surfaces:
        _surfaces[home] = open_surface(Path(home), SURFACE)
    return _surfaces[home]


def fresh(home: str, phi: Phi) -> None:
    program = "import json, sys; from evaluator import one; one(sys.argv[1], json.loads(sys.argv[2]))"
    subprocess.run(
        [sys.executable, "-c", program, home, json.dumps(phi)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )


def measure(home: Path, workers: int, count: int, repeats: int) -> list[Result]:
    surface = open_surface(home, SURFACE)
    surface.check_label()
    phis = candidates(surface.production(), count)
    walls: dict[str, list[float]] = {}
    fits: list[float] = []
    predicts: list[float] = []

    def timed(arm: str, run: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = run()
        walls.setdefault(arm, []).append(time.perf_counter() - began)
        print(f"  {arm}: {walls[arm][-1]:.1f} s", file=sys.stderr, flush=True)
        return found

    with (
        LocalPool(workers) as pool,
        ProcessPoolExecutor(workers, get_context("spawn")) as floor,
        ThreadPoolExecutor(2 * workers) as threads,
        ThreadPoolExecutor(workers) as pairs,
    ):
        bench = Workbench(surface, pool, home / "cache")
        loky = _loky(workers)

        def evaluated(phi: Phi) -> None:
            assert bench.check(phi) == []
            bench.evaluate_many([(phi, 0)], again=True)

        def everywhere(processes: Executor) -> list[tuple[float, float]]:
            return list(processes.map(one, [str(home)] * count, phis))

        warm = phis[: 2 * workers]
        list(threads.map(evaluated, warm))
        for processes in filter(None, (floor, loky)):
            list(processes.map(one, [str(home)] * len(warm), warm))
        for _ in range(repeats):
            for fit, predict in timed("in process", lambda: everywhere(floor)):
                fits.append(fit)
                predicts.append(predict)
            timed("evaluator", lambda: list(threads.map(evaluated, phis)))
            with as_if_with_code():
                timed("evaluator, code", lambda: list(threads.map(evaluated, phis)))
            if loky is not None:
                timed("loky", lambda: everywhere(loky))
            timed("fresh process", lambda: list(pairs.map(lambda phi: fresh(str(home), phi), phis)))
        bench.close()
        if loky is not None:
            loky.shutdown()
    fit, predict = median(fits), median(predicts)
    results = []
    for arm, seconds in walls.items():
        wall = median(seconds)
        spent = workers * wall / count
        overhead = spent - fit - predict
        results.append(
            Result(arm, 3600 * count / wall, 1e3 * fit, 1e3 * predict, 1e3 * overhead, fit / spent)
        )
    return results


@contextmanager
def as_if_with_code() -> Iterator[None]:
    """No candidate counts as one that runs nobody's code but evorank's."""
    before = executor.runs_only_ours
    executor.runs_only_ours = local.runs_only_ours = lambda system, phi: False
    try:
        yield
    finally:
        executor.runs_only_ours = local.runs_only_ours = before


def _loky(workers: int) -> Executor | None:
    try:
        from loky import ProcessPoolExecutor as Loky
    except ImportError:
        print("loky is not installed (pip install loky): that arm is left out", file=sys.stderr)
        return None
    started: Executor = Loky(workers)
    return started


def memory(home: Path, counts: list[int]) -> list[dict[str, float]]:
    """Peak of the proportional set size of all worker processes while every worker trains."""
    surface = open_surface(home, SURFACE)
    surface.check_label()
    found = []
    for workers in counts:
        with LocalPool(workers) as pool, ThreadPoolExecutor(workers) as threads:
            bench = Workbench(surface, pool, home / "cache")
            phis = candidates(surface.production(), 2 * workers)
            done, peak = threading.Event(), [0.0]
            watch = threading.Thread(target=_watch, args=(done, peak))
            watch.start()
            trained = [*threads.map(partial(bench.evaluate_many, again=True), [[(phi, 0)] for phi in phis])]
            done.set()
            watch.join()
            bench.close()
        largest = max(each[0].peak_memory for each in trained) / 1e6
        found.append({"workers": workers, "largest child MB": largest, "all processes MB": peak[0] / 1e6})
    return found


def _watch(done: threading.Event, peak: list[float]) -> None:
    while not done.wait(0.05):
        peak[0] = max(peak[0], sum(_proportional(pid) for pid in _below(os.getpid())))


def _proportional(pid: int) -> float:
    """Bytes, shared pages divided among those who share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(1024.0 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _below(pid: int) -> set[int]:
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


def table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) - 1)]
    for row in rows:
        cells = [f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000, help="training rows")
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # for every process that is started here
    with tempfile.TemporaryDirectory() as temporary:
        log, home = Path(temporary) / "log.parquet", Path(temporary) / "home"
        rows = round(options.rows / TRAINING_SHARE)
        write_log(log, rows)
        import_log(home, log, rows)
        found: list[dict[str, Any]]
        if options.memory:
            found = memory(home, [1, 2, 4])
        else:
            found = [asdict(r) for r in measure(home, options.workers, options.candidates, options.repeats)]
    print(json.dumps({"rows": options.rows, "results": found}) if options.json else table(found))


if __name__ == "__main__":
    main()
