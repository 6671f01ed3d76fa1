"""A warehouse: a whole test of 14 days on Parquet files, other sources, and what it says of wrong ones."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest

from evorank.model.errors import ConfigurationError, PlatformError
from evorank.surfaces.allocations import LiveAllocations
from evorank.surfaces.assignment import OUTSIDE, HashAssigner
from evorank.surfaces.platform import open_platform
from evorank.surfaces.surface import open_surface, save_surface
from evorank.surfaces.warehouse import WarehousePlatform
from evorank.tools.abtest.decision import Reading, read_daily, read_horizon
from evorank.tools.abtest.guardrails import before
from evorank.tools.abtest.plan import Plan
from evorank.tools.abtest.sufficient import collect

sys.path.append(str(Path(__file__).parent))
from served import live_test, no_load, served

START = datetime(2026, 3, 2)
USERS = np.arange(4_000)
TYPES = {"timestamp": "TIMESTAMP", "experiment_id": "VARCHAR", "variation_id": "VARCHAR"}
LAKE = {
    "tables": {
        "exposures": {"path": "lake/exposures/*.parquet"},
        "days": {"path": ["lake/days/*.parquet"]},
    }
}


def a_day_of_service(folder: Path, day: int, gain: float, met: np.ndarray) -> None:
    """What a service writes on one day: it follows the file, as any service would. Whoever has `met` the
    candidate is more likely to come back, by `gain`."""
    draw = np.random.default_rng(day + 100)
    date = START + timedelta(days=day)
    allocations = LiveAllocations(folder / "allocations.json")
    arms = {name: HashAssigner().assign(allocations[name], USERS) for name in allocations}
    # Some people come often, some rarely: that is what the pre-period explains.
    active = draw.random(len(USERS)) < 0.2 + 0.5 * (USERS % 10) / 10 + gain * met
    for arm in arms.values():
        met |= active & (arm == 1)
    shown = [(name, arm, USERS[active & (arm != OUTSIDE)]) for name, arm in arms.items()]
    came = USERS[active]
    rows = {
        "days": {
            "user_id": came,
            "timestamp": np.full(len(came), date, "datetime64[us]"),
            "active": np.ones(len(came), np.int32),
            "hates": (draw.random(len(came)) < 0.2).astype(np.int32),
            "shown": np.full(len(came), 20, np.int32),
        },
        "exposures": {
            "user_id": np.concatenate([np.zeros(0, np.int64), *(users for _, _, users in shown)]),
            "timestamp": np.full(sum(len(users) for *_, users in shown), date + timedelta(hours=9), "M8[us]"),
            "experiment_id": np.concatenate(
                [np.zeros(0, "U9"), *(np.full(len(users), name) for name, _, users in shown)]
            ).astype(object),
            "variation_id": np.concatenate(
                [np.zeros(0, "U1"), *(arm[users].astype("U1") for _, arm, users in shown)]
            ).astype(object),
        },
    }
    with duckdb.connect() as connection:
        for table, columns in rows.items():
            path = folder / "lake" / table / f"{date:%Y-%m-%d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            listed = ", ".join(f"CAST({name} AS {TYPES.get(name, 'BIGINT')}) AS {name}" for name in columns)
            connection.register("rows", columns)
            connection.execute(f"COPY (SELECT {listed} FROM rows) TO '{path}'")


@pytest.mark.heavy
@pytest.mark.parametrize(("gain", "outcome"), [(0.10, "launch"), (0.0, "no_launch")])
def test_a_whole_test_of_14_days_on_parquet_files(tmp_path: Path, gain: float, outcome: str) -> None:
    surface = served(tmp_path, options=LAKE, holdback=0.0)
    platform = open_platform(surface, no_load)
    met = np.zeros(len(USERS), bool)
    for day in range(-14, 0):
        a_day_of_service(tmp_path, day, gain, met)
    test = live_test(surface, coverage=0.5)
    plan = Plan(experiment_id=test.experiment_id, start=START, metrics=surface.spec.online.metrics)
    platform.start(test, "start")
    looks, reading = [], None
    for day in range(14):
        if day == 1:
            platform.ramp(test.experiment_id, 1.0, "ramp")
        a_day_of_service(tmp_path, day, gain, met)
        until = START + timedelta(days=day + 1)
        read = read_horizon if day == 13 else read_daily
        with platform.connect() as connection:
            found = collect(connection, plan, platform.exposures, until, last=before(looks, until))
        reading: Reading = read(plan, found, looks)
        assert reading.failures == []
        assert day == 13 or reading.decision is None
        looks += reading.looks
    platform.stop(test.experiment_id, "stop")
    assert reading.decision.outcome == outcome, reading.decision.reason
    assert reading.statistics.users_control + reading.statistics.users_candidate > 3_900
    lift = next(effect for effect in reading.effects if effect.metric == "active_days")
    # Days before a user met the candidate gain nothing: a little less than gain / 0.425.
    assert lift.lift_low < (0.2 if gain else 0.0) < lift.lift_high
    assert platform.running() == []
    a_day_of_service(tmp_path, 14, gain, met)
    with platform.connect() as connection:
        assert connection.execute(
            "SELECT count(*) FROM exposures WHERE timestamp >= '2026-03-16'"
        ).fetchone() == (0,)


# ----------------------------------------------------------------------------------------------- sources


def test_files_of_any_kind_tables_of_a_database_and_sql_of_the_owner_become_tables(tmp_path: Path) -> None:
    database = duckdb.connect(str(tmp_path / "events.duckdb"))
    database.execute(
        "CREATE TABLE shown AS SELECT 1 AS uid, TIMESTAMP '2026-03-02' AS seen, 'e' AS test, '0' AS arm"
    )
    database.close()
    (tmp_path / "days.csv").write_text("user_id;timestamp;active;hates;shown\n1;2026-03-02;1;0;20\n")
    options = {
        "setup": ["CREATE VIEW constants AS SELECT 7 AS seven"],
        "tables": {
            "days": {"path": "days.csv", "reader": {"delim": ";"}},
            "raw": {"path": "events.duckdb", "table": "shown"},
        },
        "exposures": "(SELECT uid AS user_id, seen AS timestamp, test AS experiment_id, arm AS variation_id "
        "FROM raw)",
    }
    platform = open_platform(served(tmp_path, options=options), no_load)
    with platform.connect() as connection:
        assert connection.execute(f"SELECT user_id, variation_id FROM {platform.exposures}").fetchall() == [
            (1, "0")
        ]
        assert connection.execute("SELECT sum(shown) FROM days").fetchone() == (20,)
        assert connection.execute("SELECT seven FROM constants").fetchone() == (7,)
    assert platform.estimates("e") is None


def test_a_table_sees_the_files_that_came_since(tmp_path: Path) -> None:
    platform = open_platform(served(tmp_path, options=LAKE), no_load)
    for day in (0, 1):
        a_day_of_service(tmp_path, day, 0.0, np.zeros(len(USERS), bool))
        with platform.connect() as connection:
            assert connection.execute("SELECT count(DISTINCT timestamp) FROM days").fetchone() == (day + 1,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (LAKE, ["online.options.tables.exposures", "matches no file", "lake/exposures"]),
        ({"tables": {"days": {"path": "days.parquet"}}}, ["tables.days", "cannot be read"]),
        ({"setup": ["SELECT 1", "ATTACH 'gone.db' (READ_ONLY)"]}, ["setup[1]", "gone.db"]),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, options: dict, words: list[str]) -> None:
    (tmp_path / "days.parquet").write_text("not Parquet")
    platform = open_platform(served(tmp_path, options=options), no_load)
    with pytest.raises(PlatformError) as refused, platform.connect():
        pass
    assert [word for word in words if word not in str(refused.value)] == [], refused.value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": {}}, ["online.options.table", "Options are: exposures, tables, setup"]),
        ({"tables": {"days": {"path": "s3://bucket/x"}}}, ["online.options.tables.days.path", "local file"]),
        ({"tables": {"days": {}}}, ["online.options.tables.days.path", "required"]),
        (LAKE | {"shared": True}, ["online.options", "`shared` brings the table `exposures`"]),
        ({"shared": True, "exposures": "mine"}, ["online.options", "leave out your own"]),
    ],
)
def test_a_wrong_option_is_named_when_the_platform_is_opened(
    tmp_path: Path, options: dict, words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_platform(served(tmp_path, options=options), no_load)
    assert [word for word in words if word not in str(refused.value)] == [], refused.value


def test_what_is_shared_needs_somewhere_to_be_and_no_file_takes_its_place(tmp_path: Path) -> None:
    options = {"shared": True, "tables": {"days": {"path": "days.csv"}}}
    (tmp_path / "days.csv").write_text("user_id,timestamp,active,hates,shown\n")
    platform = open_platform(served(tmp_path, options=options), no_load)
    for ask in (
        platform.running,
        lambda: platform.launch("x", 0, "k"),
        lambda: platform.connect().__enter__(),
    ):
        with pytest.raises(PlatformError, match=r"`online.options.shared` must be false where no ledger"):
            ask()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["days.csv"]


def test_a_home_that_was_moved_serves_what_it_served(tmp_path: Path) -> None:
    def opened(home: Path) -> tuple[WarehousePlatform, LiveAllocations]:
        folder = home / "surfaces" / "shop"
        folder.mkdir(parents=True, exist_ok=True)
        return (
            WarehousePlatform(served(folder, options=LAKE), no_load),
            LiveAllocations(folder / "allocations.json"),
        )

    for home in (tmp_path / "before", tmp_path / "after"):
        if home.name == "after":
            (tmp_path / "before").rename(home)
        platform, allocations = opened(home)
        platform.launch(str(home / "artifacts" / "first"), 0, "launch/1")  # as the loop does at every tick
        test = live_test(served(home), control=str(home / "artifacts" / "first"), candidate="/elsewhere/x")
        platform.start(test, "start")
        assert allocations.production("1") == str(home / "artifacts" / "first")
        assert allocations.artifacts("exp-1") == {"0": test.control, "1": "/elsewhere/x"}


def test_the_section_survives_surface_toml(tmp_path: Path) -> None:
    surface = served(tmp_path, options=LAKE, slots=3)
    save_surface(tmp_path, surface.spec)
    opened = open_surface(tmp_path, "shop")
    assert opened.spec.online == surface.spec.online
    assert isinstance(open_platform(opened, no_load), WarehousePlatform)


def test_time_is_the_clock_and_a_closed_platform_can_be_closed_again(tmp_path: Path) -> None:
    platform = open_platform(served(tmp_path, options=LAKE), no_load)
    assert abs(platform.now() - datetime.now(UTC)) < timedelta(minutes=1)
    platform.close()
    platform.close()
