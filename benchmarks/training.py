"""How fast the ranker trains: evorank against the tightest hand-written torch loop, and what each trick buys.

The network is DeepFM-like (10 categorical fields, dim 16, MLP 256-128-64 + fm + wide, batch 4096) on
generated rows with a planted signal. All arms of a group run in this process on one thread, in turn,
`--repeats` times; the ratio is the median of the ratios within a repeat: a busy machine slows both sides.

    python benchmarks/training.py                 # about 12 minutes on one core
    python benchmarks/training.py --rows 200000 --repeats 3 --json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from evorank.model import train, updates
from evorank.model.config import Optimizer
from evorank.model.expression import plan
from evorank.model.system import Feature, LogSchema, Rows

FIELDS, DIM, BATCH, UNITS = 10, 16, 4096, (256, 128, 64)
LAYERS = {
    "h1": "relu(dense(inputs, 256))",
    "h2": "relu(dense(h1, 128))",
    "h3": "relu(dense(h2, 64))",
    "deep": "dense(h3, 1)",
    "output": "deep + fm(fields) + wide(" + ", ".join(f"f{i}" for i in range(FIELDS)) + ")",
}
ADAM = {"name": "Adam", "args": {"lr": 1e-3}}
ADAGRAD = {"name": "Adagrad", "args": {"lr": 0.02}}
ROWWISE = {"name": "RowwiseAdagrad", "args": {"lr": 0.02}}


@dataclass
class Data:
    rows: Rows
    labels: np.ndarray
    held_out: Rows
    held_out_labels: np.ndarray


@dataclass
class Result:
    arm: str
    samples_per_cpu_second: float
    ratio: float
    """Of the group's first arm: above 1 is faster."""
    log_loss: float
    """Held-out, nats per impression, lower is better."""


def generate(rows: int, vocabulary: int) -> Data:
    """Ids with a Zipf distribution (a head seen often, a tail seen rarely), labels from latent vectors."""
    rng = np.random.default_rng(0)
    size, held_out = vocabulary // FIELDS, max(1000, rows // 10)
    n = rows + held_out
    weights = 1 / np.arange(1, size + 1) ** 1.05
    cumulative = np.cumsum(weights / weights.sum())
    codes = np.stack(
        [np.searchsorted(cumulative, rng.random(n)).clip(max=size - 1) for _ in range(FIELDS)], 1
    ).astype(np.int32)
    latent = rng.normal(0, 0.35, (FIELDS, size, 4)).astype(np.float32)
    bias = rng.normal(0, 0.25, (FIELDS, size)).astype(np.float32)
    vectors = sum(latent[f][codes[:, f]] for f in range(FIELDS))
    squares = sum((latent[f][codes[:, f]] ** 2).sum(1) for f in range(FIELDS))
    logit = sum(bias[f][codes[:, f]] for f in range(FIELDS)) + ((vectors**2).sum(1) - squares) / 2 - 1.0
    labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    features = tuple(Feature(f"f{i}", "categorical", size) for i in range(FIELDS))
    whole = Rows(features, codes, np.zeros((n, 0), np.float32))
    return Data(whole[:rows], labels[:rows], whole[rows:], labels[rows:])


def log_loss(probability: np.ndarray, label: np.ndarray) -> float:
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(label * np.log(p) + (1 - label) * np.log1p(-p)))


# --------------------------------------------------------------------------- ours


def ours(data: Data, seed: int, *, rows: bool | None = None, **changes) -> tuple[float, float]:
    """CPU seconds of `train.fit` and the held-out log-loss; `rows` forces or forbids row updates."""
    config = Optimizer.model_validate(ADAM | {"batch_size": BATCH, "epochs": 1.0} | changes)
    schema = LogSchema(data.rows.features, {}, len(data.rows))
    network = train.build(plan(LAYERS, schema, DIM), schema.features, seed)
    kept = train.Updates
    train.Updates = partial(updates.Updates, rows=rows)
    try:
        start = time.process_time()
        train.fit(network, config, "bce", data.rows, data.labels, seed)
        seconds = time.process_time() - start
    finally:
        train.Updates = kept
    return seconds, log_loss(train.predict(network, "bce", data.held_out), data.held_out_labels)


# --------------------------------------------------------------------------- by hand


class HandWritten(nn.Module):
    """The same network as one would write it for this log alone."""

    def __init__(self, ids: int, tight: bool) -> None:
        super().__init__()
        self.tight = tight
        self.table, self.wide = nn.Embedding(ids, DIM), nn.Embedding(ids, 1)
        nn.init.normal_(self.table.weight, std=0.01)
        nn.init.zeros_(self.wide.weight)
        self.bias = nn.Parameter(torch.zeros(1))
        widths = (FIELDS * DIM, *UNITS)
        hidden = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.deep = nn.Sequential(*(m for linear in hidden for m in (linear, nn.ReLU(inplace=True))))
        self.last = nn.Linear(UNITS[-1], 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self.tight:  # index_select's backward pass is faster than embedding's on a CPU
            flat = ids.view(-1)
            vectors = self.table.weight.index_select(0, flat).view(-1, FIELDS, DIM)
            first = self.wide.weight.index_select(0, flat).view(-1, FIELDS).sum(1)
        else:
            vectors, first = self.table(ids), self.wide(ids).sum((1, 2))
        total = vectors.sum(1)
        pairs = 0.5 * (total.square().sum(1) - vectors.square().sum((1, 2)))
        return pairs + first + self.bias + self.last(self.deep(vectors.flatten(1))).squeeze(1)


def by_hand(
    data: Data,
    seed: int,
    *,
    tight: bool = True,
    name: str = "Adam",
    args: dict[str, float] | None = None,
    fused: bool | None = True,
    foreach: bool | None = None,
    half: bool = False,
) -> tuple[float, float]:
    """Everything preloaded as tensors, one gather, one fused optimizer, nothing checked."""
    size = data.rows.features[0].size
    offsets = torch.arange(FIELDS) * size
    ids, target = torch.from_numpy(data.rows.categorical).long() + offsets, torch.from_numpy(data.labels)
    held_out = torch.from_numpy(data.held_out.categorical).long() + offsets
    torch.manual_seed(seed)
    network = HandWritten(FIELDS * size, tight)
    options = {"fused": True} if fused else {"foreach": foreach}
    optimizer = getattr(torch.optim, name)(network.parameters(), **(args or {"lr": 1e-3}), **options)
    start = time.process_time()
    order = torch.randperm(len(ids))
    for first in range(0, len(ids), BATCH):
        index = order[first : first + BATCH]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(ids[index])
        F.binary_cross_entropy_with_logits(logits.float(), target[index]).backward()
        optimizer.step()
    seconds = time.process_time() - start
    with torch.inference_mode():
        parts = [network(part).sigmoid().numpy() for part in held_out.split(16_384)]
    return seconds, log_loss(np.concatenate(parts), data.held_out_labels)


# --------------------------------------------------------------------------- groups of arms

Arm = Callable[[Data, int], tuple[float, float]]
GROUPS: dict[str, tuple[int, dict[str, Arm]]] = {
    "Adam, 46k ids": (
        46_000,
        {
            "by hand, fused": by_hand,
            "by hand, nn.Embedding": partial(by_hand, tight=False),
            "by hand, foreach": partial(by_hand, fused=False, foreach=True),
            "by hand, fused, bf16": partial(by_hand, half=True),
            "evorank": ours,
            "evorank, gradient buffer": partial(ours, rows=True),
            "evorank, bf16": partial(ours, precision="bfloat16"),
        },
    ),
    "Adagrad, 46k ids": (
        46_000,
        {
            "by hand, fused": partial(by_hand, **ADAGRAD),
            "evorank": partial(ours, **ADAGRAD),
            "evorank, by rows (exact)": partial(ours, **ADAGRAD, rows=True),
            "evorank, bf16": partial(ours, **ADAGRAD, precision="bfloat16"),
            "evorank, RowwiseAdagrad tables": partial(ours, **ADAGRAD, embedding=ROWWISE),
            "evorank, RowwiseAdagrad, bf16": partial(
                ours, **ADAGRAD, embedding=ROWWISE, precision="bfloat16"
            ),
        },
    ),
    "Adagrad, 1M ids": (
        1_000_000,
        {
            "by hand, fused": partial(by_hand, **ADAGRAD),
            "evorank, dense tables": partial(ours, **ADAGRAD, rows=False),
            "evorank (= by rows, exact)": partial(ours, **ADAGRAD),
            "evorank, bf16": partial(ours, **ADAGRAD, precision="bfloat16"),
            "evorank, RowwiseAdagrad tables": partial(ours, **ADAGRAD, embedding=ROWWISE),
            "evorank, RowwiseAdagrad, bf16": partial(
                ours, **ADAGRAD, embedding=ROWWISE, precision="bfloat16"
            ),
        },
    ),
    "Adam, 1M ids": (
        1_000_000,
        {
            "by hand, fused": by_hand,
            "evorank, dense tables": partial(ours, rows=False),
            "evorank (= gradient buffer)": ours,
            "evorank, RowwiseAdagrad tables, bf16": partial(ours, embedding=ROWWISE, precision="bfloat16"),
        },
    ),
}


def measure(vocabulary: int, arms: dict[str, Arm], rows: int, repeats: int) -> list[Result]:
    """Each arm `repeats` times, in turn; a warm-up of one slice each first."""
    data = generate(rows, vocabulary)
    warm = Data(data.rows[: 4 * BATCH], data.labels[: 4 * BATCH], data.held_out, data.held_out_labels)
    for arm in arms.values():
        arm(warm, 0)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    losses: dict[str, list[float]] = {name: [] for name in arms}
    for seed in range(repeats):
        for name, arm in arms.items():
            spent, loss = arm(data, seed)
            seconds[name].append(spent)
            losses[name].append(loss)
    first = seconds[next(iter(arms))]
    return [
        Result(
            name,
            round(rows / statistics.median(seconds[name])),
            round(statistics.median(a / b for a, b in zip(first, seconds[name], strict=True)), 3),
            round(statistics.mean(losses[name]), 4),
        )
        for name in arms
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--group", choices=list(GROUPS), action="append", help="default: all")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = {}
    for title in arguments.group or GROUPS:
        vocabulary, arms = GROUPS[title]
        results = measure(vocabulary, arms, arguments.rows, arguments.repeats)
        report[title] = [asdict(result) for result in results]
        if not arguments.json:
            print(f"\n{title}: {arguments.rows:,} rows, {arguments.repeats} interleaved repeats")
            print(f"{'':38}{'samples / CPU s':>16}{'x by hand':>11}{'log-loss':>10}")
            for r in results:
                print(
                    f"{r.arm:38}{r.samples_per_cpu_second:>16,.0f}{r.ratio:>11.2f}{r.log_loss:>10.4f}",
                    flush=True,
                )
    if arguments.json:
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        print(json.dumps({"rows": arguments.rows, "repeats": arguments.repeats, **machine, "groups": report}))


if __name__ == "__main__":
    main()
