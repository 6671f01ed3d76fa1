"""The recording that ships: what its README says to type runs to its end, without a key or a network."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from evorank.graph.journal import Journal
from evorank.graph.knowledge import MEASURED
from evorank.graph.notes import Notes
from evorank.graph.recording import Line, read_head
from evorank.graph.store import Store

ROOT = Path(__file__).resolve().parents[2]
RECORDING = ROOT / "examples" / "recording" / "structural.jsonl"
README = (RECORDING.parent / "README.md").read_text()
NOWHERE = "http://127.0.0.1:9"


def lines() -> list[Line]:
    return [Line.model_validate_json(each) for each in RECORDING.read_text().splitlines()[1:]]


def sources() -> dict[str, str]:
    """Name of a component -> its code as it was accepted in the end."""
    found = {}
    for line in lines():
        for operation in (line.answer or {})["content"].get("patch", []) if line.role == "code" else []:
            if operation["path"].startswith("/components/"):
                found[operation["path"].removeprefix("/components/")] = operation["value"]["source"]
    return found


def test_it_says_that_it_was_written_by_hand_wherever_one_meets_it() -> None:
    assert read_head(RECORDING).note.startswith("Written by hand")
    assert all(line.messages is None for line in lines())
    assert {line.usage.calls for line in lines()} == {0}
    mentions = [(ROOT / name).read_text() for name in ("README.md", "docs/models.md")]
    for text in (README, *(each.split("examples/recording", 1)[1] for each in mentions)):
        assert re.search(r"written\W+by\s+hand", text)


def test_its_readme_shows_the_code_that_it_brings() -> None:
    assert set(sources()) == {"gelu_gate", "ftrl_proximal", "warm_hold_decay"}
    for source in sources().values():
        assert source in README


@pytest.mark.heavy
def test_the_command_of_its_readme_invents_code_and_a_reward_and_learns_from_refusals(tmp_path: Path) -> None:
    for name in ("cli.py", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)  # no .env lies there
    command = next(each for each in README.splitlines() if "--replay" in each).strip()
    words = shlex.split(command)
    assert words[:3] == ["python", "cli.py", "run"]
    known = {name: value for name, value in os.environ.items() if not re.search("KEY|TOKEN|EVORANK_", name)}
    known |= dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), NOWHERE)
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=tmp_path, env=known, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_head(RECORDING).note in done.stdout
    assert "Chat models" not in done.stdout, "nobody was asked, so nothing was spent"

    with closing(Store.open(tmp_path / words[words.index("--home") + 1], None)) as store:
        found = {each.step: each for each in Journal(store).attempts()}
        (note,) = Notes(store, "simulated").all()
    assert {step: each.persona for step, each in found.items()} == {
        0: "optimizer", 1: "architecture", 2: "reward", 3: "optimizer",
        4: "reward", 5: "architecture", 6: "optimizer", 7: "reward",
    }  # fmt: skip
    assert (len(note.works), len(note.dead_ends), note.dropped) == (1, 2, 0), "every claim cites an attempt"

    inventions = [each for each in found.values() if (each.phi or {}).get("components")]
    assert len(inventions) == 3
    assert all(name in json.dumps(each.phi) for each in inventions for name in each.phi["components"])
    assert any(each.outcome in MEASURED for each in inventions), [each.reason for each in inventions]
    reward = found[2]
    assert reward.outcome in MEASURED, reward.reason
    assert "active" in reward.phi["reward"]["factors"]
    assert [bool(each["finding"] and each["table"]) for each in reward.insights] == [True] * 3
    linted = {step: [each["verdict"] for each in attempt.reviews] for step, attempt in found.items()}
    assert [(found[step].repairs, linted[step]) for step in (0, 1, 4)] == [
        (1, ["revise", "accept"]),
        (2, ["revise", "accept"]),
        (2, ["revise", "revise"]),
    ]
    assert found[6].usage.repairs == 1, "a whole configuration is sent back"
    assert found[4].outcome == "refused"
    assert "Leave the survey out" in found[4].reason
