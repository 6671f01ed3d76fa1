"""The command line as a user types it: real processes, a home of their own, one clear error each."""

from __future__ import annotations

import fcntl
import json
import os
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

from evorank.surfaces.simulated.create import create

ROOT = Path(__file__).resolve().parents[1]


def cli(
    *arguments: str, home: Path, check: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments, home=home),
        capture_output=True,
        text=True,
        cwd=home.parent,
        env=os.environ | {"COLUMNS": "200"} | environment,
        timeout=300,
    )
    if check is not None:
        assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def command(*arguments: str, home: Path) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), *arguments, "--home", str(home)]


def records(home: Path) -> list[dict[str, Any]]:
    return json.loads(cli("journal", "list", "--limit", "1000", "--json", home=home).stdout)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the surface "simulated", with few users, and nothing else."""
    home = tmp_path_factory.mktemp("world") / "home"
    create(home, "simulated", "home", users=400, days=24)
    return home


@pytest.fixture
def fresh(world: Path, tmp_path: Path) -> Path:
    """That home, for one test."""
    shutil.copytree(world, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A home after one run of six steps, and what `--json` printed."""
    home = tmp_path_factory.mktemp("finished") / "home"
    shutil.copytree(world, home)
    printed = cli("run", "--steps", "6", "--seeds", "2", "--json", home=home).stdout
    events = [json.loads(line) for line in printed.splitlines()]
    return home, [event for event in events if event["event"] != "experiment"]


def test_a_run_needs_no_key_and_no_data_and_ends_with_a_summary(finished) -> None:
    home, events = finished
    assert [event["event"] for event in events] == ["attempt"] * 6 + ["summary"]
    summary = events[-1]
    assert summary["finished"] == 6
    assert summary["stopped"] is None
    assert sum(summary["outcomes"].values()) == 6
    for path in summary["files"].values():
        assert Path(path).exists()
        assert Path(path).is_relative_to(home)


def test_every_attempt_says_what_was_tried_and_what_came_of_it(finished) -> None:
    home, events = finished
    journal = records(home)
    assert {attempt["step"] for attempt in journal} == set(range(6))
    assert [attempt["id"] for attempt in journal] == [event["id"] for event in events[:-1]]
    for attempt in journal:
        assert attempt["hypothesis"]
        assert attempt["reason"]
        assert attempt["persona"] in {"optimizer", "architecture", "reward"}
        if attempt["comparison"]:
            both = attempt["comparison"]
            assert both["low"] <= both["difference"] <= both["high"]


def test_the_same_seed_proposes_the_same_candidates(finished, fresh: Path) -> None:
    _, events = finished
    printed = cli("run", "--steps", "6", "--seeds", "2", "--json", home=fresh).stdout
    again = [json.loads(line) for line in printed.splitlines()]
    proposals = lambda found: {e["step"]: e["fingerprint"] for e in found if e["event"] == "attempt"}  # noqa: E731
    assert proposals(again) == proposals(events)


def test_journal_show_and_diff_read_one_attempt(finished) -> None:
    home, _ = finished
    attempt = next(found for found in records(home) if found["comparison"])
    shown = cli("journal", "show", attempt["id"][:10], home=home).stdout
    assert attempt["hypothesis"][:60] in shown
    assert attempt["outcome"] in shown
    patch = json.loads(cli("journal", "diff", "production", attempt["id"], "--json", home=home).stdout)
    assert patch == attempt["changes"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_journal_is_exported_one_row_an_attempt_and_never_over_a_file(
    finished, tmp_path: Path, ending: str
) -> None:
    import duckdb

    home, _ = finished
    out = tmp_path / f"journal.{ending}"
    cli("journal", "export", str(out), home=home)
    reader = {"jsonl": "read_json", "csv": "read_csv", "parquet": "read_parquet"}[ending]
    rows = duckdb.sql(f"SELECT step, outcome FROM {reader}('{out}') ORDER BY step").fetchall()
    assert [row[0] for row in rows] == list(range(6))
    before = out.read_bytes()
    refused = cli("journal", "export", str(out), home=home, check=2)
    assert "exists" in refused.stderr
    assert out.read_bytes() == before


def test_a_finished_run_cannot_be_resumed_into_more_steps(finished) -> None:
    home, _ = finished
    assert "no unfinished run" in cli("run", "--resume", "latest", home=home, check=2).stderr


def test_what_a_run_wrote_can_be_copied_elsewhere(finished, tmp_path: Path) -> None:
    home, _ = finished
    shutil.copytree(home, tmp_path / "elsewhere")
    assert records(tmp_path / "elsewhere") == records(home)


def _wait_for(home: Path, attempts: int, process: subprocess.Popen[str]) -> None:
    """Until so many attempts are in the journal file, read as any SQLite reader would."""
    path, deadline = home / "journal.sqlite", time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be stopped"
        if path.exists():
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                try:
                    (count,) = connection.execute(
                        "SELECT count(*) FROM checkpoints "
                        "WHERE json_extract(CAST(metadata AS TEXT), '$.kind') = 'attempt'"
                    ).fetchone()
                except sqlite3.OperationalError:
                    count = 0
            connection.close()
            if count >= attempts:
                return
        time.sleep(0.05)
    raise AssertionError(f"no {attempts} attempts in time")


def _start(home: Path, steps: int) -> subprocess.Popen[str]:
    arguments = ("run", "--steps", str(steps), "--seeds", "2", "--parallel", "2", "--display", "lines")
    return subprocess.Popen(
        command(*arguments, home=home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home.parent,
        start_new_session=True,
    )


@pytest.mark.heavy
def test_ctrl_c_finishes_the_running_steps_and_prints_the_command_that_resumes(fresh: Path) -> None:
    home = fresh
    process = _start(home, 12)
    _wait_for(home, 2, process)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    stopped = records(home)
    assert 2 <= len(stopped) < 12
    (resume,) = [line for line in printed.splitlines() if "run --resume" in line]
    run = resume.split("--resume ")[1].split()[0]
    with (home / "runs" / run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "by another process" in cli("run", "--resume", run, home=home, check=2).stderr
    cli("run", "--resume", run, home=home)
    with closing(sqlite3.connect(home / "runs" / "checkpoints.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)
    after = records(home)
    assert sorted(attempt["step"] for attempt in after) == list(range(12))
    assert after[: len(stopped)] == stopped


@pytest.mark.heavy
def test_kill_9_loses_no_finished_step_and_resume_repeats_none(fresh: Path) -> None:
    home = fresh
    process = _start(home, 10)
    _wait_for(home, 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = records(home)
    assert len(before) >= 3
    cli("run", "--resume", "latest", home=home)
    after = records(home)
    assert sorted(attempt["step"] for attempt in after) == list(range(10))
    assert after[: len(before)] == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--surface", "nosuch"), ["surface", "nosuch", "simulated"]),
        (("run", "--model", "gemini"), ["model", "provider:model"]),
        (("run", "--model", "nosuch:model"), ["nosuch"]),
        (("run", "--persona", "plumber"), ["personas", "plumber", "optimizer"]),
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
    done = cli(*arguments, home=tmp_path / "home", check=2)
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


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
    done = cli("run", "--executor", "ray", "--address", address, home=tmp_path / "home", check=2)
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


def test_without_the_package_ray_the_error_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = None\n")
    path = {"PYTHONPATH": str(tmp_path)}
    done = cli("run", "--executor", "ray", home=tmp_path / "home", check=2, **path)
    assert "pip install 'evorank[ray]'" in done.stderr
    done = cli("doctor", "--json", home=tmp_path / "home", check=1, EVORANK_EXECUTOR="ray", **path)
    (row,) = [each for each in json.loads(done.stdout) if each["name"] == "executor"]
    assert not row["passed"]
    assert "evorank[ray]" in row["message"]


@pytest.mark.heavy
def test_a_run_on_ray_finds_what_a_local_run_finds_and_may_go_on_here(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'evorank[ray]'")
    asked = ("run", "--steps", "2", "--seeds", "2", "--persona", "architecture", "--display", "none")
    shutil.copytree(world, tmp_path / "here")
    shutil.copytree(world, tmp_path / "there")
    cli(*asked, home=tmp_path / "here")
    cli(*asked, "--executor", "ray", "--workers", "2", home=tmp_path / "there")
    found = [
        {
            each["step"]: (each["fingerprint"], each["outcome"], (each["comparison"] or {}).get("difference"))
            for each in records(tmp_path / place)
        }
        for place in ("here", "there")
    ]
    assert found[0] == found[1]
    assert any(difference is not None for _, _, difference in found[0].values())
    (run,) = (tmp_path / "there" / "runs").glob("*/run.json")
    assert json.loads(run.read_text())["context"]["executor"] == "ray"
    resume = ("run", "--resume", run.parent.name, "--display", "none")
    cli(*resume, "--executor", "local", home=tmp_path / "there")
    assert "leave out --seed" in cli(*resume, "--seed", "1", home=tmp_path / "there", check=2).stderr


def test_a_wrong_setting_names_its_field_and_source(tmp_path: Path) -> None:
    (tmp_path / "evorank.toml").write_text("stepz = 3\n")
    done = cli("run", home=tmp_path / "home", check=2)
    assert "stepz" in done.stderr
    assert "evorank.toml" in done.stderr
    (tmp_path / "evorank.toml").write_text("")
    done = cli("run", home=tmp_path / "home", check=2, EVORANK_SEEDS="1")
    assert "seeds" in done.stderr
    assert "EVORANK_SEEDS" in done.stderr


def test_a_corrupt_journal_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "journal.sqlite").write_bytes(b"not a database at all" * 100)
    done = cli("journal", "list", home=home, check=1)
    assert "journal.sqlite" in done.stderr
    assert "Traceback" not in done.stderr
    assert (home / "journal.sqlite").read_bytes() == b"not a database at all" * 100


def test_doctor_says_what_would_run_and_writes_nothing(tmp_path: Path) -> None:
    done = cli("doctor", "--json", home=tmp_path / "home")
    rows = {result["name"]: result["message"] for result in json.loads(done.stdout)}
    assert set(rows) >= {"packages", "chat model", "surface"}
    assert "local" in rows["executor"]
    assert not (tmp_path / "home").exists()
