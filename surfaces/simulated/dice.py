"""Dice: random numbers that depend on what they are for, not on who drew before.

Every draw of the world is a function of (seed, purpose, keys, counter), e.g. of (seed, "click", user, day,
session, candidate). So two worlds that differ in a policy differ in nothing else (common random numbers), the
order of work and the size of blocks change nothing, and the first 1,000 of 50,000 users are the 1,000 of a
smaller world. The generator is SplitMix64 (Steele, Lea & Flood 2014), whose n-th output needs no predecessor.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from evorank.model.system import Float32

__all__ = ["Stream", "normal", "stream", "uniform", "words"]

Stream: TypeAlias = npt.NDArray[np.uint64]
"""States of independent generators, one per element."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def stream(seed: int, purpose: str, *keys: npt.NDArray[np.integer] | int) -> Stream:
    """A generator for each element of the broadcast `keys`: the same arguments, the same generator."""
    name = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    state = np.frombuffer(name, np.uint64)
    for key in keys:
        added = np.atleast_1d(key).astype(np.int64).view(np.uint64) + np.uint64(1)
        state = _mixed(state ^ (added * _GOLDEN))
    return state


def words(streams: Stream, counter: npt.NDArray[np.integer] | int) -> Stream:
    """Output number `counter` of each generator, uint64; the two are broadcast against each other."""
    with np.errstate(over="ignore"):
        steps = (np.asarray(counter).astype(np.uint64) + np.uint64(1)) * _GOLDEN
        return _mixed(streams + steps)


def uniform(streams: Stream, count: int) -> Float32:
    """`count` numbers in [0, 1) of each generator, float32 [*streams.shape, count], 24 random bits each."""
    pairs = words(streams[..., None], np.arange((count + 1) // 2))
    halves = pairs.view(np.uint32)[..., :count]
    return (halves >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def normal(streams: Stream, count: int) -> Float32:
    """`count` standard normal numbers of each generator, float32 [*streams.shape, count] (Box & Muller)."""
    pairs = (count + 1) // 2
    drawn = uniform(streams, 2 * pairs)
    radius = np.sqrt(-2 * np.log1p(-drawn[..., :pairs]))
    angle = np.float32(2 * np.pi) * drawn[..., pairs:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return np.asarray(both[..., :count], np.float32)


def _mixed(z: Stream) -> Stream:
    """SplitMix64's finaliser."""
    with np.errstate(over="ignore"):
        z = z ^ (z >> np.uint64(30))
        z *= _FIRST
        z ^= z >> np.uint64(27)
        z *= _SECOND
        z ^= z >> np.uint64(31)
    return z
