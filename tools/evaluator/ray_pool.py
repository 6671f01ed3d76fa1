"""RayPool: the executor for more than one machine. Each node trains in a LocalPool of its own.

The queue is here: a node gets a job when it has a slot free, the one with the most free slots first. A node
that dies costs nothing but time: its jobs run once more elsewhere, and fail as ToolError the second time. The
same Φ, data and seed give the predictions of a LocalPool, bit by bit, where the processors are of one kind.

The home must lie on storage that all nodes see under the same path (NFS, a shared volume): jobs name files,
and each node compares the data version before it trains. Nodes that join later are not used.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evorank.model.errors import ConfigurationError, EvorankError, ToolError
from evorank.model.system import Phi
from evorank.tools.evaluator.executor import Checked, Job, Pool, Task
from evorank.tools.evaluator.gpu import Device, DeviceName
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.evaluator.ray_cluster import connect
from evorank.tools.evaluator.ray_node import Refused, Supervisor, data_key, facts
from evorank.tools.evaluator.tier import TIERS, Tier

if TYPE_CHECKING:
    from evorank.tools.evaluator.scorer import Scorer

__all__ = ["RayPool"]

OPEN_SECONDS = 120.0
"""A supervisor must be scheduled and import the package in this time."""


@dataclass(eq=False)
class _Node:
    id: str
    name: str
    slots: int
    actor: Any = None
    running: int = 0
    tier: Tier = "degraded"


@dataclass(eq=False)
class _Task(Task):
    key: str = ""
    """Data version of the job."""
    node: _Node | None = None
    lost: list[str] = field(default_factory=list)
    """Nodes that died under it."""
    cancelled: bool = False


class RayPool(Pool[_Task]):
    """An `Executor` on a Ray cluster: `address` HOST:PORT or "auto"; None starts Ray on this machine.

    `workers` trainings at once over all nodes (default: every CPU that Ray counts), dealt out evenly. The
    other arguments are those of each node's `LocalPool`; `device` auto is the CPU here, since nodes differ
    and results must not. Raises ConfigurationError where Ray is missing, the cluster cannot be joined, or a
    node runs other code than this machine.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        limit: float = 3600.0,
        check_limit: float = 120.0,
        device: DeviceName = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._cluster = connect(address, workers)
        self.address = self._cluster.address
        self.device: Device = "cuda" if device == "cuda" else "cpu"
        self._options = {"limit": limit, "check_limit": check_limit, "device": self.device, **options}
        self._wake = threading.Condition(self._lock)
        self._queue: deque[_Task] = deque()
        self._here: LocalPool | None = None
        self._opening = 0
        self._closed = False
        self._nodes: list[_Node] = []
        self._threads: list[threading.Thread] = []
        try:
            nodes = _dealt(workers)
            for node in nodes:
                node.actor = _actor(node)
            for node in nodes:
                self._open(node)
        except BaseException:
            self._cluster.close()
            raise
        self._nodes = nodes
        self.workers = sum(node.slots for node in nodes)
        self.tier: Tier = min((node.tier for node in nodes), key=TIERS.index)

    @property
    def nodes(self) -> dict[str, int]:
        """Nodes that are alive -> trainings at once."""
        with self._wake:
            return {node.name: node.slots for node in self._nodes}

    def submit(self, job: Job) -> str:
        task = _Task(job, key=data_key(job.dataset))
        with self._wake:
            self._require_open()
            self._tasks[task.id] = task
            self._queue.append(task)
            if not self._threads:  # one per slot, waiting for its node's answer
                self._threads = [
                    threading.Thread(target=self._serve, daemon=True, name=f"evorank-ray-{n}")
                    for n in range(self.workers)
                ]
                for thread in self._threads:
                    thread.start()
            self._wake.notify()
        return task.id

    def cancel(self, id: str) -> None:
        with self._wake:
            task = self._tasks.get(id)
            if task is None or task.future.done():
                return
            task.cancelled = True
            if task in self._queue:
                self._queue.remove(task)
                task.fail(ToolError("The training was cancelled."))
            node = task.node
        if node is not None:
            node.actor.cancel.options(concurrency_group="control").remote(id)

    def check(self, dataset: Path, system: str, production: Phi, phi: Phi) -> Checked:
        import ray

        key = data_key(dataset)
        lost: list[str] = []
        while len(lost) < 2:
            node = self._idlest()
            try:
                asked = node.actor.check.remote(dataset, key, system, production, phi)
                found: Checked = _answer(ray.get(asked))
                return found
            except ray.exceptions.RayTaskError as error:
                raise ToolError(f"Executor: {error.cause!r} on node {node.name}") from error
            except ray.exceptions.RayError:
                lost.append(node.name)
                self._lost(node)
        raise ToolError(f"The check was lost twice: nodes {' and '.join(lost)} died.")

    def scorer(self, artifact: Path, capacity: int = 50_000) -> Scorer:
        """As `Executor.scorer`: in a locked process of this machine, which the cluster knows nothing of."""
        with self._lock:
            if self._closed:
                raise ToolError("The pool is closed.")
            if self._here is None:
                # A model trained on a GPU may serve without one.
                here = {"device": "cpu" if self.device == "cpu" else "auto"}
                self._here = LocalPool(1, **(self._options | here))
        return self._here.scorer(artifact, capacity)

    def close(self) -> None:
        """End the trainings, scorers and our supervisors; a cluster that was there before stays."""
        import ray

        with self._wake:
            if self._closed:
                return
            self._closed = True
            for task in self._tasks.values():
                task.fail(ToolError("The pool was closed before the training ended."))
            self._queue.clear()
            nodes, self._nodes = self._nodes, []
            self._wake.notify_all()
        if self._here is not None:
            self._here.close()
        if not ray.is_initialized():  # somebody disconnected us, which ended our supervisors
            nodes = []
        with suppress(ray.exceptions.RayError):
            closing = [node.actor.close.options(concurrency_group="control") for node in nodes]
            ray.get([close.remote() for close in closing], timeout=15)
        for thread in self._threads:
            thread.join(timeout=10)
        for node in nodes:
            ray.kill(node.actor)
        self._cluster.close()

    # The queue

    def _serve(self) -> None:
        """One slot's thread: take the next job to the idlest node, until the pool closes."""
        import ray

        while (next_one := self._take()) is not None:
            task, node = next_one
            found: Any
            try:
                run = node.actor.run.options(concurrency_group="train")
                found = _answer(ray.get(run.remote(task.id, task.job, task.key)))
                # Ray's arrays are views of its shared memory, which fills up while they live.
                found = replace(found, predictions=np.array(found.predictions))
            except EvorankError as error:
                found = error
            except ray.exceptions.RayTaskError as error:
                found = ToolError(f"Executor: {error.cause!r} on node {node.name}")
            except ray.exceptions.RayError:
                found = None
                self._lost(node)
            except Exception as error:
                found = ToolError(f"Executor: {error!r}")
            with self._wake:
                node.running -= 1
                task.node = None
                if found is None:
                    found = self._again(task, node)
                self._wake.notify_all()
            if isinstance(found, EvorankError):
                task.fail(found)
            elif found is not None:
                task.done(found)

    def _take(self) -> tuple[_Task, _Node] | None:
        with self._wake:
            while not self._closed:
                free = [node for node in self._nodes if node.running < node.slots]
                if self._queue and free:
                    node = max(free, key=lambda node: node.slots - node.running)
                    task = self._queue.popleft()
                    task.node = node
                    node.running += 1
                    return task, node
                self._wake.wait()
            return None

    def _again(self, task: _Task, node: _Node) -> EvorankError | None:
        """A node died under a job: queue it once more, at the front; an error where it may not."""
        task.lost.append(node.name)
        if task.cancelled:
            return ToolError("The training was cancelled.")
        if len(task.lost) > 1:
            return ToolError(f"The training was lost twice: nodes {' and '.join(task.lost)} died under it.")
        if self._closed:
            return ToolError("The pool was closed before the training ended.")
        if not (self._nodes or self._opening):
            return EvorankError(self._gone())
        self._queue.appendleft(task)
        return None

    # The nodes

    def _open(self, node: _Node) -> None:
        """Start a node's pool. ConfigurationError naming the node where that cannot be."""
        import ray

        try:
            asked = node.actor.open.remote(node.slots, self._options, sys.path, facts())
            node.tier = _answer(ray.get(asked, timeout=OPEN_SECONDS))
        except ray.exceptions.RayError as error:
            told = str(error).strip().splitlines()
            why = (
                f"its {node.slots} CPUs are taken by others, or it is very slow"
                if isinstance(error, ray.exceptions.GetTimeoutError)
                else told[-1]
                if told
                else type(error).__name__
            )
            raise ConfigurationError(
                f"`executor` ray: node {node.name} did not start {node.slots} workers ({why}). Is evorank "
                "installed there? Try fewer --workers."
            ) from error

    def _idlest(self) -> _Node:
        with self._wake:
            while not self._nodes:
                self._require_open()
                self._wake.wait()
            self._require_open()
            return max(self._nodes, key=lambda node: node.slots - node.running)

    def _lost(self, node: _Node) -> None:
        """Take a node out. Perhaps only its supervisor died: try to start another one there."""
        with self._wake:
            if node not in self._nodes:
                return
            self._nodes.remove(node)
            self._opening += 1
        threading.Thread(target=self._reopen, args=[node], daemon=True).start()

    def _reopen(self, dead: _Node) -> None:
        import ray

        node = _Node(dead.id, dead.name, dead.slots)
        try:
            with suppress(Exception):
                ray.kill(dead.actor)
            node.actor = _actor(node)
            self._open(node)
        except Exception:
            node.slots = 0
        with self._wake:
            self._opening -= 1
            if node.slots and not self._closed:
                self._nodes.append(node)
            elif not (self._nodes or self._opening):
                for task in self._queue:
                    task.fail(EvorankError(self._gone()))
                self._queue.clear()
            self._wake.notify_all()

    def _require_open(self) -> None:
        if self._closed:
            raise ToolError("The pool is closed.")
        if not (self._nodes or self._opening):
            raise EvorankError(self._gone())

    def _gone(self) -> str:
        return f"No node is left in the Ray cluster at {self.address}. Mend it, then go on with --resume."


def _dealt(workers: int | None) -> list[_Node]:
    """The nodes that train, with their slots: one per CPU, or `workers` dealt out one by one."""
    import ray

    alive = [each for each in ray.nodes() if each["Alive"]]
    cpus = {each["NodeID"]: int(each["Resources"].get("CPU", 0)) for each in alive}
    slots = dict.fromkeys(cpus, 0)
    left = sum(cpus.values()) if workers is None else workers
    if left > sum(cpus.values()) or not left:
        raise ConfigurationError(
            f"`workers` (--workers) must be at most the {sum(cpus.values())} CPUs of the Ray cluster, got "
            f"{left}. Add nodes, or start them with more --num-cpus."
        )
    while left:
        for id in cpus:
            if left and slots[id] < cpus[id]:
                slots[id] += 1
                left -= 1
    return [
        _Node(each["NodeID"], f"{each['NodeManagerHostname']} ({each['NodeID'][:8]})", slots[each["NodeID"]])
        for each in alive
        if slots[each["NodeID"]]
    ]


def _actor(node: _Node) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(
        num_cpus=node.slots,
        max_restarts=0,
        max_concurrency=node.slots,  # checks; what ends a training never waits for a thread
        concurrency_groups={"train": node.slots, "control": 2},
        scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
    )
    return remote(Supervisor).remote(node.name)


def _answer(value: Any) -> Any:
    if isinstance(value, Refused):
        raise value.error()
    return value
