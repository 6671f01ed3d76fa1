"""Fit and score the ranking network on one thread or a GPU: preloaded rows in, weights or predictions out.

Deterministic: initial weights and dropout depend on the seed, the order of rows on (seed, number of rows)
alone, so that two Φ are compared on the same order. Rows may be memory-mapped and larger than memory: only
a batch is ever copied. Limit: nothing here measures quality; `tools/metrics.py` does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from evorank.model.errors import ToolError
from evorank.model.layers import moved
from evorank.model.network import Batch, RankingNetwork
from evorank.model.progress import REPORTS, report
from evorank.model.schedules import schedule_factor
from evorank.model.system import Float32, Loss, Rows, Weights
from evorank.model.updates import Updates

if TYPE_CHECKING:
    from evorank.model.component_code import Code
    from evorank.model.config import Optimizer
    from evorank.model.expression import Plan
    from evorank.model.system import Feature

__all__ = [
    "batches",
    "build",
    "fit",
    "load",
    "one_thread",
    "predict",
    "repeatable",
    "steps_of",
    "to_weights",
]

WINDOW = 1 << 22
"""Rows shuffled together. Up to this many the order is a uniform permutation."""
BLOCK = 1 << 10
"""Beyond it, runs of this many consecutive rows are dealt at random into windows, and rows within a window:
a page of a memory-mapped log is then read once an epoch."""
SCORED_AT_ONCE = 16_384
ALIGNMENT = 64
"""Bytes: what torch's allocator aligns to."""

_LOSSES: Mapping[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "huber": F.huber_loss,
}


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, and denormal floats as zero: moments that decay (Adam's, RMSprop's) would crawl there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


@contextmanager
def _drawing(seed: int | None = None) -> Iterator[None]:
    """torch's generator from `seed` on, or from where it is; afterwards it is as it was.

    Not `fork_rng` and `manual_seed`: these ask after every kind of device there might be, and keep a stack
    trace for each, 2 ms in a process that has just been forked. What a GPU draws is seeded by `repeatable`.
    """
    generator = torch.default_generator
    state = generator.get_state()
    if seed is not None:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


@contextmanager
def repeatable(device: str, seed: int = 0) -> Iterator[None]:
    """On a GPU: algorithms that give the same bits each time and no others (torch raises RuntimeError where
    it has none), and dropout from `seed`. On the CPU every algorithm used is of this kind."""
    if device == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS is refused
    before = torch.get_deterministic_debug_mode()
    # Not `use_deterministic_algorithms`: it imports torch's compiler, which a locked process cannot.
    torch.set_deterministic_debug_mode("error")
    torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def build(plan: Plan, features: tuple[Feature, ...], seed: int, code: Code | None = None) -> RankingNetwork:
    """A freshly initialised network; `code` holds its components. Leaves torch's generator as it was."""
    with _drawing(seed):
        return RankingNetwork(plan, features, code.builders if code else None)


def steps_of(rows: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps of a run, at least 1; 0.25 epochs are a quarter of a pass."""
    return max(1, round(epochs * math.ceil(rows / batch_size)))


def batches(rows: int, batch_size: int, steps: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of each of `steps` batches: random passes over [0, rows) in near-equal batches.

    A pass of n rows has ceil(n / batch_size) batches whose sizes differ by at most one: no short last
    batch gets a full step.
    """
    made, epoch = 0, 0
    while True:
        for window in _order(rows, seed, epoch):
            for batch in np.array_split(window, math.ceil(len(window) / batch_size)):
                yield batch
                made += 1
                if made == steps:
                    return
        epoch += 1


def _order(rows: int, seed: int, epoch: int) -> Iterator[npt.NDArray[Any]]:
    generator = np.random.default_rng([seed, rows, epoch])
    if rows <= WINDOW:
        yield generator.permutation(np.arange(rows, dtype=np.int32))
        return
    blocks = generator.permutation(math.ceil(rows / BLOCK))
    for first in range(0, len(blocks), WINDOW // BLOCK):
        starts = blocks[first : first + WINDOW // BLOCK, None] * BLOCK
        window = (starts + np.arange(BLOCK)).ravel()
        window = window[window < rows]
        generator.shuffle(window)
        yield window


class _Cutter:
    """Cuts batches out of rows, and checks codes: a packed table would read a neighbour's vector."""

    def __init__(self, rows: Rows, device: str) -> None:
        self.rows, self.device = rows, device
        plain = np.asarray  # a memmap's methods are slower than an array's, and the pages are the same
        self.categorical, self.numeric = plain(rows.categorical), plain(rows.numeric)
        self.histories = {name: plain(codes) for name, codes in rows.histories.items()}
        self.sizes = np.array([f.size for f in rows.of_kind("categorical")], dtype=np.uint32)
        size = {f.name: f.size for f in rows.features}
        self.history_sizes = {f.name: f.size or size[f.of or ""] for f in rows.of_kind("history")}

    def __call__(self, index: npt.NDArray[Any] | slice) -> Batch:
        codes = _some(self.categorical, index)
        if (codes.view(np.uint32) >= self.sizes).any():  # a negative code is a huge unsigned one
            self._complain(codes)
        histories = {}
        for name, values in self.histories.items():
            histories[name] = past = _some(values, index)
            if past.size and (past.view(np.uint32) >= self.history_sizes[name]).any():
                raise ToolError(_outside(name, past, self.history_sizes[name]))
        return Batch(
            torch.from_numpy(codes).long(),
            torch.from_numpy(_some(self.numeric, index)),
            {name: torch.from_numpy(past).long() for name, past in histories.items()},
        ).on(self.device)

    def _complain(self, codes: npt.NDArray[np.int32]) -> None:
        for number, feature in enumerate(self.rows.of_kind("categorical")):
            if (codes[:, number].view(np.uint32) >= feature.size).any():
                raise ToolError(_outside(feature.name, codes[:, number], feature.size))


def _some(values: npt.NDArray[Any], index: npt.NDArray[Any] | slice) -> npt.NDArray[Any]:
    """A writable, contiguous copy of some rows."""
    return values[index].copy() if isinstance(index, slice) else values.take(index, axis=0)


def _outside(name: str, codes: npt.NDArray[np.int32], size: int) -> str:
    wrong = codes[codes.view(np.uint32) >= size].flat[0]
    return f"feature {name!r} has code {wrong} outside [0, {size}). Encode the log again with this schema."


def fit(
    network: RankingNetwork,
    optimizer: Optimizer,
    loss: Loss,
    rows: Rows,
    labels: Float32,
    seed: int,
    code: Code | None = None,
    device: str = "cpu",
) -> None:
    """Train `network` in place on `rows` and `labels` float32 [n]; afterwards it is on `device`.

    Raises ToolError for labels that do not fit the loss, and for a loss or weights that stop being finite.
    """
    if len(rows) == 0 or len(labels) != len(rows):
        raise ToolError(f"cannot train on {len(rows)} rows with {len(labels)} labels.")
    _check_labels(labels, loss)
    steps = steps_of(len(rows), optimizer.batch_size, optimizer.epochs)
    with one_thread(), _drawing(seed), repeatable(device, seed):
        _loop(network, optimizer, _LOSSES[loss], _Cutter(rows, device), np.asarray(labels), steps, seed, code)


def _loop(
    network: RankingNetwork,
    optimizer: Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    cut: _Cutter,
    labels: Float32,
    steps: int,
    seed: int,
    code: Code | None,
) -> None:
    table = optimizer.embedding
    updates = Updates(
        network.to(cut.device),
        optimizer.name,
        optimizer.args,
        (table.name, table.args) if table else None,
        batch_size=optimizer.batch_size,
        components=code.optimizers if code else None,
    )
    own = code.schedules if code else None
    schedule = optimizer.schedule
    half = optimizer.precision == "bfloat16"
    rows = len(labels)
    planned = rows * steps // math.ceil(rows / optimizer.batch_size)
    seen, since, total = 0, 0, 0.0
    network.train()
    for step, index in enumerate(batches(len(labels), optimizer.batch_size, steps, seed)):
        target = moved(torch.from_numpy(labels.take(index)), cut.device)
        updates.scale(schedule_factor(schedule.name, schedule.args, step, steps, own))
        updates.zero_grad()
        with torch.autocast(cut.device, torch.bfloat16, enabled=half):
            logits = network(cut(index))
        loss = loss_of(logits, target)
        value = float(loss.detach())
        seen, since, total = seen + len(index), since + len(index), total + value * len(index)
        if (step + 1) * REPORTS // steps > step * REPORTS // steps or not math.isfinite(value):
            report(seen, planned, total / since)
            since, total = 0, 0.0
        if not math.isfinite(value):
            raise ToolError(_diverged(f"the loss is {value}", step, steps))
        loss.backward()  # type: ignore[no-untyped-call]
        if optimizer.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(updates.weights(), optimizer.grad_clip)
        updates.step()
    updates.zero_grad()
    for name, weight in network.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise ToolError(_diverged(f"weights {name!r} are not finite", steps - 1, steps))


def _diverged(what: str, step: int, steps: int) -> str:
    return (
        f"training diverged: {what} at step {step + 1} of {steps}. "
        "Try a smaller optimizer.args.lr, optimizer.grad_clip 1.0, or a warmup in optimizer.schedule.args."
    )


def _check_labels(labels: Float32, loss: Loss) -> None:
    low, high = float(np.min(labels)), float(np.max(labels))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ToolError("labels must be finite: reward.label gives NaN or inf. Guard divisions and NULLs.")
    if loss == "bce" and not (low >= 0 and high <= 1):
        raise ToolError(
            f"labels must lie in [0, 1] for reward.loss bce, got [{low:g}, {high:g}]. "
            "Clamp reward.label with LEAST and GREATEST, or use mse or huber."
        )


def predict(network: RankingNetwork, loss: Loss, rows: Rows, device: str = "cpu") -> Float32:
    """Expected label of each row, float32 [n]: sigmoid of the logit for bce, the output itself otherwise.

    `device` is where the network is.
    """
    scores = np.empty(len(rows), dtype=np.float32)
    cut = _Cutter(rows, device)
    network.eval()
    with one_thread(), repeatable(device), torch.inference_mode():
        for start in range(0, len(rows), SCORED_AT_ONCE):
            part = slice(start, start + SCORED_AT_ONCE)
            logits = network(cut(part))
            scores[part] = (logits.sigmoid() if loss == "bce" else logits).cpu().numpy()
    return scores


def to_weights(network: RankingNetwork) -> dict[str, npt.NDArray[Any]]:
    """The network's parameters by name, float32, and the buffers of its components."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def load(
    plan: Plan, features: tuple[Feature, ...], weights: Weights, code: Code | None = None
) -> RankingNetwork:
    """A network around `weights`, sharing their memory where it is aligned; `code` holds its components.

    ToolError for a missing, extra or misshapen array.
    """
    with _drawing(), torch.device("meta"):
        network = RankingNetwork(plan, features, code.builders if code else None)
    wanted = network.state_dict()
    if set(wanted) != set(weights):
        missing, extra = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
        raise ToolError(f"these weights are of another Φ: missing {missing}, unexpected {extra}.")
    state = {}
    for name, tensor in wanted.items():
        array = np.asarray(weights[name])
        shape, kind = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if array.shape != shape or array.dtype.name != kind:
            raise ToolError(f"weights {name!r} must be {kind} {shape}, got {array.dtype} {array.shape}.")
        state[name] = _aligned(array)
    network.load_state_dict(state, assign=True)
    return network


def _aligned(array: npt.NDArray[Any]) -> Tensor:
    """The array as a tensor that begins where one of torch's own would: kernels take other paths elsewhere,
    and then the last bit of a score depends on the file that the weights lay in."""
    if array.flags.writeable and array.ctypes.data % ALIGNMENT == 0:
        return torch.from_numpy(array)
    copy = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name))
    np.copyto(copy.numpy(), array)
    return copy
