"""The journal's commands and `transfer` as a user types them, on homes that no run had to fill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import one_error, told, trained_by, typed

from evorank.graph.journal import Journal, thread_id
from evorank.graph.state import Attempt, Experiment
from evorank.model.delta import apply_delta, fingerprint
from evorank.surfaces.simulated.create import create
from evorank.surfaces.surface import open_surface

LR = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.02}]
PAST = {"hypothesis": "a smaller step settles lower", "changes": LR, "by": "ada", "outcome": "better"}
TEST = "0f0e0d0c-0000-5000-8000-000000000000"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without settings."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two surfaces, an attempt that won on the first, and an experiment that was launched there."""
    home = tmp_path_factory.mktemp("worlds") / "home"
    for name, preset in (("simulated", "home"), ("shorts", "shorts")):
        create(home, name, preset, users=150, days=16)
    production = open_surface(home, "simulated").production()
    phi = apply_delta(production, LR)
    comparison = {
        "metric": "log_loss",
        "lower_is_better": True,
        "difference": -0.01,
        "low": -0.02,
        "high": -0.005,
    }
    known = {"hypothesis": "a smaller step", "production": fingerprint(production), "changes": LR, "phi": phi}
    known |= {"surface": "simulated", "fingerprint": fingerprint(phi), "run": "r"}
    won = Attempt(
        id=thread_id("r", 0), step=0, data_version="d", persona="optimizer", category="exploit", patch=LR,
        outcome="better", comparison=comparison, **known,
    )  # fmt: skip
    metrics = [{"name": "active_days", "success": True, "higher_is_better": True}]
    look = {"metric": "dislike_rate", "broken": False}
    effect = {"metric": "active_days", "difference": 0.1, "low": 0.05, "high": 0.15}
    tested = Experiment(
        id=TEST,
        attempt=won.id,
        proposed_by="optimizer",
        proxy=comparison,
        phase="completed",
        result="launched",
        reason="active_days is superior.",
        version=2,
        times={"proposed": "2026-01-05T00:00:00+00:00", "completed": "2026-01-20T00:00:00+00:00"},
        validation={
            "comparison": comparison | {"verdict": "better"},
            "findings": [],
            "flags": ["Under-powered: x"],
        },
        approvals=[
            {"what": "validation", "by": "bob", "reason": "we have time", "at": "2026-01-05T00:00:00"}
        ],
        plan={"start": "2026-01-06T00:00:00", "horizon_days": 14, "metrics": metrics},
        readings=[{"until": "2026-01-07T00:00:00", "users": [4321, 4322], "failures": [], "looks": [look]}],
        effects=[effect | {"lift": 0.05, "lift_low": 0.03, "lift_high": 0.07}],
        decision={"outcome": "launch", "rule": "superior_and_safe", "reason": "active_days is superior."},
        **known,
    )
    journal = Journal.open(home)
    journal.extend([won, tested])
    journal.close()
    return home


@pytest.fixture
def fresh(worlds: Path, tmp_path: Path) -> Path:
    shutil.copytree(worlds, tmp_path / "home")
    return tmp_path / "home"


def lines(file: Path, *rows: Any) -> str:
    file.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_past_experiments_are_imported_once_and_shown_as_such(fresh: Path, tmp_path: Path) -> None:
    file = lines(tmp_path / "past.jsonl", PAST, PAST | {"outcome": "aborted", "by": "bob"})
    said = typed("journal", "import", file, home=fresh).stdout
    assert "2 experiments imported to surface simulated, 0 were known" in said
    again = told("journal", "import", file, home=fresh)
    assert again == {"surface": "simulated", "new": 0, "known": 2}
    shown = typed("journal", "list", "--run", "import", home=fresh).stdout
    assert shown.count("imported") == 2
    assert "(better)" in shown
    records = told("journal", "list", home=fresh)
    bobs = next(each for each in records if each["imported"] and each["imported"]["by"] == "bob")
    whole = typed("journal", "show", bobs["id"], home=fresh).stdout
    assert "bob reports" in whole
    assert "live test aborted" in whole


def test_a_file_with_a_bad_line_is_refused_whole(fresh: Path, tmp_path: Path) -> None:
    before = told("journal", "list", home=fresh)
    file = lines(tmp_path / "past.jsonl", PAST, "oops\n", PAST | {"outcome": "great"})
    said = one_error("journal", "import", file, home=fresh)
    assert "line 2: not JSON" in said
    assert "line 3: `outcome`" in said
    assert told("journal", "list", home=fresh) == before
    assert "cannot be read" in one_error("journal", "import", "nowhere.jsonl", home=fresh)


def test_experiments_are_listed_shown_and_exported(worlds: Path, tmp_path: Path) -> None:
    listed = typed("journal", "list", "--online", home=worlds).stdout
    assert TEST[:8] in listed
    assert "active_days +5.0% [+3.0%, +7.0%]" in listed
    assert told("journal", "list", "--online", "--outcome", "aborted", home=worlds) == []
    shown = typed("journal", "show", TEST[:8], home=worlds).stdout
    for words in (
        "2026-01-20", "/optimizer/args/lr", "on the newest data", "Under-powered", "4,321", "2026-01-07",
        "active_days +5.0% [+3.0%, +7.0%]", "decision: launch", "by bob", "production version 2",
    ):  # fmt: skip
        assert words in shown
    assert told("journal", "show", TEST, home=worlds)["readings"][0]["users"][0] == 4321
    assert "names no record" in one_error("journal", "show", "ffff", home=worlds)
    for ending in ("jsonl", "csv", "parquet"):
        out = tmp_path / f"tests.{ending}"
        assert "1 experiments" in typed("journal", "export", str(out), "--online", home=worlds).stdout
        assert out.stat().st_size > 0


def test_what_one_home_measured_another_home_imports(worlds: Path, tmp_path: Path) -> None:
    target = tmp_path / "there"
    shutil.copytree(worlds / "surfaces" / "simulated", target / "surfaces" / "simulated")
    for kind in ([], ["--online"]):
        out = str(tmp_path / f"all{len(kind)}.csv")
        typed("journal", "export", out, *kind, home=worlds)
        assert "1 experiments imported" in typed("journal", "import", out, home=target).stdout
        assert "0 experiments imported" in typed("journal", "import", out, home=target).stdout
    assert all(each["imported"] for each in told("journal", "list", home=target))
    assert told("journal", "list", "--online", home=target) == []


def test_transfer_shows_what_it_would_propose_and_proposes_it_once(fresh: Path, pool) -> None:
    transfer = ("transfer", "simulated", "shorts")
    with trained_by(pool):
        (row,) = told(*transfer, "--dry-run", home=fresh)
        assert (row["winner"], row["status"]) == (thread_id("r", 0), "to be proposed")
        assert [each["path"] for each in row["changes"]] == ["/optimizer/args/lr"]
        assert told(*transfer, home=fresh)[0]["status"] == "proposed"
        assert told(*transfer, home=fresh)[0]["status"] == "known"
        assert "two surfaces" in one_error("transfer", "shorts", "shorts", home=fresh)
        assert "no winner yet" in one_error("transfer", "shorts", "simulated", home=fresh)
