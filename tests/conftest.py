"""What all tests of one process share: a thread for each library, and a pool of locked processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Several processes test at once, so libraries that take every core for themselves stand in each other's way.
# Said before numpy is imported, and inherited by every process that a test starts.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import pytest  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))  # `commands` helps tests and is no test module

from evorank.tools.evaluator.local import LocalPool  # noqa: E402


@pytest.fixture(scope="session")
def pool():
    """Real worker processes, shared by all test files because they take seconds to start."""
    with LocalPool(workers=2, limit=60.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def shared(pool):
    """Whatever this process opens trainers for in a test file gets that pool, and cannot close it."""
    from commands import trained_by

    with trained_by(pool):
        yield
