"""trainer: the parent's end of a locked process that stays and checks, trains and scores one candidate after
another, on data that it maps once.

Only for candidates that bring no code, in the built-in ranker: then nobody's code but evorank's runs, numbers
are all that one leaves to the next, and each training starts from its own seed. Labels of scored rows are not
in it either. It saves the forks and first passes of a process for each step, which is what a short training
costs beside itself (docs/performance.md).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from evorank.model.errors import ToolError
from evorank.model.system import LogSchema, Phi
from evorank.tools.evaluator.blocks import Block, memory_file
from evorank.tools.evaluator.curves import REGION, Curve, read
from evorank.tools.evaluator.lock import Limits
from evorank.tools.evaluator.scorer import Resident
from evorank.tools.evaluator.supervisor import Lost, Supervisor

__all__ = ["Trainer", "Trainers"]

MOST_JOBS = 200
MOST_MEMORY = 2 << 30
"""A process that did so many jobs, or held so many bytes at once, is replaced: it keeps what it frees."""
PATIENCE = 60.0
"""Seconds without a job after which it ends: a pool that rests, in a server, gives its memory back."""
EMPTY = bytes(REGION)


class Trainer(Resident):
    """Checks and trains Φ that bring no code, and scores rows by the one it trained last."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        schema: LogSchema,
        production: Phi,
        capacity: int,
        limits: Limits,
        files: Mapping[str, tuple[int, Block]] | None = None,
    ) -> None:
        """`files`: open descriptors of training rows and labels, which become ours to close; None for one
        that only checks. The CPU limit is that of each training."""
        self.jobs, self._peak, self._limits = 0, 0, limits
        held = dict(files or {})
        request = {
            "kind": "stay",
            "patience": PATIENCE,
            "production": production,
            "blocks": {name: block.as_json() for name, (_, block) in held.items()},
        }
        self._progress = memory_file("progress", REGION)
        data = [descriptor for descriptor, _ in held.values()]
        try:
            super().__init__(
                supervisor,
                request if held else request | {"device": "cpu"},
                [*data, self._progress] if held else [],
                schema=schema,
                capacity=capacity,
                limits=replace(limits, cpu_seconds=None),  # the kernel's is for the life of a process
            )
        except BaseException:
            os.close(self._progress)
            raise
        finally:
            for descriptor in data:
                os.close(descriptor)

    @property
    def usable(self) -> bool:
        """Whether another job may be given to it."""
        alive = not self._closed and not self.child.ended.done()
        return alive and self.jobs < MOST_JOBS and self._peak < MOST_MEMORY

    @property
    def cpu_seconds(self) -> float:
        """Spent so far: by its own word, or the kernel's where it has ended."""
        if self.child.ended.done():
            with suppress(Lost):
                return float(self.child.ended.result()["cpu"])
        return self._cpu

    @property
    def curve(self) -> Curve:
        """What the training of the last order told, so far."""
        return read(os.pread(self._progress, REGION, 0))

    def check(self, phi: Phi, seconds: float, late: str) -> dict[str, Any]:
        """What a check child tells: findings, and parameters where there are none."""
        return self._order({"phi": phi}, seconds, late, what="The check")

    def train(
        self, phi: Phi, seed: int, seconds: float, late: str, look: Callable[[Curve], None]
    ) -> dict[str, Any]:
        """Train, and hold the model: {"parameters", "cpu_seconds", "peak": bytes resident, at most, so far}.

        `look` is shown the curve now and then; what it raises ends the training. ToolError where the training
        fails; `Lost` where the process dies, or is short of memory that an earlier training may still hold.
        """
        os.pwrite(self._progress, EMPTY, 0)
        order = {"phi": phi, "seed": seed, "cpu_limit": self._limits.cpu_seconds}
        told = self._order(order, seconds, late, lambda: look(self.curve))
        self._peak = told["peak"]
        return told

    def _order(
        self,
        order: dict[str, Any],
        seconds: float,
        late: str,
        look: Callable[[], None] | None = None,
        what: str = "Training",
    ) -> dict[str, Any]:
        content = json.dumps(order).encode()
        message = (-len(content)).to_bytes(8, "little", signed=True) + content
        with self._lock:
            self._require_open()
            self.jobs += 1
            try:
                self._ask(message, seconds, late, look, what)
            except ToolError:
                if self.child.told().get("tired"):
                    raise Lost("it ended, since nothing had been asked of it") from None
                if not self._closed and self.child.told().get("error") == "memory":
                    self._closed = True
                    if self.jobs > 1:
                        raise Lost("memory was short in a process that had trained before") from None
                raise
            return self.child.told()

    def close(self) -> None:
        super().close()
        if self._progress >= 0:
            os.close(self._progress)
            self._progress = -1


class Trainers:
    """Trainers that wait for the next job of their kind; `most` processes, whatever the kinds are."""

    def __init__(self, most: int) -> None:
        self._most, self._lent = most, 0
        self._lock = threading.Lock()
        self._idle: list[tuple[Hashable, Trainer]] = []

    @contextmanager
    def lent(self, kind: Hashable, make: Callable[[], Trainer]) -> Iterator[Trainer]:
        """A trainer for one job of a kind: one that waits for it, or a new one in place of the one that has
        waited longest. It is kept afterwards where it can go on."""
        trainer = self._take(kind)
        try:
            trainer = trainer or make()
            yield trainer
        finally:
            with self._lock:
                self._lent -= 1
                if kept := trainer is not None and trainer.usable:
                    self._idle.append((kind, trainer))
            if trainer is not None and not kept:
                trainer.close()
            self._thin()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for _, trainer in idle:
            trainer.close()

    def _take(self, kind: Hashable) -> Trainer | None:
        with self._lock:
            self._lent += 1
            dead = [each for each in self._idle if not each[1].usable]
            self._idle = [each for each in self._idle if each[1].usable]
            # The one that worked last: its memory is still in the caches.
            found = next((each for each in reversed(self._idle) if each[0] == kind), None)
            if found is not None:
                self._idle.remove(found)
        for _, trainer in dead:
            trainer.close()
        self._thin()
        return None if found is None else found[1]

    def _thin(self) -> None:
        with self._lock:
            over = max(0, len(self._idle) + self._lent - self._most)
            surplus, self._idle = self._idle[:over], self._idle[over:]
        for _, trainer in surplus:
            trainer.close()
