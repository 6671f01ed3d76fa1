"""The suite passes the platforms that come with evorank, and names the promise that a broken one breaks."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evorank.cli import app
from evorank.surfaces.growthbook import GrowthBookPlatform
from evorank.surfaces.platform_conformance import PROMISES, platform_conformance
from evorank.surfaces.simulated.create import create
from evorank.surfaces.simulated.platform import SimulatedPlatform
from evorank.surfaces.surface import Surface, save_surface
from evorank.surfaces.warehouse import WarehousePlatform

sys.path.append(str(Path(__file__).parent))
from broken_platforms import BROKEN, Planted
from fake_growthbook import KEY, FakeGrowthBook
from served import live_test, no_load, served

NAMES = [promise.__name__.replace("_", " ") for promise in PROMISES]
OPTIONS = {
    "tables": {"exposures": {"path": "exposures.csv"}, "days": {"path": "days.csv"}},
}


@pytest.fixture
def shop(tmp_path: Path) -> Surface:
    folder = tmp_path / "surfaces" / "shop"
    folder.mkdir(parents=True)
    (folder / "exposures.csv").write_text("user_id,timestamp,experiment_id,variation_id\n7,2026-03-02,e,0\n")
    (folder / "days.csv").write_text("user_id,timestamp,active,hates,shown\n7,2026-03-02,1,0,20\n")
    return served(folder, options=OPTIONS, slots=2)


def checked(cls: type, surface: Surface) -> dict[str, str]:
    results = platform_conformance(cls, surface, no_load, "artifacts/production")
    assert [result.name for result in results] == NAMES
    return {result.name: result.message for result in results if not result.passed}


def test_the_warehouse_keeps_every_promise_and_nothing_runs_afterwards(shop: Surface) -> None:
    assert checked(WarehousePlatform, shop) == {}
    assert checked(Planted, shop) == {}
    platform = WarehousePlatform(shop, no_load)
    assert platform.running() == []
    assert platform._file.read().artifact is None  # nothing was launched


@pytest.mark.heavy
def test_growthbook_keeps_every_promise(shop: Surface, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROWTHBOOK_API_KEY", KEY)
    with FakeGrowthBook() as fake:
        options = {
            "url": fake.url,
            "feature": "ranker",
            "assignment_query": "user_id",
            "namespace": "ns-layer",
        }
        for reading in (
            OPTIONS,
            {"datasource": "ds", "metrics": {"active_days": "met_active", "dislikes": "met_dislikes"}},
        ):
            surface = served(shop.directory, "growthbook", options=options | reading, slots=2, holdback=0.0)
            assert checked(GrowthBookPlatform, surface) == {}
        assert {each["status"] for each in fake.experiments.values()} == {"stopped"}
        assert fake.features["ranker"]["defaultValue"] == "artifacts/original"


@pytest.mark.heavy
def test_the_simulation_keeps_every_promise(tmp_path: Path) -> None:
    surface = create(tmp_path, users=300, days=16)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "manifest.json").write_text(json.dumps({"data": surface.dataset().directory.name}))
    results = platform_conformance(SimulatedPlatform, surface, no_load, str(artifact))
    assert [result.message for result in results if not result.passed] == []


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_promise_is_named_with_what_to_mend_and_no_other_is(cls: type, shop: Surface) -> None:
    failures = checked(cls, shop)
    named = {name for name, message in failures.items() if not message.startswith("not run")}
    assert named == {cls.breaks}, failures
    assert all(f"mend `{cls.breaks}` first" in failures[name] or name == cls.breaks for name in failures)
    assert [word for word in cls.words if word not in failures[cls.breaks]] == [], failures[cls.breaks]


def test_there_is_a_broken_platform_for_every_promise() -> None:
    assert {cls.breaks for cls in BROKEN} == set(NAMES)


def test_a_slot_that_is_taken_is_left_alone(shop: Surface) -> None:
    platform = WarehousePlatform(shop, no_load)
    platform.start(live_test(shop, "mine", slot=0), "mine")
    assert checked(WarehousePlatform, shop) == {}
    assert [each.experiment_id for each in platform.running()] == ["mine"]
    platform.start(live_test(shop, "mine too", slot=1), "mine too")
    failures = checked(WarehousePlatform, shop)
    assert "Stop a test, if all slots are taken" in failures["starts ramps and stops"]


# -------------------------------------------------------------------------------------------------- doctor


def test_doctor_checks_a_platform_of_the_users_on_a_surface(
    shop: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shop.directory.parent.parent
    save_surface(home, shop.spec)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(Path(__file__).parent)
    arguments = ["doctor", "--home", str(home), "--surface", "shop", "--artifact", str(home)]
    run = partial(CliRunner().invoke, app)
    passed = run([*arguments, "--platform", "own", "--json"])
    assert passed.exit_code == 0, passed.output
    assert [(each["name"], each["passed"]) for each in json.loads(passed.stdout)] == [
        (name, True) for name in NAMES
    ]
    failed = run([*arguments, "--platform", "broken_platforms:LetsCoverageFall"])
    assert failed.exit_code == 1
    assert "MEND coverage never goes down: a lower coverage must be refused" in failed.stdout
    assert "ok   starts ramps and stops" in failed.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--artifact": None}, "--artifact FOLDER"),
        ({"--artifact": "nowhere"}, "--artifact` must be a folder"),
        ({"--platform": "broken_platforms:Nobody"}, "--platform 'broken_platforms:Nobody': module"),
        ({"--surface": "gone"}, "`surface` must be one of"),
    ],
)
def test_doctor_says_what_it_cannot_check(
    shop: Surface, monkeypatch: pytest.MonkeyPatch, changes: dict, words: str
) -> None:
    home = shop.directory.parent.parent
    save_surface(home, shop.spec)
    monkeypatch.chdir(Path(__file__).parent)
    options = {
        "--home": str(home),
        "--surface": "shop",
        "--artifact": str(home),
        "--platform": "own",
    } | changes
    told = CliRunner().invoke(
        app, ["doctor", *(text for pair in options.items() if pair[1] for text in pair)]
    )
    assert told.exit_code == 2
    assert words in told.stderr


def test_a_surface_without_live_traffic_is_told(shop: Surface) -> None:
    home = shop.directory.parent.parent
    save_surface(home, shop.spec.model_copy(update={"online": None}))
    arguments = ["--home", str(home), "--surface", "shop", "--artifact", str(home)]
    told = CliRunner().invoke(app, ["doctor", *arguments, "--platform", "own"])
    assert (told.exit_code, "no [online] section" in told.stderr) == (2, True)
