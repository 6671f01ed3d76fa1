"""How fast evorank's ranker trains beside RecBole, FuxiCTR and DeepCTR-Torch, and what loss each reaches.

One generated log, one network (DeepFM: 10 categorical fields, dim 16, MLP 256-128-64, factorisation machine,
wide part), batches of 4,096, one epoch, one thread, data in memory; no dropout, no weight decay. An arm is a
library with a setting. Every training run is a process of its own (`peer_worker.py`) that trains a throw-away
model on four batches first; only the training loop is timed, in CPU seconds of the process. Arms take turns
within a repeat, and a repeat is a seed. Ratios are ratios of medians.

The peers need an older numpy than evorank, so they live in an environment of their own (Python 3.11):

    python3.11 -m venv PEERS && PEERS/bin/pip install --no-deps -r benchmarks/requirements-peers.txt
    python benchmarks/peers.py --peers-python PEERS/bin/python          # half an hour on an idle core

How each is used, which is how its users do, at the fastest settings it offers:

- evorank: `train.fit`. "As the peers": Adam at 0.001 and float32, like everybody else here. Then two settings
  of Φ: `precision: bfloat16`, and with it `embedding: RowwiseAdagrad` at 0.02 (the rest stays with Adam).
- RecBole: its DeepFM, `TrainDataLoader` (worker 0) and `Trainer.fit` without validation, checkpoints or
  progress bar; Adam as the trainer builds it. `enable_amp` is bfloat16 autocast on a CPU. Its `sparse_adam`
  refuses the dense gradients of its own DeepFM.
- FuxiCTR: DeepFM of its blocks, as in its model zoo, `NpzDataLoader` (in memory, num_workers 0) and
  `BaseModel.fit` without validation or progress bar; its clipping of gradients cannot be turned off.
  "Parts by hand" replaces what one can without editing it, with fused Adam and with batches cut from
  tensors: it is shown, and not counted among the peers.
- DeepCTR-Torch: its DeepFM and `fit(verbose=0)` without L2. `compile` takes an optimizer: fused Adam.

Limit: each library's own initial weights and order of rows; losses are means over seeds, with their spread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

WORKER = Path(__file__).with_name("peer_worker.py")
GROUPS = {"46k": 46_000, "1M": 1_000_000}
"""Embedding rows of all fields together."""

ADAM = {"name": "Adam", "args": {"lr": 1e-3}}
BF16 = {"precision": "bfloat16"}
ROWWISE = {"embedding": {"name": "RowwiseAdagrad", "args": {"lr": 0.02}}}
ADAGRAD = {"learner": "adagrad", "rate": 0.02}


@dataclass(frozen=True)
class Arm:
    name: str
    library: str
    options: dict[str, Any] = field(default_factory=dict)
    bf16: bool = False
    stock: bool = True
    """Whether it uses the library as it is. Ratios are against the fastest peer that does."""


ARMS = [
    Arm("evorank, as the peers", "evorank", {"options": ADAM}),
    Arm("evorank, bf16", "evorank", {"options": ADAM | BF16}, bf16=True),
    Arm("evorank, RowwiseAdagrad, bf16", "evorank", {"options": ADAM | ROWWISE | BF16}, bf16=True),
    Arm("RecBole", "recbole"),
    Arm("RecBole, bf16", "recbole", {"amp": True}, bf16=True),
    Arm("RecBole, Adagrad, bf16", "recbole", ADAGRAD | {"amp": True}, bf16=True),
    Arm("FuxiCTR", "fuxictr"),
    Arm("FuxiCTR, parts by hand", "fuxictr", {"ready": True, "fused": True}, stock=False),
    Arm("DeepCTR-Torch", "deepctr-torch"),
    Arm("DeepCTR-Torch, fused Adam", "deepctr-torch", {"fused": True}),
]


@dataclass
class Result:
    arm: str
    samples_per_cpu_second: int
    samples_per_second: int
    """Of wall clock."""
    ratio: float | None
    """Speed per CPU-second over the fastest peer's, all precisions; None if no peer ran."""
    ratio_same_precision: float | None
    """The same, over the fastest peer of the same precision."""
    log_loss: float
    """Held-out, nats per impression, lower is better: mean over the repeats."""
    log_loss_spread: float
    """Standard deviation over the repeats; 0 for a single one."""


def run(arm: Arm, python: str, seed: int, data: Path, held_out: np.ndarray) -> dict[str, Any]:
    """One training run: its CPU and wall seconds, the held-out loss, and the versions it ran with."""
    from training import log_loss

    out = data.with_name("answer.json")
    request = {"library": arm.library, "options": arm.options, "seed": seed}
    asked = data.with_name("request.json")
    asked.write_text(json.dumps(request | {"data": str(data), "out": str(out)}))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [python, "-W", "ignore", str(WORKER), str(asked)]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{arm.name} failed with {done.returncode}:\n{done.stdout[-500:]}\n{done.stderr[-3000:]}")
    answer = json.loads(out.read_text())
    return answer | {"loss": log_loss(np.load(out.with_suffix(".npy")), held_out)}


def measure(
    arms: Sequence[Arm], pythons: dict[str, str], size: int, rows: int, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """What `run` returned, by arm and repeat, for `size` embedding rows."""
    from training import generate

    log = generate(rows, size)
    runs: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "log.npz"
        codes, held_out = log.rows.categorical, log.held_out.categorical
        vocabulary = log.rows.features[0].size
        np.savez(data, codes=codes, labels=log.labels, held_out=held_out, size=vocabulary)
        for seed in range(repeats):
            for arm in arms:
                answer = run(arm, pythons[arm.library], seed, data, log.held_out_labels)
                runs[arm.name].append(answer)
                told = f"{answer['cpu']:.2f} CPU s, {answer['wall']:.2f} s, log-loss {answer['loss']:.5f}"
                print(f"  {seed} {arm.name}: {told}", file=sys.stderr, flush=True)
    return runs


def summarize(arms: Sequence[Arm], runs: dict[str, list[dict[str, Any]]], rows: int) -> list[Result]:
    speed = {name: rows / statistics.median(a["cpu"] for a in answers) for name, answers in runs.items()}

    def ratio(arm: Arm, *, same: bool) -> float | None:
        peers = [a for a in arms if a.library != "evorank" and a.stock and (a.bf16 == arm.bf16 or not same)]
        return round(speed[arm.name] / max(speed[a.name] for a in peers), 2) if peers else None

    results = []
    for arm in arms:
        answers = runs[arm.name]
        losses = [answer["loss"] for answer in answers]
        results.append(
            Result(
                arm.name,
                round(speed[arm.name]),
                round(rows / statistics.median(answer["wall"] for answer in answers)),
                ratio(arm, same=False),
                ratio(arm, same=True),
                round(statistics.mean(losses), 4),
                round(statistics.stdev(losses), 4) if len(losses) > 1 else 0.0,
            )
        )
    return results


def table(title: str, results: list[Result], rows: int, repeats: int) -> str:
    lines = [
        f"\n{title} embedding rows: {rows:,} rows, {repeats} interleaved repeats",
        f"{'':32}{'samples / CPU s':>16}{'/ wall s':>10}{'x best peer':>13}{'x its bits':>12}{'loss':>18}",
    ]
    for r in results:
        ratios = [f"{x:.2f}" if x is not None else "-" for x in (r.ratio, r.ratio_same_precision)]
        loss = f"{r.log_loss:.4f} ± {r.log_loss_spread:.4f}"
        lines.append(
            f"{r.arm:32}{r.samples_per_cpu_second:>16,}{r.samples_per_second:>10,}"
            f"{ratios[0]:>13}{ratios[1]:>12}{loss:>18}"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers-python", metavar="PATH", help="interpreter that has the peers")
    parser.add_argument("--rows", type=int, default=1_000_000, help="to train on; a tenth more is held out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--group", choices=list(GROUPS), action="append", help="default: all")
    known = sorted({arm.library for arm in ARMS})
    parser.add_argument("--library", choices=known, action="append", help="default: all")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args(arguments)
    options.library = options.library or known
    options.group = options.group or list(GROUPS)
    if options.peers_python is None and options.library != ["evorank"]:
        parser.error("--peers-python is needed for every library but evorank (--library evorank).")
    if options.rows < 1 or options.repeats < 1:
        parser.error("--rows and --repeats must be at least 1.")
    return options


def main() -> None:
    options = parse()
    arms = [arm for arm in ARMS if arm.library in options.library]
    pythons = dict.fromkeys(options.library, options.peers_python) | {"evorank": sys.executable}
    report, versions = {}, {}
    for title in options.group:
        runs = measure(arms, pythons, GROUPS[title], options.rows, options.repeats)
        results = summarize(arms, runs, options.rows)
        report[title] = [asdict(result) for result in results]
        versions |= {k: v for answers in runs.values() for k, v in answers[0]["versions"].items()}
        if not options.json:
            print(table(title, results, options.rows, options.repeats), flush=True)
    if options.json:
        about = {"rows": options.rows, "repeats": options.repeats, "machine": platform.platform()}
        print(json.dumps(about | {"load": os.getloadavg(), "versions": versions, "groups": report}))
    else:
        print("\n" + ", ".join(f"{name} {number}" for name, number in versions.items()))


if __name__ == "__main__":
    main()
