"""scorer: the parent's end of a locked process that stays with a trained model and scores rows on request.

Rows go out and scores come back through one page of shared memory; a short answer says when. The process
never holds a row before the request for it, so it cannot work ahead, and the clock around a request is ours.
Evaluation uses it for one candidate's predictions, live traffic for as long as it serves; `trainer.py` adds
the process that also trains.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from evorank.model.errors import ToolError
from evorank.model.system import Float32, LogSchema, Loss, Phi, Rows
from evorank.tools.evaluator.blocks import Block, Page, memory_file, schema_as_json
from evorank.tools.evaluator.child import ANSWER, DONE, FAILED
from evorank.tools.evaluator.lock import Limits
from evorank.tools.evaluator.supervisor import END_SECONDS, Child, End, Lost, Supervisor

__all__ = ["LOOK_SECONDS", "Resident", "Scorer", "require_scores"]

LOOK_SECONDS = 0.2
"""How often a running training's curve is looked at."""


class Resident:
    """A process that stays and does what a message asks for, with a page of rows and scores that both ends
    hold. Safe to use from several threads, one at a time."""

    def __init__(
        self,
        supervisor: Supervisor,
        request: Mapping[str, Any],
        data: Sequence[int],
        *,
        schema: LogSchema,
        capacity: int,
        limits: Limits,
        watch: Callable[[Child], None] = lambda child: None,
    ) -> None:
        """`data`: descriptors of what it is to hold beside the page, as its kind of job expects them."""
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity, self._features = capacity, schema.features
        self._lock, self._closed = threading.Lock(), False
        self._cpu = 0.0
        page = Page(schema.features, capacity)
        shared = memory_file("page", page.size)
        self._channel, theirs = socket.socketpair()
        request = {"schema": schema_as_json(schema), "capacity": capacity, **request}
        try:
            self._rows, self._scores = page.over(mmap.mmap(shared, page.size))
            with theirs:
                self.child = supervisor.spawn(request, (theirs.fileno(), shared, *data), limits)
        except BaseException:
            self._channel.close()
            raise
        finally:
            os.close(shared)
        watch(self.child)

    def timed(
        self, rows: Rows, index: slice | npt.NDArray[np.int64], seconds: float, late: str
    ) -> tuple[Float32, float]:
        """Scores of some rows, at most `capacity`, and the seconds that they took, by our clock.

        `late` says why it is killed where it takes longer than `seconds`.
        """
        with self._lock:
            self._require_open()
            count = self._fill(rows, index)
            taken = self._ask(count.to_bytes(8, "little", signed=True), seconds, late)
            return self._scores[:count].copy(), taken

    def finish(self) -> End:
        """Let it end by itself and say what it took."""
        self._channel.close()
        return self.child.wait(END_SECONDS)

    def close(self) -> None:
        """End the process. Several times are as good as once."""
        with self._lock:
            self._closed = True
            self._channel.close()
            self.child.__exit__(None)

    def _require_open(self) -> None:
        if self._closed:
            raise ToolError("The scorer is closed.")

    def _ask(
        self,
        message: bytes,
        seconds: float,
        late: str,
        look: Callable[[], None] | None = None,
        what: str = "Training",
    ) -> float:
        """Send a message and wait for the answer: the seconds that it took. ToolError with what it complains
        of, or why it ended; `Lost` where nobody knows. `look` is called now and then; what it raises ends
        the process."""
        started = time.perf_counter()
        ends, answer = started + max(seconds, 0.001), b""
        try:
            self._channel.settimeout(max(seconds, 0.001))
            self._channel.sendall(message)
            while len(answer) < ANSWER.size:
                left = ends - time.perf_counter()
                if left <= 0:
                    raise TimeoutError
                self._channel.settimeout(left if look is None else min(left, LOOK_SECONDS))
                try:
                    if not (more := self._channel.recv(ANSWER.size - len(answer))):
                        break
                except TimeoutError:
                    if look is not None:
                        look()
                    continue
                answer += more
        except TimeoutError:
            self.child.kill(late)
        except OSError:
            pass
        except BaseException:
            self._closed = True
            self.child.kill("was no longer needed")
            with suppress(Lost, FutureTimeoutError):  # what it cost is known then
                self.child.wait(END_SECONDS)
            raise
        taken = time.perf_counter() - started
        if len(answer) == ANSWER.size:
            word, self._cpu = ANSWER.unpack(answer)
            if word == DONE:
                return taken
            if word == FAILED:
                raise ToolError(f"{what} failed: {self.child.complaint() or 'no scores'}")
            self.child.kill("answered what makes no sense")
        self._closed = True
        end = self.child.wait(END_SECONDS)
        complaint = self.child.complaint()
        if end.code == 0 and complaint and not self.child.stopped:
            raise ToolError(f"{what} failed: {complaint}")
        raise ToolError(f"The training process {self.child.reason(end)}.")

    def _fill(self, rows: Rows, index: slice | npt.NDArray[np.int64]) -> int:
        """Put rows into the page; how many."""
        count = index.stop - index.start if isinstance(index, slice) else len(index)
        pairs = [(rows.categorical, self._rows.categorical), (rows.numeric, self._rows.numeric)]
        pairs += [(rows.histories[name], target) for name, target in self._rows.histories.items()]
        for source, target in pairs:
            if isinstance(index, slice):
                target[:count] = source[index]
            else:
                # `clip` lets numpy write in place; the indices are ours.
                np.take(np.asarray(source), index, axis=0, out=target[:count], mode="clip")
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.close()


class Scorer(Resident):
    """A model that stays, in a process of its own."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        schema: LogSchema,
        production: Phi,
        phi: Phi,
        weights: int,
        blocks: Mapping[str, Block],
        capacity: int,
        limits: Limits,
        seed: int = 0,
        loss: Loss | None = None,
        seconds: float = 60.0,
        watch: Callable[[Child], None] = lambda child: None,
    ) -> None:
        """`weights`: descriptor of a safetensors file with `blocks`; `seconds`: limit of one request."""
        request = {
            "kind": "score",
            "production": production,
            "phi": phi,
            "seed": seed,
            "weights": {name: block.as_json() for name, block in blocks.items()},
        }
        super().__init__(
            supervisor, request, [weights], schema=schema, capacity=capacity, limits=limits, watch=watch
        )
        self._loss, self._seconds = loss, seconds
        self._late = f"took longer than {seconds:g} seconds and was stopped"

    def score(self, rows: Rows) -> Float32:
        """Expected label of each row, float32 [n]; any number of rows, `capacity` at a time.

        ToolError where the model fails on them, answers nonsense, or takes longer than its limit.
        """
        if rows.features != self._features:
            raise ToolError("`rows` must have the features that the model was trained on, got others.")
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), self.capacity):
            part = slice(start, min(start + self.capacity, len(rows)))
            try:
                scores[part] = self.timed(rows, part, self._seconds, self._late)[0]
            except Lost as lost:
                raise ToolError(f"The training process died: {lost}. Open another scorer.") from None
        if self._loss is not None:
            require_scores(scores, self._loss)
        return scores


def require_scores(scores: Float32, loss: Loss) -> None:
    """ToolError unless every score is a number, and for bce a probability."""
    wrong = int(np.count_nonzero(~np.isfinite(scores)))
    if wrong:
        raise ToolError(
            f"{wrong:,} of {len(scores):,} predictions are not finite: the training diverged. "
            "Try a smaller learning rate, or grad_clip."
        )
    if loss == "bce" and len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise ToolError(
            f"`predict` must return probabilities in [0, 1] for loss bce, got {scores.min():g} to "
            f"{scores.max():g}."
        )
