"""memory: a log of 20 million rows and 10 fields imports, and trains one epoch, within 4 GB resident.

    python benchmarks/memory.py [--rows 20000000] [--keep DIRECTORY]

Writes a generated Parquet log (deleted afterwards), then runs the import and one epoch of the built-in
ranker in a process each. Reports the peak resident memory of each (memory-mapped pages included) and its
seconds; exits 1 if either is above the limit.

Measured on two shared cores, 20M rows: import 77 s and 1.13 GB, one epoch (14M rows) 202 s and 1.25 GB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LIMIT_GB = 4.0
FIELDS = ["user_id", "item_id", "author_id", "topic", "tab", "hour", "device", "country"]
SURFACE = "memory"


def write_log(path: Path, rows: int) -> None:
    """Ten fields: eight ids (up to a million users and 200,000 items), two numbers, and a click."""
    import duckdb

    connection = duckdb.connect(
        config={"memory_limit": "500MB", "temp_directory": str(path.parent / "spill")}
    )
    users, items = max(rows // 20, 100), max(rows // 100, 50)
    connection.execute(
        f"""COPY (
            SELECT *, CAST(hash(u, 3) % 100 < 15 + 5 * (topic % 5) + 2 * tab AS INTEGER) AS click,
                   (hash(u, 4) % 600) / 10.0 AS watch_s FROM (
            SELECT i AS u, CAST(pow((hash(i, 1) % 1000000) / 1e6, 2) * {users} AS INTEGER) AS user_id,
                   CAST(pow((hash(i, 2) % 1000000) / 1e6, 2) * {items} AS INTEGER) AS item_id,
                   item_id // 20 AS author_id, item_id % 50 AS topic, CAST(hash(i, 5) % 4 AS INTEGER) AS tab,
                   CAST(hash(i, 6) % 24 AS INTEGER) AS hour, CAST(hash(i, 7) % 5 AS INTEGER) AS device,
                   user_id % 40 AS country, 5 + item_id % 170 AS duration_s,
                   (hash(item_id) % 1000) / 1e3 AS quality,
                   1700000000 + CAST(hash(i, 8) % 2592000 AS BIGINT) AS time_s
            FROM range({rows}) t(i))
        ) TO '{path}' (FORMAT parquet)"""
    )


def import_log(home: Path, log: Path, rows: int) -> None:
    from evorank.model.logs.spec import Categorical, LogSpec, Numeric
    from evorank.surfaces.importers.common import finish

    finish(
        home,
        SURFACE,
        LogSpec(
            path=str(log),
            user="user_id",
            item="item_id",
            time="time_s",
            time_unit="s",
            signals=["click", "watch_s"],
            features=[*(Categorical(name=name) for name in FIELDS), Numeric(name="duration_s", log1p=True),
                      Numeric(name="quality")],
        ),
        description="Generated rows to measure memory with",
        label="clicked",
        factors={"clicked": "CAST(click AS DOUBLE)"},
        progress=lambda what, share: print(f"  {share:4.0%} {what}", flush=True),
    )  # fmt: skip


def train_epoch(home: Path, log: Path, rows: int) -> None:
    import torch

    from evorank.surfaces.surface import open_surface

    torch.set_num_threads(1)
    surface = open_surface(home, SURFACE)
    dataset, system, production = surface.dataset(), surface.system(), surface.production()
    train = dataset.bounds["train"]
    labels = dataset.labels(system.objective(production))
    weights = system.fit(production, dataset.rows(train), labels[train], seed=0)
    validation = slice(dataset.bounds["validation"].start, dataset.bounds["validation"].start + 200_000)
    predictions = system.predict(production, weights, dataset.rows(validation))
    print(f"  {len(labels[train]):,} rows trained; mean prediction {predictions.mean():.4f}", flush=True)


def measured(function: Callable[..., None], *args: object) -> tuple[float, float]:
    """Run in a process of its own: seconds, and peak resident gigabytes of that process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    began = time.perf_counter()
    process = context.Process(target=_child, args=(send, function, args))
    process.start()
    send.close()
    try:
        kilobytes = receive.recv()
    except EOFError:
        kilobytes = None
    process.join()
    if kilobytes is None or process.exitcode:
        sys.exit(f"{function.__name__} failed with exit code {process.exitcode}")
    return time.perf_counter() - began, kilobytes / 1e6


def _child(send: object, function: Callable[..., None], args: tuple[object, ...]) -> None:
    function(*args)
    send.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # type: ignore[attr-defined]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--keep", type=Path, help="work in this directory, and keep it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp(prefix="evorank-memory-", dir="."))
    work.mkdir(parents=True, exist_ok=True)
    figures = {}
    try:
        log = (work / "log.parquet").absolute()
        if not log.exists():
            print(f"generating {options.rows:,} rows ...", flush=True)
            measured(write_log, log, options.rows)
        for name, function in {"import": import_log, "train one epoch": train_epoch}.items():
            print(f"{name} ...", flush=True)
            seconds, peak = measured(function, work / "home", log, options.rows)
            figures[name] = {"seconds": round(seconds, 1), "peak_gb": round(peak, 2)}
    finally:
        if options.keep is None:
            shutil.rmtree(work, ignore_errors=True)
    if options.json:
        print(json.dumps({"rows": options.rows, **figures}))
    else:
        print(f"\n{options.rows:,} rows, 10 fields      seconds    peak resident (limit {LIMIT_GB:g} GB)")
        for name, each in figures.items():
            print(f"{name:28} {each['seconds']:9.1f}    {each['peak_gb']:.2f} GB")
    return int(any(each["peak_gb"] > LIMIT_GB for each in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
