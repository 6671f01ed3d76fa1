"""Histories: what a user did strictly before each impression. Equal timestamps never see each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["last_codes", "write_history"]

_GROUP_ROWS = 4_000_000
"""Rows held in memory at a time: users are handled in groups of about this many rows."""
_SCAN_ROWS = 8_000_000


def last_codes(
    users: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    codes: npt.NDArray[np.int32],
    counts: npt.NDArray[np.bool_],
    length: int,
) -> npt.NDArray[np.int32]:
    """The last `length` codes of rows that count, of the same user, with an earlier time; most recent first.

    users, times, codes, counts: [n] in time order. Returns int32 [n, length], padded with 0. O(n log n).
    """
    order = np.argsort(users, kind="stable")  # by user, then time
    users, times, counts = users[order], times[order], counts[order]
    events = codes[order][counts]
    before: npt.NDArray[Any] = np.cumsum(counts) - counts  # events that lie before each row in this order
    starts = np.r_[True, users[1:] != users[:-1]]
    moments = starts | np.r_[True, times[1:] != times[:-1]]
    # Rows of one user and moment share the position of the first of them, hence see none of each other.
    end: npt.NDArray[Any] = before[np.maximum.accumulate(np.where(moments, np.arange(len(users)), 0))]
    begin: npt.NDArray[Any] = before[np.maximum.accumulate(np.where(starts, np.arange(len(users)), 0))]
    position = end[:, None] - 1 - np.arange(length)
    seen = position >= begin[:, None]
    found = np.zeros((len(users), length), np.int32)
    if len(events):
        found[order] = np.where(seen, events[np.maximum(position, 0)], 0)
    return found


def write_history(
    path: Path,
    *,
    users: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    codes: npt.NDArray[np.int32],
    counts: npt.NDArray[np.bool_],
    length: int,
) -> None:
    """Write `last_codes` of memory-mapped columns to `path`, a group of users at a time."""
    n = len(users)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.int32, shape=(n, length))
    groups = -(-n // max(1, _GROUP_ROWS * 20 // max(length, 20)))
    for group in range(groups):
        chosen = [
            start + np.flatnonzero(users[start : start + _SCAN_ROWS] % groups == group)
            for start in range(0, n, _SCAN_ROWS)
        ]
        rows = np.concatenate(chosen)
        out[rows] = last_codes(users[rows], times[rows], codes[rows], counts[rows], length)
    out.flush()
