"""What the zygote does before it forks, and what a child leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from evorank.tools.evaluator import child as child_module
from evorank.tools.evaluator.lock import Limits
from evorank.tools.evaluator.supervisor import Child

GATHER = """
import json, mmap, sys
from evorank.tools.evaluator import kernel, zygote

def huge():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))

held = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(mmap.MADV_NOHUGEPAGE)
held[:: mmap.PAGESIZE] = bytes(len(held) // mmap.PAGESIZE)
held.madvise(mmap.MADV_HUGEPAGE)
before = huge()
try:
    kernel.madvise(0, 0, kernel.COLLAPSE)
except OSError as error:
    print(json.dumps({"missing": str(error)}))
    sys.exit()
zygote._gather()
print(json.dumps({"before": before, "after": huge()}))
"""


def test_memory_is_gathered_into_huge_pages_before_the_first_fork():
    done = subprocess.run([sys.executable, "-c", GATHER], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if "missing" in found:
        pytest.skip(f"this kernel cannot gather pages: {found['missing']}")
    assert found["after"] >= found["before"] + (28 << 20)


def test_the_last_word_of_a_child_is_what_counts_however_long_the_one_before(monkeypatch):
    told = Child(None, 0, Limits(cpu_seconds=1, memory=1))
    told.ended.set_result({"code": 0, "cpu": 0.0, "clock": 0.0, "peak": 0})
    with told:
        monkeypatch.setattr(child_module, "STATUS", told.files[1])
        for message in ({"error": "x" * 5000}, {"error": "y"}, {"findings": ["z" * 30_000] * 4}, {}):
            child_module._tell(message)
            assert told.told() == (message if "findings" not in message else {"findings": ["z" * 30_000] * 2})
