from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from planted import give_traffic

from evorank.graph import Context, close_sessions, propose_experiment
from evorank.prompts.answers import Operation

SCRIPT = Path(__file__).parents[2] / "examples" / "cron" / "tick.sh"
HELPERS = Path(__file__).parents[1] / "graph"


@pytest.mark.heavy
def test_cron_is_silent_until_somebody_must_look(home, tmp_path):
    give_traffic(home, {"past": 14}, wanted_lift=0.0001)  # too small an effect for anybody to see

    def tick(*words: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(HELPERS), os.environ.get("PYTHONPATH")]))
        ours = {"EVORANK_HOME": str(home), "EVORANK": f"{sys.executable} -m evorank.cli", "PYTHONPATH": path}
        ours |= {"EVORANK_WORKERS": "1", "EVORANK_SEEDS": "2", "COLUMNS": "200"}
        return subprocess.run([SCRIPT, *words], capture_output=True, text=True, env=os.environ | ours)

    done = tick("tiny")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    context = Context(home=str(home), surface="tiny", workers=1)
    patch = [Operation(op="replace", path="/optimizer/args/lr", value=0.05)]
    assert propose_experiment(context, patch, "a smaller step", write=True).queued
    close_sessions()
    done = tick("tiny", "tee", str(tmp_path / "mail"))
    assert done.returncode == 4, done.stdout
    mail = (tmp_path / "mail").read_text()
    assert "1 waiting for a person" in mail
    assert "Something waits for you: evorank online status --surface tiny" in mail

    done = tick("nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stdout
