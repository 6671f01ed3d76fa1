"""Who sees which arm: GrowthBook's hash, version 2, so that any GrowthBook SDK gives the same answer.

hash(seed, user) = fnv1a32(str(fnv1a32(seed + user))) mod 10,000 / 10,000 (FNV-1a of Fowler, Noll and Vo;
applied twice since one pass of FNV leaves parallel experiments correlated). Arm i of k owns [i/k, i/k +
coverage/k): a ramp raises coverage, ranges only grow, and nobody who was assigned moves. A ramp by weights
would move users and mix their past into the other arm.

Nothing is stored: the same user, seed and coverage always give the same arm. Resolution is 0.01% of users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["OUTSIDE", "Allocation", "Assigner", "HashAssigner", "bucket_ranges", "hash_v2"]

OUTSIDE = -1
"""Arm of a user who is not in the experiment and sees production."""

_OFFSET, _PRIME = np.uint32(2166136261), np.uint32(16777619)
_POWERS = (10 ** np.arange(9, -1, -1)).astype(np.uint32)

Users = npt.NDArray[Any] | Sequence[Any]


def _fnv1a32(
    state: npt.NDArray[np.uint32], codes: npt.NDArray[np.uint32], used: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint32]:
    """FNV-1a over the columns of `codes` [n, length], leaving out positions that are not `used`."""
    with np.errstate(over="ignore"):
        for code, take in zip(codes.T, used.T, strict=True):
            state = np.where(take, (state ^ code) * _PRIME, state)
    return state


def hash_v2(seed: str, users: Users) -> npt.NDArray[np.float64]:
    """Bucket of every user in [0, 1), in steps of 0.0001 [n]. Users are texts or integers (as decimal text).

    Characters enter as code points, as in the Python SDK; SDKs agree on all characters up to U+FFFF.
    """
    names = np.asarray(users)
    if not names.size:
        return np.zeros(0)
    if names.dtype.kind not in "iuUO" or (names.dtype.kind == "O" and not _plain(names)):
        raise TypeError(f"user ids must be texts or integers, got {names.dtype}")
    names = np.char.add(seed, names.astype(np.str_))
    codes = np.ascontiguousarray(names).view(np.uint32).reshape(len(names), names.dtype.itemsize // 4)
    used = np.arange(codes.shape[1]) < np.char.str_len(names)[:, None]
    once = _fnv1a32(np.full(len(names), _OFFSET), codes, used)
    digits = once[:, None] // _POWERS
    shown = (digits > 0) | (_POWERS == 1)
    twice = _fnv1a32(np.full(len(names), _OFFSET), digits % 10 + np.uint32(ord("0")), shown)
    return np.asarray(twice % 10_000 / 10_000, dtype=np.float64)


def _plain(names: npt.NDArray[Any]) -> bool:
    return all(isinstance(name, (str, int, np.integer)) and not isinstance(name, bool) for name in names)


def bucket_ranges(arms: int, coverage: float) -> list[tuple[float, float]]:
    """[low, high) of each of `arms` equal arms when `coverage` (0..1) of the traffic takes part."""
    starts = [sum([1.0 / arms] * arm) for arm in range(arms)]
    return [(start, start + min(max(coverage, 0.0), 1.0) / arms) for start in starts]


@dataclass(frozen=True)
class Allocation:
    """Which traffic an experiment gets: a slot of its surface's layer, and how much of the slot by now.

    All experiments of a surface are in one layer with slots that do not overlap, so nobody is ever in
    two at once. A slot that no experiment ever gets is a holdback.
    """

    experiment_id: str
    coverage: float
    """Share of the slot's users that takes part, 0..1. Raise it to ramp; 0 sends everybody to production."""
    layer: str = ""
    slot: tuple[float, float] = (0.0, 1.0)
    """[low, high) of the layer's hash."""
    seed: str | None = None
    """Seed of the arms' hash; None: the experiment's id. A replication uses a fresh one."""
    arms: int = 2

    def __post_init__(self) -> None:
        if not 0.0 <= self.coverage <= 1.0:
            raise ValueError(f"`coverage` must lie in 0..1, got {self.coverage}")
        if not 0.0 <= self.slot[0] < self.slot[1] <= 1.0:
            raise ValueError(f"`slot` must be low < high within 0..1, got {self.slot}")
        if self.slot != (0.0, 1.0) and not self.layer:
            raise ValueError("a `slot` needs the name of its `layer`")
        if self.arms < 2:
            raise ValueError(f"`arms` must be at least 2, got {self.arms}")
        if self.layer and self.layer == self.arm_seed:
            # The two hashes would be one, and the slot would decide the arm.
            raise ValueError(f"`layer` and `seed` must differ, both are {self.layer!r}")

    @property
    def arm_seed(self) -> str:
        return self.experiment_id if self.seed is None else self.seed


class Assigner(Protocol):
    """Anything that can say which arm each of many users sees: deterministic, and sticky under ramps."""

    def assign(self, allocation: Allocation, users: Users) -> npt.NDArray[np.int8]:
        """Arm per user [n]: 0 is production, 1 the candidate, OUTSIDE for those who do not take part."""


class HashAssigner:
    """The assigner of GrowthBook's SDKs, vectorised: about half a million users a second and core."""

    def assign(self, allocation: Allocation, users: Users) -> npt.NDArray[np.int8]:
        bucket = hash_v2(allocation.arm_seed, users)
        found = np.full(len(bucket), OUTSIDE, np.int8)
        for arm, (low, high) in enumerate(bucket_ranges(allocation.arms, allocation.coverage)):
            found[(bucket >= low) & (bucket < high)] = arm
        if allocation.layer:
            place = hash_v2(allocation.layer, users)
            found[(place < allocation.slot[0]) | (place >= allocation.slot[1])] = OUTSIDE
        return found
