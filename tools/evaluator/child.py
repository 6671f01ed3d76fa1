"""child: what a forked process does with one job: map what it needs, lock itself, and only then run anything
that a candidate or a user wrote.

Kinds of job: *check* (findings and cost of a Φ), *train* (training rows and labels in, weights out), *score*
(weights and a page of rows in, scores out, until its channel closes), *stay* (checks, trains and scores one Φ
after another, where none of them brings code). It keeps no descriptor but /dev/null, a bounded log, a bounded
status and one result; no label of a row that is scored and no row before it is to be scored ever reaches it.
What it says is judged by the parent.
"""

from __future__ import annotations

import fcntl
import gc
import io
import json
import mmap
import os
import random
import resource
import select
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from evorank.model.errors import EvorankError, ToolError
from evorank.model.progress import Sink, install
from evorank.model.system import Float32, LogSchema, RankingSystem, Rows, Weights
from evorank.tools.evaluator import blocks, gpu
from evorank.tools.evaluator.curves import REGION, Writer
from evorank.tools.evaluator.lock import Limits, lock

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ANSWER", "BEGUN", "DONE", "FAILED", "RSS_UNIT", "STATUS_BYTES", "live"]

STATUS, RESULT = 3, 4
"""The descriptors a child keeps beside 0, 1 and 2: where it says how it went, and where its result goes."""
STATUS_BYTES = 1 << 16
BEGUN = struct.Struct("=dd")
"""What it leaves before it locks itself: CPU-seconds spent by then, and the monotonic clock."""
ANSWER = struct.Struct("=cd")
"""What it answers to each message: whether that was done, and the CPU-seconds it has spent in all."""
DONE, FAILED = b"+", b"-"
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes: what the kernel counts resident memory in."""
SHORTEST_MESSAGE = 800
OWN_LIMITS = ("/proc/self/cgroup", "/sys/fs/cgroup")
"""DuckDB, which checks rewards, ends a process that cannot ask for the limits it was given."""


def live(
    request: dict[str, Any], descriptors: Sequence[int], readable: Sequence[Path], parent: int
) -> NoReturn:
    """Do one job and exit: 0 where it was done or its error was told, 1 otherwise. Never returns.

    `descriptors`: log, status, begun, result, then those of the data in the order of request["blocks"].
    """
    code = 1
    try:
        with suppress(OSError):  # where memory runs out, a candidate goes before the supervisor
            os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"1000")  # `_keep` closes it
        log, status, begun, result, *data = descriptors
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = _Bounded.stream(1), _Bounded.stream(2)
        do = PREPARE[request["kind"]](request, data)
        _seed(int(request.get("seed", 0)))
        os.environ.clear()
        os.write(begun, BEGUN.pack(time.process_time(), time.monotonic()))
        _keep(status, result)
        devices = gpu.devices() if request["device"] == "cuda" else []
        own = [Path(path) for path in OWN_LIMITS if os.path.exists(path)]
        lock(
            Limits(**request["limits"]),
            readable=[*readable, *own, *(gpu.read_by_cuda() if devices else [])],
            threads=request["threads"],
            degraded=request["degraded"],
            devices=devices,
        )
        if os.getppid() == parent:  # else it died before the lock tied us to it
            code = _run(do)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class _Bounded(io.RawIOBase):
    """A log that is full says nothing more; whoever prints a lot is not punished for it."""

    name = "log"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def stream(cls, descriptor: int) -> io.TextIOWrapper:
        return io.TextIOWrapper(cls(descriptor), errors="backslashreplace", write_through=True)

    def writable(self) -> bool:
        return True

    def write(self, content: Buffer, /) -> int:
        with suppress(OSError):
            os.write(self._descriptor, content)
        return memoryview(content).nbytes


def _keep(*descriptors: int) -> None:
    """Number these from 3 on and close every other one. A mapping outlives its descriptor."""
    parked = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in descriptors]
    for number, descriptor in enumerate(parked, start=3):
        os.dup2(descriptor, number)
    os.closerange(3 + len(parked), os.sysconf("SC_OPEN_MAX"))


def _seed(seed: int) -> None:
    """The same generators for the same job, wherever and after whatever it runs."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    if (torch := sys.modules.get("torch")) is not None:
        # Not `torch.manual_seed`: it also keeps a stack trace for each kind of device there might be, 2 ms.
        torch.default_generator.manual_seed(seed)


def _run(do: Callable[[], dict[str, Any]]) -> int:
    """Run candidate code and tell what came of it."""
    try:
        _tell(do())
    except BaseException as error:
        _tell({"error": _reason(error)})
    return 0


def _reason(error: BaseException) -> str:
    """What went wrong, in a line its author can act on: "memory" alone where it ran out."""
    if isinstance(error, EvorankError):
        return str(error)
    text = str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
        return "memory"
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"in {last.name}, {Path(last.filename).name}:{last.lineno}"
    return f"{type(error).__name__}: {text[:SHORTEST_MESSAGE]} ({place})"


def _tell(message: dict[str, Any]) -> None:
    content = json.dumps(message).encode()
    if len(content) > STATUS_BYTES:
        if message.get("findings"):
            return _tell(message | {"findings": message["findings"][: len(message["findings"]) // 2]})
        content = json.dumps({"error": str(message.get("error"))[:SHORTEST_MESSAGE]}).encode()
    os.pwrite(STATUS, (content + b"\0")[:STATUS_BYTES], 0)  # the end of what was told before is not read
    return None


def _system(request: dict[str, Any], schema: LogSchema) -> RankingSystem:
    """Built after the lock: a production Φ may hold code as well."""
    with suppress(ImportError):
        from evorank.model import component_code

        component_code.allow()
    module, _, name = request["system"].partition(":")
    system: Any = getattr(sys.modules[module], name)(schema, request["production"])
    if hasattr(system, "device"):
        system.device = request["device"]
    made: RankingSystem = system
    return made


# --------------------------------------------------------------------------- the kinds of job


def _check(request: dict[str, Any], data: Sequence[int]) -> Callable[[], dict[str, Any]]:
    schema = blocks.schema_from_json(request["schema"])

    def do() -> dict[str, Any]:
        return _checked(_system(request, schema), request["phi"])

    return do


def _train(request: dict[str, Any], data: Sequence[int]) -> Callable[[], dict[str, Any]]:
    schema = blocks.schema_from_json(request["schema"])
    rows, labels, sink = _training(request, schema, data)

    def do() -> dict[str, Any]:
        system, phi = _system(request, schema), request["phi"]
        parameters = int(system.cost(phi).parameters)
        with install(sink()):
            weights = system.fit(phi, rows, labels, int(request["seed"]))
        blocks.write_weights(RESULT, weights)
        return {"parameters": parameters}

    return do


def _score(request: dict[str, Any], data: Sequence[int]) -> Callable[[], dict[str, Any]]:
    schema = blocks.schema_from_json(request["schema"])
    shared, weights_file = data
    rows, scores = _page(request, schema, shared)
    told = {name: blocks.Block.from_json(block) for name, block in request["weights"].items()}
    weights = blocks.open_weights(weights_file, told)

    def do() -> dict[str, Any]:
        system, phi = _system(request, schema), request["phi"]
        while count := _number():
            with _answered():
                scores[:count] = _predictions(system, phi, weights, rows[:count])
        return {}

    return do


def _stay(request: dict[str, Any], data: Sequence[int]) -> Callable[[], dict[str, Any]]:
    """One Φ after another, on data that is mapped once; without data it checks only.

    A positive number in its channel asks for the scores of as many rows by what was trained last; a negative
    one is the length of an order that follows. For Φ that bring no code: nothing keeps one from the next. It
    ends where nothing is asked for a while.
    """
    schema = blocks.schema_from_json(request["schema"])
    shared, *files = data
    page, scores = _page(request, schema, shared)
    training = _training(request, schema, files) if files else None

    def train(system: RankingSystem, phi: dict[str, Any], seed: int, cpu_limit: int | None) -> Weights:
        assert training is not None
        rows, labels, sink = training
        gc.collect()
        _seed(seed)
        began = time.process_time()
        parameters = int(system.cost(phi).parameters)
        with install(_Thrifty(sink(), cpu_limit)):
            weights = system.fit(phi, rows, labels, seed)
        floats = sum(each.size for each in weights.values() if each.dtype.kind == "f")
        _tell(
            {
                "parameters": max(parameters, floats),
                "cpu_seconds": time.process_time() - began,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
            }
        )
        return weights

    def do() -> dict[str, Any]:
        system = _system(request, schema)
        phi: dict[str, Any] = {}
        weights: Weights = {}
        while select.select([RESULT], [], [], request["patience"])[0]:
            if not (number := _number()):
                return {}
            with _answered():
                if number > 0:
                    scores[:number] = _predictions(system, phi, weights, page[:number])
                    continue
                order = json.loads(_read(-number))
                if order["phi"].get("components"):  # whoever sends one has erred: the next would pay for it
                    raise ToolError("a process that stays runs no code that a candidate brings")
                if "seed" in order:
                    weights = train(system, order["phi"], order["seed"], order["cpu_limit"])
                    phi = order["phi"]
                else:
                    _tell(_checked(system, order["phi"]))
        return {"tired": True}

    return do


PREPARE = {"check": _check, "train": _train, "score": _score, "stay": _stay}
"""Each maps its data and returns what is to be done once the process is locked."""


def _checked(system: RankingSystem, phi: dict[str, Any]) -> dict[str, Any]:
    if findings := system.check(phi):
        return {"findings": [finding.as_dict() for finding in findings]}
    return {"findings": [], "parameters": int(system.cost(phi).parameters)}


def _training(
    request: dict[str, Any], schema: LogSchema, data: Sequence[int]
) -> tuple[Rows, Float32, Callable[[], Writer]]:
    """Rows, labels, and what makes a sink for the reports of one training."""
    *files, progress = data
    arrays = {}
    for (name, told), descriptor in zip(request["blocks"].items(), files, strict=True):
        arrays[name] = blocks.Block.from_json(told).mapped(descriptor)
    labels, region = arrays.pop("labels"), mmap.mmap(progress, REGION)
    return blocks.rows_of(schema.features, arrays), labels, lambda: Writer(region)


class _Thrifty:
    """A sink that ends a training of ours at its CPU limit: the kernel's limit is for the whole process."""

    def __init__(self, sink: Sink, cpu_seconds: int | None) -> None:
        self._sink, self._limit, self._began = sink, cpu_seconds, time.process_time()

    def __call__(self, rows: int, of: int, loss: float) -> None:
        self._sink(rows, of, loss)
        if self._limit is not None and time.process_time() - self._began > self._limit:
            raise ToolError(f"it used more than {self._limit:,} CPU-seconds")


def _page(request: dict[str, Any], schema: LogSchema, shared: int) -> tuple[Rows, Float32]:
    page = blocks.Page(schema.features, int(request["capacity"]))
    return page.over(mmap.mmap(shared, page.size))


def _number() -> int:
    """The next message, 0 where the channel was closed."""
    return int.from_bytes(_read(8), "little", signed=True)


def _read(count: int) -> bytes:
    """So many bytes of the channel, b"" at its end."""
    found = b""
    while len(found) < count:
        if not (more := os.read(RESULT, count - len(found))):
            return b""
        found += more
    return found


@contextmanager
def _answered() -> Iterator[None]:
    """Answer a message: done, or failed, and then why is told."""
    answer = DONE
    try:
        yield
    except BaseException as error:
        _tell({"error": _reason(error)})
        answer = FAILED
    os.write(RESULT, ANSWER.pack(answer, time.process_time()))


def _predictions(system: RankingSystem, phi: dict[str, Any], weights: Weights, rows: Rows) -> Float32:
    found = np.asarray(system.predict(phi, weights, rows))
    if found.shape != (len(rows),) or found.dtype != np.float32:
        raise EvorankError(
            f"`predict` must return float32 [{len(rows)}], got {found.dtype} {list(found.shape)}."
        )
    return found
