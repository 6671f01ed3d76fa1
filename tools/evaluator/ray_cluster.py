"""The Ray cluster behind `RayPool`: connect to one that runs, or start one on this machine that ends with us.

Ray believes everybody who reaches its ports, and code sent to them runs with our rights. What is started here
asks for a token that only this process knows; a cluster of your own is yours to guard (Ray: "token
authentication"). Ray kills or hangs a process that cannot connect, so that a process of its own tries first.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from evorank.model.errors import ConfigurationError

__all__ = ["Cluster", "connect", "require_ray"]

PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""All that a started cluster sees of the environment: Ray hands its own on to whatever it runs."""
OBJECTS = 1 << 28
"""Bytes of Ray's object store: only predictions pass through it."""
REACH_SECONDS, TRY_SECONDS, START_SECONDS = 3.0, 20.0, 120.0
QUIET = {"log_to_driver": False, "logging_level": "ERROR"}

_TRY = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
_token: str | None = None
"""Of every cluster this process starts: Ray reads it once and keeps it."""


class Cluster:
    """A connection to Ray. `close` ends it, and the cluster only where `connect` started it."""

    def __init__(self, address: str, launcher: subprocess.Popen[str] | None, folder: str | None) -> None:
        self.address = address
        self._launcher, self._folder = launcher, folder
        self.started = launcher is not None

    def close(self) -> None:
        import ray

        ray.shutdown()
        if self._launcher is not None:
            _end(self._launcher)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def require_ray(address: str | None) -> None:
    """ConfigurationError where the package is missing or nothing listens at `address`. Takes seconds."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise ConfigurationError(
            "`executor` (--executor) is ray, which is not installed. Try: pip install 'evorank[ray]'"
        )
    if address is None or address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "//" in address or not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigurationError(
            f"`address` (--address) must be HOST:PORT of a Ray cluster's head, or auto, got {address!r}. "
            "`ray start --head` prints it; 6379 is the usual port."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from None


def connect(address: str | None, cpus: int | None = None) -> Cluster:
    """Connect to the cluster at `address` ("auto": the one this machine belongs to); None starts one.

    `cpus` is the size of a cluster that is started; None: the cores. A process that is connected already
    stays so. Raises ConfigurationError where Ray is missing or the cluster cannot be joined from here.
    """
    require_ray(address)
    if address is not None:
        tried = _try(address)
        if tried:
            raise _unreachable(address, tried)
        ray = _ray()
        try:
            ray.init(address=address, **QUIET)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _unreachable(address, str(error)) from error
        return Cluster(ray.get_runtime_context().gcs_address, None, None)
    return _start(cpus)


def _ray() -> Any:
    import ray

    if ray.is_initialized():
        raise ConfigurationError(
            "`executor` ray: this process is connected to a Ray cluster already. Disconnect first "
            "(ray.shutdown()), or hand over an executor of your own."
        )
    return ray


def _start(cpus: int | None) -> Cluster:
    global _token
    if _token is None and "ray" in sys.modules:
        raise ConfigurationError(
            "`address` (--address) must name a cluster here: this process has imported ray already, so a "
            "cluster started now could not ask for a token. Run `ray start --head` and use address auto."
        )
    _token = _token or secrets.token_hex(32)
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token}
    folder = tempfile.mkdtemp(prefix="evorank-ray-")
    environment = {name: os.environ[name] for name in PASSED if name in os.environ} | access
    environment |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's watch over memory would kill the supervisor, its only worker, for what a candidate takes.
        "RAY_memory_monitor_refresh_ms": "0",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    with tempfile.TemporaryFile() as log:
        launcher = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, folder, *([str(cpus)] if cpus else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the cluster
        )
        assert launcher.stdout is not None
        address = launcher.stdout.readline().strip()
        if not address:
            _end(launcher)
            shutil.rmtree(folder, ignore_errors=True)
            log.seek(0)
            told = log.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise ConfigurationError(f"`executor` ray: Ray did not start on this machine: {told[-1]}")
    cluster = Cluster(address, launcher, folder)
    try:
        with _environment(access):
            _ray().init(address=address, **QUIET)
    except BaseException:
        cluster.close()
        raise
    return cluster


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _try(address: str) -> str:
    """Why a process on this machine cannot connect; "" where it can."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _TRY, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TRY_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {TRY_SECONDS:g} seconds; is it the port of the head (GCS)?"
    if tried.returncode == 0:
        return ""
    told = [line.strip() for line in tried.stderr.splitlines() if line.strip()]
    errors = [line for line in told if "Error" in line.split(":")[0]]
    return (errors or told or [f"exit code {tried.returncode}"])[-1]


def _unreachable(address: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"`address` (--address) {address!r}: no Ray cluster could be joined from this machine ({why}). This "
        "machine must be a node of it: `ray start --address=HOST:PORT`, or `ray start --head` for a new one."
    )


def _end(launcher: subprocess.Popen[str]) -> None:
    """Close the launcher's input, which ends its cluster; Ray's processes die with it in any case."""
    with suppress(OSError):
        assert launcher.stdin is not None
        launcher.stdin.close()
    try:
        launcher.wait(timeout=15)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()
    if launcher.stdout is not None:
        launcher.stdout.close()


def _launch(folder: str, cpus: str | None) -> None:
    """A process of its own: start Ray, print its address, end it when standard input closes."""
    import ray

    ray.init(
        address="local",
        num_cpus=int(cpus) if cpus else None,
        include_dashboard=False,
        object_store_memory=OBJECTS,
        _temp_dir=folder,
        **QUIET,
    )
    sys.stdout.write(f"{ray.get_runtime_context().gcs_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    _launch(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
