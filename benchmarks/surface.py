"""What a simulated surface costs to make and to live on, and what its live tests can see.

    python benchmarks/surface.py                  # every preset, about two minutes
    python benchmarks/surface.py --preset home --users 20000

For each preset: seconds to make the surface; rows of its log, and of the training period; seconds of a day
under counted clicks, and of one with production and two live candidates, all trained and scored in the
evaluator's locked processes (whose CPU time is not in ours); and, with one slot or two, the power to find 5%
and 10% more active days in two weeks, the smallest lift found with 80%, and the chance that a candidate
that changes nothing passes the weaker guardrail.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from evorank.model.delta import apply_delta
from evorank.surfaces.platform import LiveTest
from evorank.surfaces.simulated.create import USERS, create
from evorank.surfaces.simulated.platform import SimulatedPlatform
from evorank.surfaces.simulated.presets import PRESETS
from evorank.surfaces.surface import Surface
from evorank.tools.abtest.past import expected_power
from evorank.tools.abtest.plan import Plan
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.workbench import Workbench

CANDIDATES = {
    "production": [],
    "slower": [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}],
    "wider": [{"op": "replace", "path": "/architecture/embedding_dim", "value": 24}],
}


def days(platform: SimulatedPlatform, count: int) -> list[float]:
    """Seconds of a day, on the clock and of our CPU; the first one is lived before, since encoders and
    processes start in it."""
    platform.next_day()
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        platform.next_day()
    return [(time.perf_counter() - start) / count, (time.process_time() - cpu) / count]


def busy(surface: Surface, home: Path, count: int) -> dict[str, object]:
    """A launch, and two tests on half of the traffic each."""
    online = surface.spec.online
    assert online is not None
    online = online.model_copy(update={"slots": 2})
    surface = Surface(surface.spec.model_copy(update={"online": online}), surface.directory)
    with LocalPool() as pool:
        bench = Workbench(surface, pool, home / "cache")
        folders = {}
        for name, patch in CANDIDATES.items():
            phi = apply_delta(copy.deepcopy(bench.production), patch, ["/optimizer", "/architecture"])
            folders[name] = home / "artifacts" / name
            cost = bench.export(phi, folders[name])
        platform = SimulatedPlatform(surface, pool.scorer)
        platform.launch(str(folders["production"]), 0, "launch")
        for slot, name in enumerate(("slower", "wider")):
            test = LiveTest(
                experiment_id=name,
                layer=surface.layer,
                slot=online.slot(slot),
                seed=name,
                coverage=1.0,
                control=str(folders["production"]),
                candidate=str(folders[name]),
            )
            platform.start(test, name)
        seconds = days(platform, count)
        platform.close()
        bench.close()
    return {"CPU-seconds of a training": cost.train_cpu_seconds, "s / day, two candidates": seconds}


def power(surface: Surface) -> Iterator[tuple[str, float]]:
    """What the traffic so far says of a test that would start now."""
    online = surface.spec.online
    assert online is not None
    platform = SimulatedPlatform(surface, LocalPool.scorer)  # type: ignore[arg-type] - nothing is served
    plan = Plan(experiment_id="x", start=platform.now(), metrics=online.metrics, pre_days=online.pre_days)
    with platform.connect() as connection:
        for slots in (1, 2):
            share = (1 - online.holdback) / slots
            found = {
                wanted: expected_power(connection, plan, share, online.ramp, wanted).report
                for wanted in (0.05, 0.1)
            }
            for wanted, report in found.items():
                assert report is not None
                yield f"{slots} slot(s): power for {wanted:.0%}", report.metrics[0].power
            assert report is not None
            for metric in report.metrics:
                if metric.role == "success":
                    yield f"{slots} slot(s): detectable, {metric.metric}", metric.detectable or float("nan")
            weakest = min(metric.power for metric in report.metrics if metric.role == "guardrail")
            yield f"{slots} slot(s): neutral passes guardrails", weakest


def measure(preset: str, users: int, seed: int, count: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        start, cpu = time.perf_counter(), time.process_time()
        surface = create(home, preset, preset, users=users, seed=seed)
        taken = [time.perf_counter() - start, time.process_time() - cpu]
        row: dict[str, object] = {"preset": preset, "users": users, "s to make": taken}
        row |= dict(power(surface))
        dataset = surface.dataset()
        row |= {"rows": len(dataset), "training rows": dataset.schema.training_rows}
        row["s / day, counted clicks"] = days(SimulatedPlatform(surface, LocalPool.scorer), count)  # type: ignore[arg-type]
        return row | busy(surface, home, count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", action="append", choices=sorted(PRESETS), help="default: all")
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--days", type=int, default=5, help="days that are timed")
    parser.add_argument("--seed", type=int, default=0, help="of the world")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for preset in given.preset or list(PRESETS):
        row = measure(preset, given.users, given.seed, given.days)
        if given.json:
            print(json.dumps(row), flush=True)
            continue
        print(f"\n## {row.pop('preset')}\n")
        for name, value in row.items():
            several = value if isinstance(value, list) else [value]
            told = [f"{each:,.3g}" if isinstance(each, float) else f"{each:,}" for each in several]
            print(f"{name}: {', of CPU '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
