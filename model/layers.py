"""What every function of the layer language computes: BUILDERS, one for each of expression.FUNCTIONS.

Shapes and arguments were checked by `expression.plan`; nothing is checked again here. Weights are drawn from
torch's current generator, which `train.build` seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evorank.model.dense import Linear
from evorank.model.embedding import Table
from evorank.model.expression import Call, Node, Shape
from evorank.model.system import Feature

__all__ = [
    "BUILDERS",
    "EMBEDDING_STD",
    "Batch",
    "Component",
    "Function",
    "Site",
    "Value",
    "columns",
    "keep",
    "mean",
    "moved",
    "offsets",
]

EMBEDDING_STD = 0.01
"""Vectors start near zero, so that a rare id predicts what a missing one does until it is seen."""


class Value(NamedTuple):
    """A vector [B, w], or a sequence [B, L, w] with a mask [B, L] of the positions that exist (None: all)."""

    data: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Some rows as tensors: codes int64 [B, C], numeric float32 [B, N], histories name -> int64 [B, L]."""

    codes: Tensor
    numeric: Tensor
    histories: Mapping[str, Tensor] = field(default_factory=dict)

    def on(self, device: str) -> Batch:
        """The same rows there."""
        if device == "cpu":
            return self
        past = {name: moved(codes, device) for name, codes in self.histories.items()}
        return Batch(moved(self.codes, device), moved(self.numeric, device), past)


Function: TypeAlias = Callable[..., Value]


@dataclass(frozen=True)
class Site:
    """Where a function is built: its checked arguments, the operands' shapes, the log's features."""

    bound: Mapping[str, Any]
    shapes: Mapping[Node, Shape]
    features: tuple[Feature, ...]

    def width(self, argument: str) -> int:
        return self.shapes[self.bound[argument]].width


# --------------------------------------------------------------------------- functions with parameters


class _Dense(Linear):
    def forward(self, x: Value) -> Value:  # type: ignore[override]
        return Value(super().forward(x.data), x.mask)


class _LayerNorm(nn.LayerNorm):
    def forward(self, x: Value) -> Value:  # type: ignore[override]
        return Value(super().forward(x.data), x.mask)


class _RMSNorm(nn.RMSNorm):
    def forward(self, x: Value) -> Value:  # type: ignore[override]
        return Value(super().forward(x.data), x.mask)


class _Dropout(nn.Dropout):
    def forward(self, x: Value) -> Value:  # type: ignore[override]
        return Value(super().forward(x.data), x.mask)


class _Glu(nn.Module):
    """Both dense layers as one product [B, 2 units], then the gate."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.both = Linear(width, 2 * units)

    def forward(self, x: Value) -> Value:
        return Value(F.glu(self.both(x.data), -1), x.mask)


class _Cross(nn.Module):
    """DCN-v2 (Wang et al. 2021, arXiv 2008.13535): x0 * (W x + b) + x, W = U V of rank r where r > 0."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False) if rank else nn.Identity()
        self.up = nn.Linear(rank or width, width)

    def forward(self, x0: Value, x: Value) -> Value:
        return Value(x0.data * self.up(self.down(x.data)) + x.data)


class _Attention(nn.Module):
    def __init__(self, query: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(query, width, bias=False) if query != width else nn.Identity()

    def forward(self, query: Value, sequence: Value) -> Value:
        data, mask = sequence
        asked = self.project(query.data).unsqueeze(2)
        scores = torch.matmul(data, asked.to(data.dtype)).squeeze(2).float() / math.sqrt(data.shape[2])
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(1)
        if mask is not None:
            weights = weights * mask  # rows without any position: zero, not uniform
        return Value((weights.unsqueeze(2) * data).sum(1))


class _Residual(nn.Module):
    def __init__(self, x: int, y: int) -> None:
        super().__init__()
        self.project = nn.Linear(x, y, bias=False) if x != y else nn.Identity()

    def forward(self, x: Value, y: Value) -> Value:
        return Value(self.project(x.data) + y.data, _both(x.mask, y.mask))


class _Wide(nn.Module):
    """bias + sum of one weight per id + numerics · weights: [B, 1]. Source: Cheng et al. 2016, 1606.07792."""

    columns: Tensor | None
    numeric_columns: Tensor | None
    offsets: Tensor

    def __init__(self, named: tuple[Feature, ...], features: tuple[Feature, ...]) -> None:
        super().__init__()
        ids = [f for f in named if f.kind == "categorical"]
        numbers = [f for f in named if f.kind == "numeric"]
        keep(
            self,
            columns=columns(ids, [f for f in features if f.kind == "categorical"]),
            numeric_columns=columns(numbers, [f for f in features if f.kind == "numeric"]),
            offsets=offsets([f.size for f in ids]),
        )
        self.table = Table(sum(f.size for f in ids), 1, 0.0) if ids else None
        self.linear = nn.Parameter(torch.zeros(len(numbers))) if numbers else None
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Value:
        total: Tensor = self.bias
        if self.table is not None:
            codes = batch.codes if self.columns is None else batch.codes.index_select(1, self.columns)
            total = total + self.table(codes + self.offsets).sum((1, 2)).unsqueeze(1)
        if self.linear is not None:
            chosen = self.numeric_columns
            numbers = batch.numeric if chosen is None else batch.numeric.index_select(1, chosen)
            total = total + (numbers * self.linear).sum(1, keepdim=True)
        return Value(total)


class _Embed(nn.Module):
    def __init__(self, feature: Feature, dim: int, features: tuple[Feature, ...]) -> None:
        super().__init__()
        self.column = [f for f in features if f.kind == "categorical"].index(feature)
        self.table = Table(feature.size, dim, EMBEDDING_STD)

    def forward(self, batch: Batch) -> Value:
        return Value(self.table(batch.codes[:, self.column]))


class Component(nn.Module):
    """A component at one place of the network. Its code sees plain float32 tensors [B, w] or [B, L, w].

    Positions that do not exist are zeros to it. A sequence it returns has the positions of the operands of
    that length.
    """

    def __init__(self, code: Callable[..., Tensor]) -> None:
        super().__init__()
        self.code = code

    def forward(self, *operands: Value) -> Value:
        data = self.code(*(_present(x).float() for x in operands))
        mask = None
        for x in operands:
            if x.mask is not None and data.ndim == 3 and x.data.shape[1] == data.shape[1]:
                mask = _both(mask, x.mask)
        return Value(data, mask)


def columns(named: list[Feature], kind: list[Feature]) -> Tensor | None:
    """Positions of `named` in their matrix; None for the whole matrix as it is."""
    if named == kind:
        return None
    return torch.tensor([kind.index(f) for f in named], dtype=torch.int64, device="cpu")


def moved(tensor: Tensor, device: str) -> Tensor:
    """A copy of a tensor of the CPU; a GPU fetches it from pinned memory while the CPU goes on."""
    return (tensor.pin_memory() if device == "cuda" else tensor).to(device, non_blocking=True)


def keep(module: nn.Module, **tensors: Tensor | None) -> None:
    """Tensors that move with a module to its device and are no part of its weights."""
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor, persistent=False)


def offsets(sizes: list[int]) -> Tensor:
    """First row of each of several vocabularies packed one below the other."""
    return torch.tensor([sum(sizes[:i]) for i in range(len(sizes))], dtype=torch.int64, device="cpu")


# --------------------------------------------------------------------------- functions without parameters


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a & b


def _elementwise(function: Callable[[Tensor], Tensor]) -> Callable[[Site], Function]:
    return lambda site: lambda x: Value(function(x.data), x.mask)


def _relu(site: Site) -> Function:
    # The product of a dense layer is nobody else's and not needed again by its own backward pass.
    operand = site.bound["x"]
    fresh = isinstance(operand, Call) and operand.function == "dense"
    return _elementwise(torch.relu_ if fresh else torch.relu)(site)


def _operator(function: Callable[[Any, Any], Tensor]) -> Callable[[Site], Function]:
    def apply(a: Value | float, b: Value | float) -> Value:
        if not isinstance(a, Value) or not isinstance(b, Value):
            kept = a if isinstance(a, Value) else b
            assert isinstance(kept, Value)
            mask = kept.mask
            return Value(function(*(x.data if isinstance(x, Value) else x for x in (a, b))), mask)
        x, y = a.data, b.data
        if x.ndim != y.ndim:  # a vector meets every position of a sequence
            x, y = (x.unsqueeze(1), y) if x.ndim < y.ndim else (x, y.unsqueeze(1))
        return Value(function(x, y), _both(a.mask, b.mask))

    return lambda site: apply


def _present(x: Value) -> Tensor:
    """Positions that do not exist as zeros."""
    return x.data if x.mask is None else x.data * x.mask.unsqueeze(2)


def mean(x: Value) -> Value:
    if x.mask is None:
        return Value(x.data.mean(1))
    return Value(_present(x).sum(1) / x.mask.sum(1, keepdim=True).clamp(min=1))


def _fm(x: Value) -> Value:
    """(|Σ v|² - Σ |v|²) / 2, Rendle 2010: every pair's inner product in linear time."""
    present = _present(x)
    total = present.sum(1)
    return Value((total.square().sum(1) - present.square().sum((1, 2))).unsqueeze(1) * 0.5)


BUILDERS: Mapping[str, Callable[[Site], Function]] = {
    "dense": lambda s: _Dense(s.width("x"), s.bound["units"], bias=s.bound["bias"]),
    "layer_norm": lambda s: _LayerNorm(s.width("x")),
    "rms_norm": lambda s: _RMSNorm(s.width("x"), eps=1e-6),
    "relu": _relu,
    "gelu": _elementwise(F.gelu),
    "silu": _elementwise(F.silu),
    "sigmoid": _elementwise(torch.sigmoid),
    "tanh": _elementwise(torch.tanh),
    "softplus": _elementwise(F.softplus),
    "leaky_relu": _elementwise(F.leaky_relu),
    "square": _elementwise(torch.square),
    "softmax": _elementwise(lambda x: x.softmax(-1)),
    "dropout": lambda s: _Dropout(s.bound["rate"]),
    "concat": lambda s: lambda *values: Value(torch.cat([x.data for x in values], 1)),
    "cross": lambda s: _Cross(s.width("x"), s.bound["rank"]),
    "wide": lambda s: _Wide(s.bound["feature"], s.features),
    "dot": lambda s: lambda a, b: Value((a.data * b.data).sum(1, keepdim=True)),
    "fm": lambda s: _fm,
    "attention": lambda s: _Attention(s.width("query"), s.width("sequence")),
    "mean": lambda s: mean,
    "sum": lambda s: lambda x: Value(_present(x).sum(1)),
    "residual": lambda s: _Residual(s.width("x"), s.width("y")),
    "glu": lambda s: _Glu(s.width("x"), s.bound["units"]),
    "embed": lambda s: _Embed(s.bound["feature"], s.bound["dim"], s.features),
    "add": _operator(torch.add),
    "subtract": _operator(torch.sub),
    "multiply": _operator(torch.mul),
}
"""Layer function -> what builds it at one place of a network. Operands arrive as Values, in the order of the
signature; `wide` and `embed` read the batch instead."""
