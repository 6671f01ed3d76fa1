"""tier: how well candidates can be locked up on this machine. Measured by a process that locks itself and
tries.

`locked`: all layers of `lock.py` hold. `contained`: the same, and bubblewrap is installed and works:
processes also live in a box of their own, where other paths and processes do not even exist. `degraded`: a
layer is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from evorank.tools.evaluator.readable import readable_code

__all__ = ["HOLDS", "TIERS", "Tier", "TierReport", "self_test", "wrapped"]

Tier = Literal["degraded", "locked", "contained"]
TIERS: tuple[Tier, ...] = get_args(Tier)
"""From the weakest to the strongest."""
HOLDS = "holds"
SECONDS = 60
"""Far beyond what the self-test takes, for machines that are very busy."""
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage"
"""Where the C library reads whether it may ask for them."""
LINKED_FOLDERS = ("/lib", "/lib64")
"""Links on most systems, by which programs name the loader of shared libraries."""


@dataclass(frozen=True)
class TierReport:
    """The tier in force here; for each layer `holds`, perhaps with a detail, or why it does not hold."""

    tier: Tier
    layers: Mapping[str, str]

    @property
    def missing(self) -> dict[str, str]:
        """The layers that do not hold, with the reason."""
        return {layer: said for layer, said in self.layers.items() if not said.startswith(HOLDS)}


@cache
def self_test() -> TierReport:
    """Start a small process that locks itself and tries what must not work. About 0.2 s, once per process."""
    command = [sys.executable, "-P", "-m", "evorank.tools.evaluator.trial"]
    layers = _outcome(command)
    tier: Tier = "degraded" if TierReport("locked", layers).missing else "locked"
    if shutil.which("bwrap"):
        boxed = TierReport("contained", _outcome(wrapped(command, readable_code(), ())))
        layers["bubblewrap"] = next(iter(boxed.missing.values()), HOLDS)
        if tier == "locked" and not boxed.missing:
            tier = "contained"
    return TierReport(tier, layers)


def _outcome(command: Sequence[str]) -> dict[str, str]:
    """What `trial.py` reports, or why it could not."""
    environment = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"self-test": f"did not end within {SECONDS} seconds"}
    except (OSError, ValueError):
        said = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        return {"self-test": said[0][:300]}


def wrapped(command: Sequence[str], readable: Sequence[Path], descriptors: Sequence[int]) -> list[str]:
    """`command` inside bubblewrap: it sees `readable` and this interpreter, has no network, and is alone.

    `descriptors` stay open in it (bubblewrap passes on what it inherits: give them to Popen's `pass_fds`).
    The box dies with the *thread* that starts it, so start it from one that lives as long as it is needed.
    """
    box = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
    ]
    box += ["--proc", "/proc", "--dev", "/dev", "--ro-bind-try", HUGE_PAGES, HUGE_PAGES]
    for link in map(Path, LINKED_FOLDERS):
        if link.is_symlink():
            box += ["--symlink", os.readlink(link), str(link)]
    executable = Path(sys.executable)
    own = [executable, executable.resolve(), Path(sys.prefix) / "pyvenv.cfg"]
    for path in dict.fromkeys([*readable, *(path for path in own if path.exists())]):
        box += ["--ro-bind", str(path), str(path)]
    return [*box, "--", *command]
