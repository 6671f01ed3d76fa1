"""curves: what a training says of its progress, and when it is hopeless beyond doubt.

A candidate's own numbers: they may stop it early or draw a line, and nothing else ever depends on them. A
training that lies gains nothing: it is stopped, or it is trained to the end and measured like every other.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["REGION", "Curve", "Writer", "clearly_worse", "of_points", "read"]

SLOTS = 256
"""Reports that are kept: four times what a training is asked for."""
_SLOT = struct.Struct("=ddd")
REGION = SLOTS * _SLOT.size
"""Bytes of the memory that a training writes its reports to: (rows seen, rows planned, mean loss) each."""

MARGIN = 0.05
"""How much higher than production's, as a share of it, a training loss must be to count as clearly worse.

Dropout, the usual reason for a good candidate to look bad while it trains, costs a few percent of a log-loss;
a warm-up or a large step is made up for before the end, and then the gap closes (see `clearly_worse`)."""
FEWEST = 12
"""Reports that a training must have made before its curve means anything."""


class Writer:
    """A `progress.Sink` over a shared mapping of `REGION` bytes; what does not fit is not kept."""

    def __init__(self, region: mmap.mmap) -> None:
        self._region, self._next = region, 0

    def __call__(self, rows: int, of: int, loss: float) -> None:
        if self._next < SLOTS:
            _SLOT.pack_into(self._region, self._next * _SLOT.size, rows, of, loss)
            self._next += 1


@dataclass(frozen=True)
class Curve:
    """A learning curve: (rows seen, mean training loss per row since the point before), rows rising."""

    points: tuple[tuple[int, float], ...] = ()
    planned: int = 0
    """Rows the training will have seen at its end, repeats counted."""
    diverged: int | None = None
    """Rows seen when the loss stopped being finite; None where it did not."""

    @property
    def rows(self) -> int:
        """Rows seen so far."""
        return self.points[-1][0] if self.points else 0

    def mean(self, start: float, stop: float) -> float:
        """Mean loss over the rows in (start, stop]; NaN where the curve does not cover them all."""
        total, before = 0.0, 0
        if not 0 <= start < stop <= self.rows:
            return math.nan
        for rows, loss in self.points:
            total += loss * max(0.0, min(rows, stop) - max(before, start))
            before = rows
        return total / (stop - start)


def read(content: bytes) -> Curve:
    """The curve in a region that a stranger writes to, up to the first report that makes no sense."""
    points: list[tuple[int, float]] = []
    planned, diverged = 0, None
    for rows, of, loss in _SLOT.iter_unpack(content[:REGION]):
        before = points[-1][0] if points else 0
        if not (math.isfinite(rows) and math.isfinite(of) and before < rows <= 1.01 * of < 1e15):
            break
        planned = int(of)
        if not math.isfinite(loss):
            diverged = int(rows)
            break
        points.append((int(rows), float(f"{loss:.6g}")))  # no more digits than a picture needs
    return Curve(tuple(points), planned, diverged)


def clearly_worse(candidate: Curve, production: Curve, fresh: int) -> str | None:
    """Why a running training may be given up, beginning "after N% of the training: "; None to let it go on.

    `fresh` is the number of training rows. At once where the loss is no longer finite. Otherwise after half
    of the planned rows at the earliest, from two stretches of a quarter of the reports each, and only where

    - the mean loss of the last stretch is `MARGIN` above production's over the same rows;
    - the gap does not close fast enough to come below `MARGIN` by the end of the plan. Schedules that start
      slowly, or anneal a large step, end well from behind;
    - all of it lies within the first pass. A loss on rows that the model has not met before is an honest
      estimate of what it can do (progressive validation; Blum, Kalai & Langford 1999); on rows it has met it
      measures memory, and what fits its training rows worse than production may well be better.
    """
    if candidate.diverged is not None:
        return (
            f"after {_share(candidate.diverged, candidate)} of the training: the loss diverged at row "
            f"{candidate.diverged:,}. Try a smaller learning rate, or grad_clip."
        )
    ends = [rows for rows, _ in candidate.points]
    quarter = len(ends) // 4
    if len(ends) < FEWEST or 2 * ends[-1] < candidate.planned or ends[-1] > fresh:
        return None
    first, middle, last = ends[-1 - 2 * quarter], ends[-1 - quarter], ends[-1]
    before, now = _gap(candidate, production, first, middle), _gap(candidate, production, middle, last)
    if not now > MARGIN:  # NaN, too: production saw fewer rows
        return None
    closing = (before - now) / (last - middle)
    if now - max(0.0, closing) * (candidate.planned - last) <= MARGIN:
        return None
    return (
        f"after {_share(last, candidate)} of the training: over its last {last - middle:,} rows the training "
        f"loss is {candidate.mean(middle, last):.4g}, production's over the same rows "
        f"{production.mean(middle, last):.4g} ({100 * now:+.0f}%)."
    )


def _gap(candidate: Curve, production: Curve, start: int, stop: int) -> float:
    """How much higher the candidate's mean loss is, as a share of production's size."""
    ours, theirs = candidate.mean(start, stop), production.mean(start, stop)
    return (ours - theirs) / max(abs(theirs), 1e-12)


def _share(rows: int, curve: Curve) -> str:
    return f"{100 * rows / max(rows, curve.planned):.0f}%"


def of_points(points: Sequence[Sequence[float]]) -> Curve:
    """The curve of a finished training, as an Evaluation keeps it."""
    found = tuple((int(rows), float(loss)) for rows, loss in points)
    return Curve(found, found[-1][0] if found else 0)
