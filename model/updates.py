"""The updates of one training run: which optimizer moves which weights, and which tables move row by row.

Row by row is a matter of speed, not of mathematics: it is chosen only where it gives what the dense rule
gives, up to float rounding, or where Φ asks for RowwiseAdagrad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evorank.model.embedding import RowAdagrad, RowOptimizer, RowSGD, RowwiseAdagrad, Table
from evorank.model.optimizers import build_optimizer

__all__ = ["Updates"]

LARGE = 32
"""Rows of a table for each row of a batch from which it is worth finding the distinct ids of a batch first.
Measured with benchmarks/training.py: no gain at 11, twice as fast at 244."""

_ROW_ARGUMENTS = ("lr", "lr_decay", "initial_accumulator_value", "eps")
"""What the row rules take; the other arguments of Adagrad and SGD are zero or false where they apply."""


class Updates:
    """All the optimizers of one training run behind `zero_grad`, `step` and a common learning-rate factor.

    Matrices and vectors of the network follow `name`; embedding tables follow `embedding` where there is
    one, else `name` too. Tables whose rule leaves unseen rows alone are updated row by row where that is
    cheaper. Muon takes the matrices only: the rest follows AdamW at the same rate, as its authors do.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        args: Mapping[str, Any],
        embedding: tuple[str, Mapping[str, Any]] | None = None,
        *,
        batch_size: int = 4096,
        rows: bool | None = None,
        components: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """`rows` forces (True) or forbids (False) row updates that are exact; None chooses by size.

        `components` are optimizers that Φ brings along. They get a gradient for every row of a table: nothing
        is known of what they do to rows that a batch has not seen.
        """
        self._components = components
        self.tables = [module for module in network.modules() if isinstance(module, Table)]
        in_tables = {id(table.weight) for table in self.tables}
        self.dense = [p for p in network.parameters() if id(p) not in in_tables]
        self._torch: list[torch.optim.Optimizer] = []
        self._rows: list[RowOptimizer] = []
        self._spread: list[Table] = []

        if name == "Muon":
            matrices = [p for p in self.dense if p.ndim == 2 and min(p.shape) > 1]
            kept = {id(p) for p in matrices}
            other = [p for p in self.dense if id(p) not in kept]
            shared = {key: args[key] for key in ("lr", "weight_decay") if key in args}
            self._add(name, args, matrices)
            self._add("AdamW", shared, other)
            embedding = embedding or ("AdamW", shared)
        else:
            self._add(name, args, self.dense)
        table_name, table_args = embedding or (name, args)
        kind = _row_rule(table_name, table_args)
        for table in self.tables:
            only = table_name == "RowwiseAdagrad"
            large = len(table.weight) > LARGE * batch_size
            table.by_rows = only or (large if rows is None else rows)
        by_rows = [table for table in self.tables if table.by_rows]
        if kind is not None and by_rows:
            known = {key: value for key, value in table_args.items() if key in _ROW_ARGUMENTS}
            self._rows.append(kind(by_rows, **known))
        else:
            self._spread = by_rows
        taken = {id(table) for optimizer in self._rows for table in optimizer.tables}
        whole = [table.weight for table in self.tables if id(table) not in taken]
        self._add(table_name, table_args, whole)
        self._base = [[group["lr"] for group in o.param_groups] for o in self._torch]

    def _add(self, name: str, args: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> None:
        if parameters:
            self._torch.append(build_optimizer(name, args, parameters, self._components))

    def zero_grad(self) -> None:
        for table in self.tables:
            table.forget()
        for parameter in self.dense:
            parameter.grad = None
        kept = {id(table) for table in self._spread}
        for table in self.tables:
            if id(table) not in kept:
                table.weight.grad = None

    def weights(self) -> list[Tensor]:
        """All tensors that hold a gradient after the backward pass, for clipping."""
        return [*self.dense, *(t.touched[1] if t.touched else t.weight for t in self.tables)]

    def step(self) -> None:
        for table in self._spread:
            table.spread_gradient()
        for optimizer in self._torch:
            optimizer.step()
        for rule in self._rows:
            rule.step()

    def scale(self, factor: float) -> None:
        """Set every learning rate to `factor` times the one it was built with."""
        for optimizer, rates in zip(self._torch, self._base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        for rule in self._rows:
            rule.lr = rule.base_lr * factor


def _row_rule(name: str, args: Mapping[str, Any]) -> type[RowAdagrad] | type[RowSGD] | None:
    """The row-by-row form of an optimizer, where it is the same mathematics."""
    if name == "RowwiseAdagrad":
        return RowwiseAdagrad
    if name == "Adagrad" and not args.get("weight_decay"):
        return RowAdagrad
    if name == "SGD" and not args.get("weight_decay") and not args.get("momentum"):
        return RowSGD
    return None
