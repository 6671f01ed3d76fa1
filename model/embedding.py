"""Packed embedding tables, and optimizers that touch only the rows a batch has seen.

A table holds the vectors of many fields one below the other, so that a batch costs one gather. During
training the gathered rows can stand in for the table as that step's parameters: the backward pass then
makes a gradient of the rows seen, not of the whole vocabulary. Limit: an update rule may run on rows
alone only if a zero gradient leaves a row and its state as they are (Adagrad, plain SGD; not Adam).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["RowAdagrad", "RowOptimizer", "RowSGD", "RowwiseAdagrad", "Table"]


class Table(nn.Module):
    """`rows` vectors of width `width`, drawn from N(0, scale²); codes int64 [...] -> float32 [..., width].

    `by_rows` (set by the trainer): in training mode gather the batch's distinct rows once, as a leaf of
    the graph kept in `touched`; who updates the table then is a `RowOptimizer` or `spread_gradient`.
    """

    def __init__(self, rows: int, width: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width))
        if scale and not self.weight.is_meta:  # where weights are loaded, torch would draw none in Python
            nn.init.normal_(self.weight, std=scale)
        self.by_rows = False
        self.touched: tuple[Tensor, Tensor] | None = None
        """Row numbers int64 [u] and their vectors [u, width], whose `.grad` the backward pass fills."""

    def forward(self, codes: Tensor) -> Tensor:
        flat = codes.reshape(-1)
        # index_select, not F.embedding: the same values, and a backward pass (index_add) four times
        # faster on a CPU than embedding's.
        if not (self.by_rows and self.training):
            return self.weight.index_select(0, flat).view(*codes.shape, -1)
        rows, position = torch.unique(flat, return_inverse=True)
        leaf = self.weight.detach().index_select(0, rows).requires_grad_()
        self.touched = (rows, leaf)
        return leaf.index_select(0, position).view(*codes.shape, -1)

    def spread_gradient(self) -> None:
        """Put the touched rows' gradient into `weight.grad`, a buffer that is zero everywhere else.

        For update rules that need every row (Adam, momentum, weight decay): the buffer is allocated once,
        where autograd would allocate and zero a gradient as large as the table at each step.
        """
        if self.touched is None or self.touched[1].grad is None:
            return
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        self.weight.grad.index_copy_(0, self.touched[0], self.touched[1].grad)

    def forget(self) -> None:
        """Drop the last batch's rows, and zero their part of the gradient buffer."""
        if self.touched is not None and self.weight.grad is not None:
            self.weight.grad.index_fill_(0, self.touched[0], 0.0)
        self.touched = None


class RowOptimizer:
    """Applies an update rule to the touched rows of some tables, after each backward pass."""

    def __init__(self, tables: Iterable[Table], lr: float) -> None:
        self.tables = list(tables)
        self.base_lr = self.lr = lr
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        for number, table in enumerate(self.tables):
            if table.touched is None or table.touched[1].grad is None:
                continue
            rows, leaf = table.touched
            gradient = leaf.grad
            assert gradient is not None
            self._update(number, rows, leaf, gradient)
            table.weight.index_copy_(0, rows, leaf)

    def _update(self, number: int, rows: Tensor, vectors: Tensor, gradient: Tensor) -> None:
        """Change `vectors` [u, width] of table `number` in place."""
        raise NotImplementedError


class RowSGD(RowOptimizer):
    """w <- w - lr * g. The same as `torch.optim.SGD` without momentum and weight decay."""

    def __init__(self, tables: Iterable[Table], lr: float = 1e-3) -> None:
        super().__init__(tables, lr)

    def _update(self, number: int, rows: Tensor, vectors: Tensor, gradient: Tensor) -> None:
        vectors.add_(gradient, alpha=-self.lr)


class RowAdagrad(RowOptimizer):
    """s <- s + g²; w <- w - lr * g / (√s + eps). The same as `torch.optim.Adagrad` without weight decay."""

    def __init__(
        self,
        tables: Sequence[Table],
        lr: float = 0.01,
        lr_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(tables, lr)
        self.lr_decay, self.eps = lr_decay, eps
        self.sums = [self._start(table.weight, initial_accumulator_value) for table in tables]

    def _start(self, weight: Tensor, value: float) -> Tensor:
        return torch.full_like(weight, value)

    def _squares(self, gradient: Tensor) -> Tensor:
        return gradient.square()

    def _update(self, number: int, rows: Tensor, vectors: Tensor, gradient: Tensor) -> None:
        total = self.sums[number].index_select(0, rows).add_(self._squares(gradient))
        self.sums[number].index_copy_(0, rows, total)
        rate = self.lr / (1 + (self.steps - 1) * self.lr_decay)
        if total.shape[1] == vectors.shape[1]:
            vectors.addcdiv_(gradient, total.sqrt_().add_(self.eps), value=-rate)
        else:
            vectors.addcmul_(gradient, total.sqrt_().add_(self.eps).reciprocal_(), value=-rate)


class RowwiseAdagrad(RowAdagrad):
    """Adagrad with one accumulator a row: s <- s + mean(g²). A width-th of the state, one root a row.

    Not the same as Adagrad: a row's coordinates share their step size. Source: the exact row-wise Adagrad
    of FBGEMM and TorchRec (Naumov et al. 2019, arXiv 1906.00091, train DLRM with it).
    """

    def _start(self, weight: Tensor, value: float) -> Tensor:
        return weight.new_full((len(weight), 1), value)

    def _squares(self, gradient: Tensor) -> Tensor:
        return gradient.square().mean(1, keepdim=True)
