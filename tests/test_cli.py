"""The command line as a user types it: a home of its own, one clear error each, and what ends badly."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import command, one_error, process, told, trained_by, typed

from evorank.surfaces.simulated.create import create
from evorank.surfaces.surface import save_surface

ASKED = ("run", "--steps", "4", "--seeds", "2")


def records(home: Path) -> list[dict[str, Any]]:
    return told("journal", "list", "--limit", "1000", home=home)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without settings."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the surface "simulated", with few users, and nothing else."""
    home = tmp_path_factory.mktemp("world") / "home"
    spec = create(home, "simulated", "home", users=400, days=24).spec
    # Nothing here is about guardrails, and clocks of tiny trainings on a busy machine are luck.
    save_surface(home, spec.model_copy(update={"guardrails": []}))
    return home


@pytest.fixture
def fresh(world: Path, tmp_path: Path) -> Path:
    """That home, for one test."""
    shutil.copytree(world, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def finished(
    world: Path, pool, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """A home after one run of four steps, and what `--json` printed."""
    home = tmp_path_factory.mktemp("finished") / "home"
    shutil.copytree(world, home)
    with trained_by(pool):
        printed = typed(*ASKED, "--json", home=home).stdout
    events = [json.loads(line) for line in printed.splitlines()]
    return home, [event for event in events if event["event"] != "experiment"]


def test_a_run_needs_no_key_and_no_data_and_ends_with_a_summary(finished) -> None:
    home, events = finished
    assert [event["event"] for event in events] == ["attempt"] * 4 + ["summary"]
    summary = events[-1]
    assert summary["finished"] == 4
    assert summary["stopped"] is None
    assert sum(summary["outcomes"].values()) == 4
    for path in summary["files"].values():
        assert Path(path).exists()
        assert Path(path).is_relative_to(home)


def test_every_attempt_says_what_was_tried_and_what_came_of_it(finished) -> None:
    home, events = finished
    journal = records(home)
    assert {attempt["step"] for attempt in journal} == set(range(4))
    assert [attempt["id"] for attempt in journal] == [event["id"] for event in events[:-1]]
    for attempt in journal:
        assert attempt["hypothesis"]
        assert attempt["reason"]
        assert attempt["persona"] in {"optimizer", "architecture", "reward"}
        if attempt["comparison"]:
            both = attempt["comparison"]
            assert both["low"] <= both["difference"] <= both["high"]


def test_journal_show_and_diff_read_one_attempt(finished) -> None:
    home, _ = finished
    attempt = next(found for found in records(home) if found["comparison"])
    shown = typed("journal", "show", attempt["id"][:10], home=home).stdout
    assert attempt["hypothesis"][:60] in shown
    assert attempt["outcome"] in shown
    assert told("journal", "diff", "production", attempt["id"], home=home) == attempt["changes"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_journal_is_exported_one_row_an_attempt_and_never_over_a_file(
    finished, tmp_path: Path, ending: str
) -> None:
    import duckdb

    home, _ = finished
    out = tmp_path / f"journal.{ending}"
    typed("journal", "export", str(out), home=home)
    reader = {"jsonl": "read_json", "csv": "read_csv", "parquet": "read_parquet"}[ending]
    rows = duckdb.sql(f"SELECT step, outcome FROM {reader}('{out}') ORDER BY step").fetchall()
    assert [row[0] for row in rows] == list(range(4))
    before = out.read_bytes()
    assert "exists" in one_error("journal", "export", str(out), home=home)
    assert out.read_bytes() == before


def test_a_persona_that_nobody_knows_is_one_clear_error(world: Path) -> None:
    said = one_error("run", "--persona", "plumber", home=world)
    for word in ("personas", "plumber", "optimizer"):
        assert word in said


def test_a_finished_run_cannot_be_resumed_into_more_steps(finished) -> None:
    home, _ = finished
    assert "no unfinished run" in one_error("run", "--resume", "latest", home=home)


def test_what_a_run_wrote_can_be_copied_elsewhere(finished, tmp_path: Path) -> None:
    home, _ = finished
    shutil.copytree(home, tmp_path / "elsewhere")
    assert records(tmp_path / "elsewhere") == records(home)


def _wait_for(home: Path, attempts: int, process: subprocess.Popen[str]) -> None:
    """Until so many attempts are in the journal file, read as any SQLite reader would."""
    path, deadline = home / "journal.sqlite", time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be stopped"
        if path.exists():
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                try:
                    (count,) = connection.execute(
                        "SELECT count(*) FROM checkpoints "
                        "WHERE json_extract(CAST(metadata AS TEXT), '$.kind') = 'attempt'"
                    ).fetchone()
                except sqlite3.OperationalError:
                    count = 0
            if count >= attempts:
                return
        time.sleep(0.02)
    raise AssertionError(f"no {attempts} attempts in time")


def _start(*words: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", *words, "--display", "lines", home=home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home.parent,
        start_new_session=True,
    )


@pytest.mark.heavy
def test_ctrl_c_finishes_the_running_steps_kill_9_loses_no_finished_one_and_resume_repeats_none(
    fresh: Path, pool
) -> None:
    home, steps = fresh, 8
    running = _start("--steps", str(steps), "--seeds", "2", "--parallel", "2", home=home)
    _wait_for(home, 1, running)
    running.send_signal(signal.SIGINT)
    printed, _ = running.communicate(timeout=300)
    assert running.returncode == 130, printed
    assert re.search(r"^run \S+: 8 steps .*, code of candidates (locked|contained)$", printed, re.MULTILINE)
    stopped = json.loads(process("journal", "list", "--json", home=home).stdout)
    assert 1 <= len(stopped) < steps
    (resume,) = [line for line in printed.splitlines() if "run --resume" in line]
    run = resume.split("--resume ")[1].split()[0]
    with (home / "runs" / run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "by another process" in one_error("run", "--resume", run, home=home)

    running = _start("--resume", run, home=home)
    _wait_for(home, len(stopped) + 1, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    killed = records(home)
    assert len(stopped) < len(killed) < steps
    assert killed[: len(stopped)] == stopped

    with trained_by(pool):
        typed("run", "--resume", "latest", home=home)
    with closing(sqlite3.connect(home / "runs" / "checkpoints.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)
    after = records(home)
    assert sorted(attempt["step"] for attempt in after) == list(range(steps))
    assert after[: len(killed)] == killed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--surface", "nosuch"), ["surface", "nosuch", "simulated"]),
        (("run", "--model", "gemini"), ["model", "provider:model"]),
        (("run", "--model", "nosuch:model"), ["nosuch"]),
        (("run", "--resume", "nosuch"), ["--resume", "nosuch"]),
        (("run", "--resume", "latest"), ["no unfinished run"]),
        (("run", "--resume", "latest", "--seed", "3"), ["--seed", "leave out"]),
        (("run", "--steps", "0"), ["--steps"]),
        (("run", "--executor", "spark"), ["--executor", "spark", "local", "ray"]),
        (("run", "--address", "head:6379"), ["`address`", "head:6379", "--executor ray"]),
        (("journal", "list"), ["journal"]),
        (("surface", "describe", "nosuch"), ["surface", "nosuch"]),
        (("surface", "import", "movielens", "/nosuch/folder"), ["/nosuch/folder"]),
        (("doctor", "--system", "nosuch:Class"), ["nosuch"]),
        (("doctor", "--system", "evorank"), ["module:Class"]),
    ],
)
def test_wrong_input_is_one_clear_error_with_exit_code_2(tmp_path: Path, arguments, words) -> None:
    said = one_error(*arguments, home=tmp_path / "home")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", ["`address` (--address)", "127.0.0.1:1", "refused", "ray start"]),
        ("ray://head:10001", ["`address` (--address)", "HOST:PORT", "ray://head:10001"]),
    ],
)
def test_a_ray_cluster_that_cannot_be_reached_is_one_clear_error_before_anything_is_written(
    tmp_path: Path, address, words
) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'evorank[ray]'")
    said = one_error("run", "--executor", "ray", "--address", address, home=tmp_path / "home")
    for word in words:
        assert word in said
    assert not (tmp_path / "home").exists()


def test_without_the_package_ray_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = one_error("run", "--executor", "ray", home=tmp_path / "home")
    assert "pip install 'evorank[ray]'" in said
    monkeypatch.setenv("EVORANK_EXECUTOR", "ray")
    (row,) = [each for each in told("doctor", exits=1, home=tmp_path / "home") if each["name"] == "executor"]
    assert not row["passed"]
    assert "evorank[ray]" in row["message"]


@pytest.mark.heavy
def test_a_run_on_ray_finds_in_another_home_what_a_local_run_finds_and_may_go_on_here(
    finished, fresh: Path, pool
) -> None:
    """The same seed, so the same candidates; the same bits, so the same differences."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'evorank[ray]'")
    process(*ASKED, "--executor", "ray", "--workers", "2", home=fresh)
    here, there = (
        {
            each["step"]: (each["fingerprint"], (each["comparison"] or {}).get("difference"))
            for each in records(home)
        }
        for home in (finished[0], fresh)
    )
    assert here == there
    assert len([difference for _, difference in here.values() if difference is not None]) > 1
    (run,) = (fresh / "runs").glob("*/run.json")
    assert json.loads(run.read_text())["context"]["executor"] == "ray"
    resume = ("run", "--resume", run.parent.name, "--executor", "local")
    with trained_by(pool):
        typed(*resume, home=fresh)
    assert "leave out --seed" in one_error(*resume, "--seed", "1", home=fresh)


def test_a_wrong_setting_names_its_field_and_source(tmp_path: Path) -> None:
    (tmp_path / "evorank.toml").write_text("stepz = 3\n")
    said = one_error("run", home=tmp_path / "home")
    assert "stepz" in said
    assert "evorank.toml" in said
    (tmp_path / "evorank.toml").write_text("")
    said = one_error("run", home=tmp_path / "home", EVORANK_SEEDS="1")
    assert "seeds" in said
    assert "EVORANK_SEEDS" in said


def test_a_corrupt_journal_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "journal.sqlite").write_bytes(b"not a database at all" * 100)
    assert "journal.sqlite" in one_error("journal", "list", home=home, exits=1)
    assert (home / "journal.sqlite").read_bytes() == b"not a database at all" * 100


def test_doctor_says_what_would_run_and_writes_nothing(tmp_path: Path) -> None:
    rows = {result["name"]: result["message"] for result in told("doctor", home=tmp_path / "home")}
    assert set(rows) >= {"packages", "chat model", "surface"}
    assert "local" in rows["executor"]
    assert not (tmp_path / "home").exists()
