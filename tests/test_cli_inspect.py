"""`run --inspect` and `inspect ...`, as a person at a terminal goes from one to the other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evorank.cli import app
from evorank.graph.journal import Journal

sys.path.insert(0, str(Path(__file__).parent / "graph"))
from tiny import make_surface

RUN = ("--persona", "optimizer", "--parallel", "2", "--seeds", "2", "--workers", "1", "--display", "none")


@pytest.fixture
def cli(tmp_path):
    """cli(exit code, word ...) -> what was printed."""

    def call(code: int, *words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--home", str(tmp_path / "home")], env={"COLUMNS": "200"})
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    return call


@pytest.mark.heavy
def test_a_person_at_a_terminal_edits_one_candidate_and_rejects_another(cli, tmp_path):
    make_surface(tmp_path / "home")
    printed = cli(4, "run", "--steps", "2", "--surface", "tiny", "--inspect", *RUN)
    assert "inspection: 2 candidates wait for a person. Go on with: python cli.py run --resume" in printed
    first, second = json.loads(cli(0, "inspect", "list", "--surface", "tiny", "--json"))
    shown = cli(0, "inspect", "list")
    for each in (first, second):
        assert each["attempt"][:8] in shown
        assert each["hypothesis"][:40] in shown
    assert "nothing waits" in cli(0, "inspect", "list", "--surface", "elsewhere")

    delta = tmp_path / "delta.json"
    delta.write_text(json.dumps([{"op": "replace", "path": "/optimizer/args/lr", "value": 0.037}]))
    told = cli(0, "inspect", "edit", first["attempt"][:10], str(delta), "--why", "in between", "--by", "ada")
    assert f"python cli.py run --resume {first['run']}" in told
    cli(0, "inspect", "reject", second["attempt"], "--why", "not now", "--by", "bob")
    assert "names no candidate that waits" in cli(2, "inspect", "approve", second["attempt"])

    cli(0, "run", "--resume", "latest", "--display", "none")
    journal = Journal.open(tmp_path / "home")
    attempts = {attempt.id: attempt for attempt in journal.attempts()}
    journal.close()
    assert attempts[first["attempt"]].phi["optimizer"]["args"]["lr"] == 0.037
    assert attempts[second["attempt"]].reason == "Rejected by bob: not now"
    shown = cli(0, "journal", "show", first["attempt"])
    assert "edit by ada on" in shown
    assert "in between" in shown


def test_an_edit_that_is_no_json_patch_is_told_before_anything_is_written(cli, tmp_path):
    (tmp_path / "home").mkdir()
    Journal.open(tmp_path / "home").close()
    delta = tmp_path / "delta.json"
    for text, told in (("{", "is not a JSON file"), ('[{"op": "grow"}]', "patch.0.op"), ("[]", "patch")):
        delta.write_text(text)
        assert told in cli(2, "inspect", "edit", "abc", str(delta))
