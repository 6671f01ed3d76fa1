"""choose: the executor that a run asked for by name, and what is wrong with what it asked for.

Ray is imported only where it was asked for.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from evorank.model.errors import ConfigurationError
from evorank.tools.evaluator.executor import Executor
from evorank.tools.evaluator.gpu import DeviceName, choose_device
from evorank.tools.evaluator.local import LocalPool

__all__ = ["ExecutorName", "open_executor", "require_executor"]

ExecutorName: TypeAlias = Literal["local", "ray"]


def require_executor(
    name: str, address: str | None = None, *, device: DeviceName = "auto", allow_degraded: bool = False
) -> None:
    """ConfigurationError or LockError where `open_executor` would fail for what can be seen from here, in
    seconds."""
    if name not in get_args(ExecutorName):
        raise ConfigurationError(f"`executor` (--executor) must be local or ray, got {name!r}.")
    if name == "ray":
        from evorank.tools.evaluator.ray_cluster import require_ray

        require_ray(address)
    elif address is not None:
        raise ConfigurationError(
            f"`address` (--address) {address!r} belongs to the executor ray, got executor {name}. "
            "Add --executor ray, or leave the address out."
        )
    if name == "local":
        choose_device(device, allow_degraded=allow_degraded)


def open_executor(
    name: str,
    address: str | None = None,
    workers: int | None = None,
    *,
    device: DeviceName = "auto",
    allow_degraded: bool = False,
) -> Executor:
    """Start `workers` training processes here, or on the Ray cluster at `address` (None: Ray is started).

    `device` is where they compute; `allow_degraded` lets candidates run where a layer of the lock is missing.
    ConfigurationError as `require_executor`, and for a GPU that cannot be used; LockError where the lock is
    not whole.
    """
    require_executor(name, address, device=device, allow_degraded=allow_degraded)
    if name == "local":
        return LocalPool(workers, device=device, allow_degraded=allow_degraded)
    from evorank.tools.evaluator.ray_pool import RayPool

    return RayPool(address, workers, device=device, allow_degraded=allow_degraded)
