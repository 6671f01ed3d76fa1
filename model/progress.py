"""progress: what a training says while it runs, so that whoever pays for it can stop it early.

Numbers for a picture and for giving up early, never a result: the training itself tells them. Nothing happens
unless a sink is installed, so that a system may report without knowing who listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

__all__ = ["REPORTS", "Sink", "install", "report"]

REPORTS = 64
"""Reports of one training, about: enough for a curve, too few to cost anything."""

Sink: TypeAlias = Callable[[int, int, float], None]

_sink: Sink | None = None


def report(rows: int, of: int, loss: float) -> None:
    """Say that `rows` training rows were seen of about `of` (all epochs), and the mean `loss` since the last
    report, per row, as the training computes it (dropout included). Call it about `REPORTS` times."""
    if _sink is not None:
        _sink(rows, of, loss)


@contextmanager
def install(sink: Sink) -> Iterator[None]:
    """Send the reports of this process to `sink` while the context lasts. One at a time."""
    global _sink
    before, _sink = _sink, sink
    try:
        yield
    finally:
        _sink = before
