from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evorank.graph import Journal

EXAMPLE = Path(__file__).parents[2] / "examples" / "mcp_client" / "ask.py"


@pytest.mark.heavy
def test_a_client_asks_the_server_that_it_starts_and_gets_data(tmp_path):
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    Journal.open(tmp_path / "home").close()
    words = ["gating", "--home", str(tmp_path / "home"), "--surface", "tiny"]
    done = subprocess.run([sys.executable, EXAMPLE, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tools, _, answer = done.stdout.partition("{")
    assert tools.splitlines() == [
        "what_did_we_learn: only reads",
        "live_test_status: only reads",
        "propose_experiment: only reads",
    ]
    told = {"about": "gating", "found": 0, "outcomes": {}, "live": {}, "lessons": []}
    assert json.loads("{" + answer) == told
