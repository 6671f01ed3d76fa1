"""trial: the process behind `self_test`: it locks itself, tries what must not work, prints what it found."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable

from evorank.tools.evaluator import landlock
from evorank.tools.evaluator.lock import LAYERS, Limits, _put_on
from evorank.tools.evaluator.tier import HOLDS

MEMORY = 32 << 20


def _allocate() -> None:
    bytearray(4 * MEMORY)


def _read() -> None:
    with open(sys.executable, "rb"):
        pass


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


ATTEMPTS: tuple[tuple[str, str, Callable[[], object]], ...] = (
    ("limits", "allocate more memory than allowed", _allocate),
    ("landlock", "read a file that is not readable", _read),
    ("seccomp", "open a socket", socket.socket),
    ("seccomp", "start a process", _fork),
)
"""Each is stopped by its layer alone, so that the others cannot hide that it is missing."""


def main() -> None:
    version = landlock.version()
    missing = _put_on(Limits(cpu_seconds=10, memory=MEMORY), (), False, LAYERS)
    layers = {layer: missing.get(layer, HOLDS) for layer in LAYERS}
    for layer, attempt, act in ATTEMPTS:
        if layer not in missing:
            try:
                act()
            except (OSError, MemoryError):
                continue
            layers[layer] = f"it was possible to {attempt}"
    if "landlock" not in missing:
        layers["landlock"] += f" (version {version})"
    print(json.dumps(layers))  # noqa: T201


if __name__ == "__main__":
    main()
