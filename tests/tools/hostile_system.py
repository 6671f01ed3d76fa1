"""A ranking system whose Φ names an attack on the evaluator: code of a candidate that no lint has stopped.

Each attack runs where candidates run and may do anything there. `fit` gets what a training gets, `score` gets
the honest scores and what a scoring gets, `check` runs before either; whatever they do, the honest part goes
on unless they end the process.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import struct
import sys
import time

import numpy as np
import torch
from linear_system import LinearSystem

ATTACKS = {}
STATUS, RESULT = 3, 4
"""The descriptors that a child keeps."""


def attack(kind):
    ATTACKS[kind.__name__] = kind
    return kind


class HostileSystem(LinearSystem):
    def __init__(self, log, production=None):
        super().__init__(log, production)
        self.state = {}

    def check(self, phi):
        self.run(phi, "check", self)
        return super().check(phi)

    def fit(self, phi, rows, labels, seed):
        self.run(phi, "fit", rows, labels, phi)
        return super().fit(phi, rows, labels, seed)

    def predict(self, phi, weights, rows):
        scores = super().predict(phi, weights, rows)
        found = self.run(phi, "score", scores, rows, self.state, phi)
        return scores if found is None else found.astype(np.float32)

    def run(self, phi, stage, *given):
        act = getattr(ATTACKS.get(phi.get("attack")), stage, None)
        return act(*given) if act else None


def arrays():
    """Every array in a container or a stack frame, however deep the collector has hidden it."""
    gc.unfreeze()
    containers = [each for each in gc.get_objects() if type(each) in (dict, list, tuple)]
    frame = sys._getframe()
    while frame is not None:
        containers.append(frame.f_locals)
        frame = frame.f_back
    found = {}
    for each in containers:
        for value in list(each.values() if isinstance(each, dict) else each):
            if isinstance(value, np.ndarray):
                found[id(value)] = value
    return [*found.values()]


# --------------------------------------------------------------------------- true loss


@attack
class PatchesTheLoss:
    def fit(rows, labels, phi):
        for name in ("binary_cross_entropy_with_logits", "binary_cross_entropy", "mse_loss", "huber_loss"):
            setattr(torch.nn.functional, name, lambda *_, **__: torch.zeros(()))
        np.log = np.log1p = np.mean = lambda *_, **__: 0.0

    score = staticmethod(lambda scores, rows, state, phi: PatchesTheLoss.fit(rows, None, phi))


@attack
class ReturnsConstantsFromItem:
    def fit(rows, labels, phi):
        torch.Tensor.item = torch.Tensor.__float__ = lambda self: 0.0

    score = staticmethod(lambda scores, rows, state, phi: ReturnsConstantsFromItem.fit(rows, None, phi))


@attack
class HuntsLabels:
    """Looks for an array that could be the labels of the scored rows, and for the files they are in."""

    def score(scores, rows, state, phi):
        if state.setdefault("searched", len(scores)) != len(scores):
            return None  # once is enough
        for path in phi["files"]:
            try:
                return np.load(path)[-len(scores) :]
            except OSError:
                continue
        for array in arrays():
            values = np.asarray(array).ravel()
            if len(values) >= 1000 and values.dtype == np.float32 and set(np.unique(values)) == {0.0, 1.0}:
                return np.resize(values, len(scores))
        return None


@attack
class HuntsLabelsOfLaterRows:
    """Grows the mapping of its training rows over the rest of the file."""

    def fit(rows, labels, phi):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mremap.restype = ctypes.c_void_p
        libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
        for array in (rows.categorical, labels):
            start = array.ctypes.data & ~(mmap.PAGESIZE - 1)
            size = -(-(array.ctypes.data + array.nbytes - start) // mmap.PAGESIZE) * mmap.PAGESIZE
            grown = libc.mremap(start, size, 2 * size, 1)
            assert grown in (None, ctypes.c_void_p(-1).value), "the mapping grew"
        for array in arrays():
            holder = array.base
            while isinstance(holder, np.ndarray):
                holder = holder.base
            if isinstance(holder, mmap.mmap):
                try:
                    holder.resize(2 * len(holder))
                except (OSError, ValueError, TypeError, BufferError):
                    continue
                raise AssertionError("the mapping grew")


@attack
class PrefillsThePage:
    def score(scores, rows, state, phi):
        state["found"] = state.get("found") or [*arrays()]
        for array in state["found"]:
            if array.dtype == np.float32 and array.flags.writeable and array.shape != scores.shape:
                array[...] = 0.5


@attack
class FakesClocks:
    def fit(rows, labels, phi):
        for name in ("time", "perf_counter", "process_time", "monotonic", "thread_time"):
            setattr(time, name, lambda: 0.0)
        burn(0.3)

    def score(scores, rows, state, phi):
        FakesClocks.fit = FakesClocks.score
        burn(0.02)


CLOCK = time.process_time


def burn(seconds):
    end = CLOCK() + seconds
    while CLOCK() < end:
        pass


# --------------------------------------------------------------------------- a refusal


@attack
class OverwritesLabels:
    def fit(rows, labels, phi):
        labels[:] = 1.0


@attack
class OverwritesLabelsInMemory:
    def fit(rows, labels, phi):
        ctypes.memset(labels.ctypes.data, 0, labels.nbytes)


@attack
class PeeksAtTheBatch:
    def score(scores, rows, state, phi):
        return np.clip(scores * (1 + 0.1 * (len(scores) > 100) * scores.std()), 0, 1)


@attack
class KeepsState:
    def score(scores, rows, state, phi):
        state["mean"] = 0.9 * state.get("mean", scores.mean()) + 0.1 * scores.mean()
        return np.clip(scores + 0.1 * (state["mean"] - 0.5), 0, 1)


@attack
class CountsItsCalls:
    def score(scores, rows, state, phi):
        state["calls"] = state.get("calls", 0) + 1
        return scores if state["calls"] < 5 else np.clip(scores * 0.9, 0, 1)


@attack
class AnswersBeforeItScores:
    """Says it is done at once, so that the clock stops."""

    def score(scores, rows, state, phi):
        os.write(RESULT, struct.pack("=cd", b"+", 0.0))
        burn(0.02)


@attack
class AnswersNonsense:
    def score(scores, rows, state, phi):
        os.write(RESULT, b"?" * 100)
        burn(0.02)


@attack
class LeavesEarlyInTraining:
    def fit(rows, labels, phi):
        os._exit(0)


@attack
class LeavesEarlyInScoring:
    def score(scores, rows, state, phi):
        os._exit(0)


@attack
class ForgesSuccess:
    def fit(rows, labels, phi):
        os.pwrite(STATUS, json.dumps({"parameters": 1}).encode(), 0)
        os._exit(0)


@attack
class ForgesAStatusThatIsNoJson:
    def fit(rows, labels, phi):
        os.pwrite(STATUS, b"[" * (1 << 16), 0)
        os._exit(0)


@attack
class ForgesATerminal:
    def fit(rows, labels, phi):
        raise ValueError("\x1b[2J\x1b]0;owned\x07" + "long " * 10_000)


@attack
class ForgesWeights:
    def fit(rows, labels, phi):
        header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}).encode()
        os.write(RESULT, struct.pack("<Q", len(header)) + header + b"1234")
        os.pwrite(STATUS, json.dumps({"parameters": 1}).encode(), 0)
        os._exit(0)


@attack
class OverrunsThePage:
    def score(scores, rows, state, phi):
        for array in arrays():
            if array.dtype == np.float32 and isinstance(array.base, mmap.mmap | memoryview):
                ctypes.memset(array.ctypes.data + array.nbytes, 0x41, 1 << 22)


@attack
class ReturnsTooMany:
    def score(scores, rows, state, phi):
        return np.zeros(2 * len(scores))


@attack
class WritesTooMuch:
    def fit(rows, labels, phi):
        while True:
            os.write(RESULT, b"0" * (1 << 26))


@attack
class AllocatesTooMuch:
    def fit(rows, labels, phi):
        phi["hoard"] = [np.ones(1 << 27) for _ in range(1 << 20)]


@attack
class ComputesForEver:
    def fit(rows, labels, phi):
        import signal

        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        while True:
            pass


# --------------------------------------------------------------------------- harmless, and loud


@attack
class FloodsItsOutput:
    def fit(rows, labels, phi):
        for _ in range(1 << 9):
            print("flood " * 1000)
