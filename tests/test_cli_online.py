"""Live tests by commands, as a user types them: what they print, how they exit, and one clear error each."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, typed
from commands import one_error as error_of

sys.path.insert(0, str(Path(__file__).parent / "graph"))

from planted import Planted, give_traffic
from tiny import make_surface

from evorank.surfaces.surface import open_surface, save_surface

SETTINGS = {
    "EVORANK_SURFACE": "tiny",
    "EVORANK_WORKERS": "1",
    "EVORANK_SEEDS": "2",
    "EVORANK_SELECTION": "fifo",
}
DELTA = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]
AGES = 8
"""Days that are more than a test of a week needs."""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home with two weeks of traffic behind it."""
    home = tmp_path_factory.mktemp("template") / "home"
    make_surface(home)
    traffic(home)
    Planted(open_surface(home, "tiny"), None)  # lives its past
    return home


pytestmark = pytest.mark.usefixtures("shared")


@pytest.fixture
def home(template, tmp_path, monkeypatch):
    shutil.copytree(template, tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    for name, value in (SETTINGS | {"EVORANK_HOME": str(tmp_path / "home")}).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "home"


def traffic(home: Path, **options: Any) -> None:
    """Who serves the surface, and what is wrong with it from now on."""
    give_traffic(home, {"effect": 1.3, "past": 14} | options)


def online(*arguments: str, exits: int = 0) -> Any:
    """What `online ...` printed on standard output, read as JSON if it was asked for."""
    done = typed("online", *arguments, exits=exits)
    return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr


def one_error(*arguments: str, exits: int) -> str:
    return error_of("online", *arguments, exits=exits)


def submit(home: Path, patch: Any = DELTA) -> str:
    file = home.parent / "delta.json"
    file.write_text(json.dumps(patch))
    identifier: str = online("submit", str(file), "--why", "a smaller step", "--by", "ada", "--json")["id"]
    return identifier


def states(home: Path) -> list[str]:
    """What the platform does for each test it ever had."""
    found = json.loads((home / "surfaces" / "tiny" / "traffic.json").read_text())["tests"]
    return [each["state"] for each in found.values()]


@pytest.mark.heavy
def test_a_delta_goes_from_the_queue_to_a_launch_that_a_person_approves_and_is_rolled_back(home, monkeypatch):
    monkeypatch.setenv("EVORANK_APPROVE", "true")
    first = submit(home)
    second = submit(home, [DELTA[0] | {"value": 0.06}])
    assert "number 1 of 2" in online("move", second, "1")
    assert [each["id"] for each in online("status", "--json")["queue"]] == [second, first]
    online("abort", second, "--reason", "I changed my mind")
    report = online("tick", "--json")
    assert report["finished"] == [second]
    assert (report["live"], report["queued"], report["errors"]) == (1, 0, [])
    assert "not for an approval" in one_error("approve", first, exits=2)

    shown = online("status", "--json")
    assert [(each["id"], each["phase"], each["waits_for"]) for each in shown["live"]] == [
        (first, "live", "day")
    ]
    assert shown["ended"] == {"withdrawn": 1}
    assert f"{first[:8]} live" in online("status")

    online("pause", first[:8])
    assert "paused already" in one_error("pause", first[:8], exits=2)
    assert online("tick", "--days", "8", "--json")["live"] == 1
    online("resume", first[:8])
    report = online("tick", "--json", exits=4)
    assert [each["id"] for each in report["approvals"]] == [first]
    online("tick", "--days", "0", exits=4)
    online("approve", first, "--why", "go", "--by", "bob")
    assert online("tick", "--json")["launched"] == [first]
    assert [each["experiment"] for each in online("status", "--json")["versions"]] == [None, first]
    assert "ended" in one_error("abort", first, "--reason", "too late", exits=2)

    assert "serving version 3" in online("rollback", "--why", "the shop complained")
    assert "serves the Φ of version 1 already" in one_error("rollback", "--why", "x", "--to", "1", exits=2)
    assert "`to` must be a version of 1..3, got 9" in one_error(
        "rollback", "--why", "x", "--to", "9", exits=2
    )
    assert states(home) == ["stopped"]


@pytest.mark.heavy
def test_the_daemon_of_a_simulation_ends_when_nothing_is_left_to_do(home):
    identifier = submit(home)
    events = [json.loads(line) for line in typed("online", "daemon", "--json").stdout.splitlines()]
    assert {event["phase"] for event in events if event["event"] == "experiment"} >= {
        "validated",
        "live",
        "completed",
    }
    assert online("status", "--json")["versions"][-1]["experiment"] == identifier


@pytest.mark.parametrize(
    ("content", "exits", "words"),
    [
        ("{nothing", 2, "is not a JSON file"),
        ("[]", 2, "changes nothing"),
        ('{"op": "replace"}', 1, "error:"),
        ("7", 1, "error:"),
        (json.dumps([DELTA[0] | {"value": -1}]), 1, "/optimizer/args/lr"),
        (json.dumps([DELTA[0] | {"path": "/nowhere"}]), 1, "/nowhere"),
    ],
)
def test_a_delta_that_cannot_be_tested_is_refused_and_nothing_is_queued(home, content, exits, words):
    (home.parent / "wrong.json").write_text(content)
    said = one_error("submit", str(home.parent / "wrong.json"), "--why", "x", exits=exits)
    assert words in said
    assert online("status", "--json")["queue"] == []


def test_a_delta_is_queued_once(home):
    identifier = submit(home)
    assert identifier[:8] in one_error("submit", str(home.parent / "delta.json"), "--why", "again", exits=2)
    assert len(online("status", "--json")["queue"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "no.json", "--why", "x"), "no.json"),
        (("abort", "ffffffff", "--reason", "x"), "names no experiment"),
        (("move", "ffffffff", "1"), "names no experiment"),
        (("rollback", "--why", "x"), "no earlier version"),
        (("tick", "--surface", "nosuch"), "nosuch"),
        (("status", "--store", "mysql://here"), "postgresql://"),
    ],
)
def test_what_is_not_there_is_one_error_with_exit_code_2(home, arguments, words):
    assert words in one_error(*arguments, exits=2)


@pytest.mark.parametrize("command", [("tick",), ("status",), ("daemon",), ("rollback", "--why", "x")])
def test_a_surface_without_traffic_says_so(home, command):
    spec = open_surface(home, "tiny").spec
    save_surface(home, spec.model_copy(update={"online": None}))
    assert "[online]" in one_error(*command, exits=2)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"answer": {"now": "noon"}}, "`now` must answer a datetime in UTC"),
        ({"answer": {"status": {"state": "on fire"}}}, "`status` must answer TestStatus"),
        ({"answer": {"status": 7}}, "`status` must answer TestStatus"),
        ({"answer": {"estimates": [{"metric": "visits"}]}}, "`estimates` must answer a list of Estimate"),
        ({"answer": {"estimates": "fine"}}, "`estimates` must answer a list of Estimate"),
        ({"fail": {"connect": 99}}, "`connect` timed out"),
        ({"fail": {"status": 99}}, "`status` timed out"),
        ({"fail": {"launch": 99}}, "`launch` timed out"),
        ({"crash": ["status"]}, "`status` raised ZeroDivisionError"),
        ({"turned_back": 3}, "the clock jumped back"),
    ],
)
def test_a_platform_in_trouble_is_one_error_and_the_test_goes_on_when_it_is_well_again(
    started, trouble, words
):
    home, identifier = started
    traffic(home, **trouble)
    exits = 2 if "turned_back" in trouble else 1
    assert words in one_error("tick", exits=exits)
    assert states(home) == ["running"]
    traffic(home)
    report = online("tick", "--days", str(AGES), "--json")
    assert report["errors"] == []
    assert report["launched"] == [identifier]
    assert states(home) == ["stopped"]


@pytest.mark.heavy
def test_a_clock_that_jumped_ahead_decides_nothing_and_is_set_right_by_a_person(started):
    home, identifier = started
    traffic(home, turned_back=-30)
    assert "Are the tables late, or is the clock ahead?" in one_error("tick", "--days", "0", exits=1)
    assert states(home) == ["running"]
    traffic(home)
    assert "online tick --clock-was-ahead" in one_error("tick", exits=2)
    assert states(home) == ["running"]
    report = online("tick", "--clock-was-ahead", "--days", str(AGES), "--json")
    assert (report["errors"], report["launched"]) == ([], [identifier])


@pytest.mark.heavy
def test_a_test_whose_days_a_wrong_clock_counted_gives_its_traffic_back(home):
    traffic(home, turned_back=-30)
    identifier = submit(home)
    online("tick", "--days", "0", exits=4)  # on a day without a past nobody knows what it could see
    online("approve", identifier)
    assert online("tick", "--days", "0", "--json")["live"] == 1
    traffic(home)
    said = one_error("tick", "--clock-was-ahead", "--days", "0", exits=1)
    assert f"{identifier[:8]} is aborted: its days were counted up to 2026-02-18 00:00" in said
    assert states(home) == ["stopped"]
    assert online("status", "--json")["ended"] == {"aborted": 1}


@pytest.fixture(scope="module")
def begun(template, shared, tmp_path_factory):
    """A home with a test that has been live for two days, and its id."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(template, folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (SETTINGS | {"EVORANK_HOME": str(folder / "home")}).items():
            patch.setenv(name, value)
        identifier = submit(folder / "home")
        assert online("tick", "--days", "2", "--json")["live"] == 1
    for name in ("cache", "artifacts"):  # who begins anew need not measure and train the same again
        shutil.copytree(folder / "home" / name, template / name)
    return folder / "home", identifier


@pytest.fixture
def started(begun, home):
    shutil.rmtree(home)
    shutil.copytree(begun[0], home)
    return home, begun[1]


@pytest.mark.heavy
def test_a_start_that_times_out_is_tried_again_and_its_days_count_from_when_it_began(home):
    traffic(home, fail={"start": 1})
    identifier = submit(home)
    assert "could not start the test" in one_error("tick", "--days", "0", exits=1)
    traffic(home)
    online("tick", "--days", "0")
    (live,) = online("status", "--json")["live"]
    assert (live["id"], live["started"]) == (identifier, True)
    assert states(home) == ["running"]


@pytest.mark.heavy
def test_lost_exposures_end_the_test_and_its_traffic_goes_back(home):
    traffic(home, lose=0.3)
    identifier = submit(home)
    report = online("tick", "--days", "3", "--json")
    assert [(each["id"], each["result"]) for each in report["moved"]][-1] == (identifier, "aborted")
    assert states(home) == ["stopped"]
    assert len(online("status", "--json")["versions"]) == 1


@pytest.mark.heavy
@pytest.mark.parametrize("arm", ["control", "candidate"])
def test_a_model_that_is_not_what_was_exported_is_taken_off_the_traffic_before_its_next_day(started, arm):
    home, identifier = started
    (live,) = json.loads((home / "surfaces" / "tiny" / "traffic.json").read_text())["tests"].values()
    folder = home / "artifacts" / Path(live["test"][arm]).name
    with (folder / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    said = one_error("tick", "--days", "0", exits=1)
    assert "weights.safetensors is not the file that was exported" in said
    assert states(home) == ["stopped"]
    assert online("status", "--json")["ended"] == {"aborted": 1}
    assert identifier[:8] in said


@pytest.mark.heavy
def test_a_model_that_is_not_on_this_machine_is_an_error_and_no_reason_to_end_the_test(started):
    home, _ = started
    (home / "artifacts").rename(home / "elsewhere")
    assert "is not on this machine" in one_error("tick", "--days", "0", exits=1)
    assert states(home) == ["running"]
    (home / "elsewhere").rename(home / "artifacts")
    assert online("tick", "--days", "0", "--json")["errors"] == []


@pytest.mark.heavy
def test_a_full_disk_is_one_error_and_nothing_is_lost(started):
    """No file may grow beyond 4 kB: what a tick writes fails where it would on a full disk."""
    home, identifier = started
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "online", "tick"],
        capture_output=True,
        text=True,
        timeout=300,
        # Python would leave halves of compiled modules behind, for everybody after it to stumble over.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1, done.stderr
    assert states(home) == ["running"]
    report = online("tick", "--days", str(AGES), "--json")
    assert report["launched"] == [identifier]
