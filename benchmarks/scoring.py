"""What the locked scorer costs against the same network in this process: throughput and latency, in one run.

    python benchmarks/scoring.py --rows 200000 --seconds 5

Throughput is measured on batches of 50,000 rows, latency on pages of 500 candidates, both through a
`Scorer` and through `predict` in this process (one thread each), turn and turn about, so that a busy moment
meets both. The log is random; the network is production's.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import numpy as np

from evorank.model.config import default_phi
from evorank.model.ranker import NeuralRanker
from evorank.model.system import Feature, LogSchema, Rows
from evorank.tools.evaluator.artifact import export_artifact
from evorank.tools.evaluator.blocks import memory_file, write_weights
from evorank.tools.evaluator.local import LocalPool

SYSTEM = "evorank.model.ranker:NeuralRanker"
BATCH, PAGE = 50_000, 500
FEATURES = (
    Feature("user_id", "categorical", 20_000),
    Feature("item_id", "categorical", 20_000),
    *(Feature(f"field_{n}", "categorical", 100) for n in range(6)),
    *(Feature(f"number_{n}", "numeric") for n in range(3)),
    Feature("recent_items", "history", length=20, of="item_id"),
)


def random_rows(count: int, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    sizes = [feature.size for feature in FEATURES if feature.kind == "categorical"]
    codes = np.stack([draw.integers(0, size, count, dtype=np.int32) for size in sizes], axis=1)
    numbers = draw.standard_normal((count, 3), dtype=np.float32)
    return Rows(FEATURES, codes, numbers, {"recent_items": draw.integers(0, 20_000, (count, 20), np.int32)})


def exported(folder: Path) -> tuple[NeuralRanker, dict, dict]:
    """Production's network, trained for a moment, as an artifact and here."""
    schema = LogSchema(FEATURES, {"click": "BOOLEAN"}, 10_000)
    phi = default_phi(label="click", factors={})
    system, rows = NeuralRanker(schema, phi), random_rows(10_000)
    weights = system.fit(phi, rows, (rows.numeric[:, 0] > 0).astype(np.float32), 0)
    file = memory_file("weights")
    write_weights(file, weights)
    export_artifact(
        folder, system=SYSTEM, production=phi, phi=phi, schema=schema, loss="bce", data="random", seed=0,
        weights=file,
    )  # fmt: skip
    os.close(file)
    return system, phi, weights


def alternate(one, other, rows: Rows, size: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each call on successive batches, one and the other in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for score in (one, other):
        score(rows[:size])
    end, start = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        part = rows[start : start + size]
        start = start + size if start + 2 * size <= len(rows) else 0
        for score, taken in zip((one, other), times, strict=True):
            begun = time.perf_counter()
            score(part)
            taken.append(time.perf_counter() - begun)
    return np.array(times[0]), np.array(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two measurements")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = random_rows(max(options.rows, BATCH), seed=1)
    with tempfile.TemporaryDirectory() as home, LocalPool(workers=1) as pool:
        system, phi, weights = exported(Path(home) / "artifact")
        import torch

        torch.set_num_threads(1)

        def here(part: Rows) -> np.ndarray:
            return system.predict(phi, weights, part)

        with pool.scorer(Path(home) / "artifact", capacity=BATCH) as scorer:
            assert np.allclose(scorer.score(rows[:BATCH]), here(rows[:BATCH]), atol=1e-5)
            theirs, ours = alternate(scorer.score, here, rows, BATCH, options.seconds)
            page, plain = alternate(scorer.score, here, rows, PAGE, options.seconds)
        found = {
            "tier": pool.tier,
            "scorer_rows_per_second": BATCH / float(np.median(theirs)),
            "in_process_rows_per_second": BATCH / float(np.median(ours)),
            "throughput_ratio": float(np.median(ours) / np.median(theirs)),
            "scorer_p50_ms": 1e3 * float(np.percentile(page, 50)),
            "scorer_p99_ms": 1e3 * float(np.percentile(page, 99)),
            "in_process_p50_ms": 1e3 * float(np.percentile(plain, 50)),
            "in_process_p99_ms": 1e3 * float(np.percentile(plain, 99)),
        }
    if options.json:
        print(json.dumps(found))
        return
    print("| | locked scorer | in this process |\n|---|---|---|")
    print(
        f"| rows per second, batches of {BATCH:,} | {found['scorer_rows_per_second']:,.0f} | "
        f"{found['in_process_rows_per_second']:,.0f} |"
    )
    for name in ("p50", "p99"):
        ours_ms, plain_ms = found[f"scorer_{name}_ms"], found[f"in_process_{name}_ms"]
        print(f"| {name} of {PAGE} candidates, ms | {ours_ms:.2f} | {plain_ms:.2f} |")
    print(f"\nThroughput ratio {found['throughput_ratio']:.2f}, tier {found['tier']}.")


if __name__ == "__main__":
    main()
