"""The journal's costs as it grows: milliseconds per append, bytes per record, cold and incremental reads.

    python benchmarks/journal.py [--records 100 1000 10000] [--store postgresql://...] [--json]

Writes only to a temporary directory, or to the empty database that `--store` names. About half a
minute for the default sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint

from evorank.graph.journal import Journal, thread_id
from evorank.graph.sqlite import SqliteStore
from evorank.graph.state import Attempt, Experiment
from evorank.graph.store import Store

READ = """
import sys, time
from pathlib import Path
from evorank.graph.journal import Journal
journal = Journal.open(Path(sys.argv[1]), url=sys.argv[2] or None)
start = time.perf_counter()
count = len(journal.attempts())
print(count, time.perf_counter() - start)
"""

PHI = {
    "optimizer": {
        "name": "Adagrad",
        "args": {"lr": 0.1},
        "embedding": None,
        "batch_size": 4096,
        "epochs": 1.0,
        "schedule": {"name": "constant", "args": {}},
        "grad_clip": None,
        "precision": "float32",
    },
    "architecture": {
        "embedding_dim": 16,
        "layers": {
            "h1": "relu(dense(inputs, 128))",
            "h2": "relu(dense(h1, 128))",
            "output": "layer_norm(h2)",
        },
    },
    "reward": {
        "factors": {"watched": "LEAST(watch_s / duration_s, 1.0)", "clicked": "CAST(click AS DOUBLE)"},
        "label": "clicked * watched",
        "loss": "bce",
    },
    "components": {},
}
ARM = {
    "loss": 0.512345678,
    "auc": 0.712345678,
    "gauc": 0.61234567,
    "ndcg": 0.41234567,
    "calibration": 1.01234,
    "alignment": None,
    "parameters": 123456,
    "train_cpu_seconds": 1.23456,
    "samples_per_cpu_second": 101234.5,
    "latency_ms": 1.234,
}


def record(step: int) -> Attempt:
    """An attempt of the size that real ones have: about 2.3 KB as a checkpoint."""
    patch = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.0001 * step}]
    comparison = {
        "metric": "log_loss",
        "lower_is_better": True,
        "verdict": "worse",
        "difference": 0.00123456,
        "low": 0.0005,
        "high": 0.002,
        "margin": 0.001,
        "seeds": [0, 1, 2, 3],
        "effort": "full",
        "rows": 100_000,
        "candidate": ARM,
        "production": ARM,
        "reason": "log_loss rose by 0.0012 (95% interval 0.0005 to 0.0020) over 4 seeds.",
    }
    return Attempt(
        id=thread_id("benchmark", step),
        run="benchmark",
        step=step,
        surface="simulated",
        data_version="0123456789abcdef",
        persona="optimizer",
        category="explore",
        hypothesis="A smaller step settles lower on rare ids, because Adagrad's sum never forgets. " * 3,
        base="f" * 64,
        production="f" * 64,
        patch=patch,
        changes=patch,
        phi=PHI,
        fingerprint=f"{step:064x}",
        outcome="worse",
        reason=str(comparison["reason"]),
        comparison=comparison,
        model="embedded engineer",
        seed=step,
        started_at="2026-01-01T00:00:00+00:00",
        seconds=3.2,
    )


def measure(records: int, url: str | None = None) -> dict[str, float]:
    """One size: fill a fresh journal, then read it in fresh processes and behind a watermark."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        writer = Journal.open(home, url=url)
        before = len(writer.attempts())
        if before:
            raise SystemExit(
                f"{writer.store.name} holds {before} attempts: give one size, and an empty database"
            )
        appends = []
        for step in range(records):
            entry = record(step)
            start = time.perf_counter()
            writer.append(entry)
            appends.append(time.perf_counter() - start)
        cold = []
        for _ in range(3):
            answer = subprocess.run(
                [sys.executable, "-c", READ, folder, url or ""], check=True, capture_output=True, text=True
            )
            count, seconds = answer.stdout.split()
            assert int(count) == records
            cold.append(float(seconds))
        reader = Journal.open(home, url=url)
        reader.attempts()
        incremental = []
        for step in range(records, records + 20):
            writer.append(record(step))
            start = time.perf_counter()
            found = reader.attempts()
            incremental.append(time.perf_counter() - start)
            assert len(found) == step + 1
        size = bytes_of(writer.store, home)
        threads = experiments(writer.store, reader, records // 100)
        tail = appends[-max(20, records // 10) :]
        writer.close()
        reader.close()
    return {
        "records": records,
        "append_ms": 1e3 * statistics.median(appends),
        "append_ms_last_tenth": 1e3 * statistics.median(tail),
        "bytes_per_record": size / (records + 20),
        "cold_read_s": min(cold),
        "incremental_read_ms": 1e3 * statistics.median(incremental),
        "one_moved_experiment_ms": threads,
    }


def bytes_of(store: Store, home: Path) -> int:
    if isinstance(store, SqliteStore):
        with store.reading() as access:
            access.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sum(path.stat().st_size for path in home.iterdir())
    with store.reading() as access:
        return int(access.execute("SELECT pg_database_size(current_database())")[0][0])


def experiments(store: Store, reader: Journal, count: int) -> float:
    """Milliseconds to read what moved, among `count` threads of 40 checkpoints (a test of two weeks) each."""
    phi = {
        "id": "",
        "surface": "simulated",
        "proposed_by": "x",
        "production": "",
        "phi": PHI,
        "fingerprint": "",
    }
    taken = []
    for thread in range(count):
        where: Any = {"configurable": {"thread_id": f"experiment {thread}", "checkpoint_ns": ""}}
        for step in range(40):
            checkpoint = empty_checkpoint()
            checkpoint["channel_values"] = {"record": Experiment(**phi | {"id": str(thread)}).model_dump()}
            checkpoint["channel_versions"] = {"record": str(step)}
            metadata: Any = {"source": "loop", "step": step, "kind": "experiment"}
            where = store.saver.put(where, checkpoint, metadata, {"record": str(step)})
        start = time.perf_counter()
        assert len(reader.experiments()) == thread + 1
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken[-20:]) if taken else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--store", help="an empty PostgreSQL database in place of a file")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options = parser.parse_args()
    rows = [measure(records, options.store) for records in options.records]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        "| records | append, ms | its last tenth, ms | KB per record | cold read, s | one new record, ms "
        "| one moved experiment, ms |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        print(
            f"| {row['records']:,} | {row['append_ms']:.2f} | {row['append_ms_last_tenth']:.2f} "
            f"| {row['bytes_per_record'] / 1024:.1f} | {row['cold_read_s']:.3f} "
            f"| {row['incremental_read_ms']:.2f} | {row['one_moved_experiment_ms']:.2f} |"
        )


if __name__ == "__main__":
    main()
