"""The ranking network Q(s, a): an architecture's plan as a PyTorch module that gives one logit an impression.

All shared embeddings lie in one packed table and cost one gather a batch; the rest is what `layers.py`
builds at each call of the plan. Initialisation draws from torch's current generator: `train.build` seeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from evorank.model.embedding import Table
from evorank.model.expression import LITERALS, Call, Name, Node, Number, Plan, arguments, table_of
from evorank.model.layers import (
    BUILDERS,
    EMBEDDING_STD,
    Batch,
    Function,
    Site,
    Value,
    columns,
    keep,
    mean,
    offsets,
)
from evorank.model.system import Feature

__all__ = ["BUILDERS", "Batch", "RankingNetwork"]

Scope: TypeAlias = dict[str, Value]
Step: TypeAlias = Callable[[Batch, Scope], Any]


class RankingNetwork(nn.Module):
    """Batch -> logits float32 [B]: higher means a higher expected label."""

    _columns: Tensor | None
    _offsets: Tensor

    def __init__(
        self,
        plan: Plan,
        features: tuple[Feature, ...],
        components: Mapping[str, Callable[[Site], Function]] | None = None,
    ) -> None:
        """`features`: all of the log's, in the order of the matrices that batches are cut from.

        `components` build the layers and activations that Φ brings along (`component_code.Code.builders`).
        """
        super().__init__()
        self._functions = plan.functions
        self._builders = {**(components or {}), **BUILDERS}
        self.features = features
        self._shapes = plan.shapes
        sizes = list(plan.tables.values())
        starts = dict(zip(plan.tables, offsets(sizes).tolist(), strict=True))
        self.table = Table(sum(sizes), plan.embedding_dim, EMBEDDING_STD) if sizes else None
        ids = [f for f in plan.features if f.kind == "categorical"]
        self._ids = [f.name for f in ids]
        first = torch.tensor([starts[table_of(f)] for f in ids], dtype=torch.int64, device="cpu")
        keep(self, _columns=columns(ids, [f for f in features if f.kind == "categorical"]), _offsets=first)
        self._histories = {f.name: starts[table_of(f)] for f in plan.features if f.kind == "history"}
        self._numeric = [f.name for f in features if f.kind == "numeric"]
        self.functions = nn.ModuleDict()
        names = {part.name for b in plan.bindings for part in _parts(b.node) if isinstance(part, Name)}
        self._inputs = "inputs" in names
        self._steps = [(b.name, self._compile(b.node, b.name)) for b in plan.bindings]
        self.head = nn.Linear(plan.output.shape.width, 1) if plan.head else None

    def forward(self, batch: Batch) -> Tensor:
        scope = self._embedded(batch)
        for name, step in self._steps:
            scope[name] = step(batch, scope)
        output = scope["output"].data
        logit = output if self.head is None else self.head(output)
        return logit.squeeze(1).float()

    def _embedded(self, batch: Batch) -> Scope:
        """Features, `fields` and `inputs` by name."""
        scope: Scope = {}
        for position, name in enumerate(self._numeric):
            scope[name] = Value(batch.numeric[:, position : position + 1])
        if self.table is not None:
            codes = batch.codes if self._columns is None else batch.codes.index_select(1, self._columns)
            index = codes + self._offsets
            if self._histories:
                past = [batch.histories[name] + start for name, start in self._histories.items()]
                index = torch.cat([index, *past], 1)
            vectors = self.table(index)
            at = len(self._ids)
            if self._ids:
                scope["fields"] = Value(vectors[:, :at])
                scope |= {name: Value(vectors[:, number]) for number, name in enumerate(self._ids)}
            for name in self._histories:
                seen = batch.histories[name]
                scope[name] = Value(vectors[:, at : at + seen.shape[1]], seen != 0)
                at += seen.shape[1]
        if self._inputs:
            parts = [scope["fields"].data.flatten(1)] if self._ids else []
            parts += [batch.numeric] if self._numeric else []
            parts += [mean(scope[name]).data for name in self._histories]
            scope["inputs"] = Value(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
        return scope

    def _compile(self, node: Node, path: str) -> Step:
        """A node as a closure; the modules it needs are registered under `path`."""
        if isinstance(node, Name):
            name = node.name
            return lambda batch, scope: scope[name]
        if isinstance(node, Number):
            number = node.value
            return lambda batch, scope: number
        bound = arguments(node, self._functions)
        operands: list[Node] = []
        for parameter in self._functions[node.function].parameters:
            if parameter.kind in LITERALS:
                continue
            given = bound[parameter.name]
            if parameter.kind in ("feature", "categorical"):
                known = {f.name: f for f in self.features}
                many = parameter.repeated
                bound[parameter.name] = tuple(known[n.name] for n in given) if many else known[given.name]
            else:
                operands += given if parameter.repeated else [given]
        function = self._builders[node.function](Site(bound, self._shapes, self.features))
        if isinstance(function, nn.Module):
            self.functions[f"{path}:{node.function}"] = function
        if node.function in ("wide", "embed"):
            return lambda batch, scope: function(batch)
        steps = [self._compile(operand, f"{path}_{i}") for i, operand in enumerate(operands)]
        if len(steps) == 1:
            only = steps[0]
            return lambda batch, scope: function(only(batch, scope))
        return lambda batch, scope: function(*(step(batch, scope) for step in steps))


def _parts(node: Node) -> list[Node]:
    below = node.args + tuple(value for _, value in node.keywords) if isinstance(node, Call) else ()
    return [node, *(part for child in below for part in _parts(child))]
