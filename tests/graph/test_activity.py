"""What a run tells other processes of itself, and how one that hangs or died looks from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from evorank.graph.activity import Teller, read_activity
from evorank.graph.runs import carry_out, new_plan

NODE = {"event": "node", "step": 3, "persona": "optimizer", "node": "think", "text": "optimizer thinks"}


@pytest.fixture
def teller(tmp_path):
    return Teller(tmp_path, "r", "tiny", lambda _: None)


def test_a_step_is_there_from_its_first_node_to_its_record_with_the_time_it_began(teller, tmp_path):
    teller(NODE)
    begun = read_activity(tmp_path).steps[3].since
    teller({"event": "progress", "step": 3, "persona": "optimizer", "text": "seed 2 of 8"})
    found = read_activity(tmp_path)
    assert found.steps[3].since == begun
    assert found.steps[3].node == "think"
    assert found.steps[3].text == "seed 2 of 8"
    assert found.at >= found.steps[3].at > begun
    teller({"event": "attempt", "step": 3})
    assert read_activity(tmp_path).steps == {}
    assert read_activity(tmp_path).finished == 1


def test_a_live_test_is_there_until_it_ends(teller, tmp_path):
    event = {"event": "experiment", "id": "e1", "phase": "training", "text": "training", "result": None}
    teller(event)
    assert read_activity(tmp_path).tests["e1"].node == "training"
    teller(event | {"phase": "completed", "result": "launched"})
    assert read_activity(tmp_path).tests == {}


def test_events_reach_the_display_too(tmp_path):
    heard = []
    Teller(tmp_path, "r", "tiny", heard.append)(NODE)
    assert heard == [NODE]


def test_a_process_that_was_killed_is_gone_and_its_last_words_stay(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from evorank.graph.activity import Teller\n"
        f"Teller(Path({str(tmp_path)!r}), 'r', 'tiny', lambda _: None)({NODE!r}); print('told', flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ)
    process.stdout.readline()
    assert not read_activity(tmp_path).gone
    process.kill()
    process.wait()
    found = read_activity(tmp_path)
    assert found.gone
    assert not found.ended
    assert found.steps[3].text == "optimizer thinks"


def test_a_run_that_is_done_says_so(context, home):
    asked = context()
    plan = new_plan(asked, 1)
    carry_out(plan, asked)
    found = read_activity(home / "runs" / plan.run)
    assert (found.run, found.ended, found.finished, found.steps) == (plan.run, True, 1, {})


def test_a_file_of_another_version_and_a_folder_that_is_gone_stop_nothing(teller, tmp_path):
    (tmp_path / "now.json").write_text(json.dumps({"run": "r", "later": True}))
    assert read_activity(tmp_path) is None
    shutil.rmtree(tmp_path)
    teller(NODE)
    assert read_activity(tmp_path) is None
