"""What machines share: exposures that are written once and read by all, traffic that all of them follow."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import duckdb
import numpy as np
import pytest
from contender import NINE, SHARED, ledger_of, shown
from openfeature.api import get_client, set_provider
from openfeature.evaluation_context import EvaluationContext
from planted import METRICS
from served import live_test, no_load, served

from evorank.graph import ledger as ledger_module
from evorank.graph.context import Context, close_sessions
from evorank.graph.ledger import StoredLedger
from evorank.graph.operations import open_operations
from evorank.graph.status import overview, request
from evorank.graph.store import Store
from evorank.graph.tick import propose, tick
from evorank.model.errors import PlatformError
from evorank.surfaces.assignment import OUTSIDE, HashAssigner
from evorank.surfaces.online import Online
from evorank.surfaces.platform import Exposure, open_platform
from evorank.surfaces.platform_conformance import platform_conformance
from evorank.surfaces.surface import open_surface, save_surface
from evorank.surfaces.warehouse import WarehousePlatform
from evorank.tools.abtest.provider import ExperimentProvider, ExposureHook

DELTA = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]


@pytest.fixture
def open_ledger(open_store, tmp_path):
    """Opens the ledger of the surface "shop", as another process of this machine would."""
    return lambda: ledger_of(open_store(), tmp_path)


def users(ledger: StoredLedger) -> list[str]:
    with duckdb.connect() as connection:
        ledger.view(connection)
        return [user for (user,) in connection.execute("SELECT user_id FROM exposures ORDER BY 1").fetchall()]


def files(folder) -> list[str]:
    return sorted(each.name for each in (folder / "shared-exposures").glob("*.parquet"))


# -- exposures


def test_what_a_machine_wrote_down_is_read_by_another_with_its_time_in_utc(open_ledger, another):
    ours, theirs = open_ledger(), open_ledger()
    assert users(ours) == []
    local = datetime(2026, 3, 2, 1, 30, 0, 250_000, tzinfo=timezone(timedelta(hours=8)))
    ours.exposures.append([Exposure("é'1", local, "e", "0")], "ours/1")
    assert another("expose", "other", 1).answer() == "done"
    with duckdb.connect() as connection:
        theirs.view(connection)
        assert connection.execute("FROM exposures ORDER BY user_id").fetchall() == [
            ("other0", NINE.replace(tzinfo=None), "e", "1"),
            ("shared0", NINE.replace(tzinfo=None), "e", "1"),
            ("é'1", datetime(2026, 3, 1, 17, 30, 0, 250_000), "e", "0"),
        ]
        kinds = [str(kind) for _, kind, *_ in connection.execute("DESCRIBE exposures").fetchall()]
    assert kinds == ["VARCHAR", "TIMESTAMP", "VARCHAR", "VARCHAR"]


def test_the_same_key_adds_its_rows_once_and_other_rows_under_it_are_refused(open_ledger):
    ledger = open_ledger()
    for _ in range(2):
        ledger.exposures.append(shown(1, 2), "a")
        open_ledger().exposures.append(shown(2), "b")
    with pytest.raises(PlatformError, match=r"'a' was used for other exposures of surface 'shop'"):
        ledger.exposures.append(shown(1, 3), "a")
    ledger.exposures.append([], "nobody was shown anything")
    assert users(ledger) == ["1", "2", "2"]


def test_a_process_killed_inside_an_append_leaves_nothing_of_it_and_its_rows_are_written_again(
    open_ledger, another, monkeypatch
):
    monkeypatch.setattr(ledger_module, "AT_ONCE", 7)
    dying = another("expose-and-die", "batch", 20)
    assert dying.answer() == ""
    assert dying.process.wait() == -9
    ledger = open_ledger()
    assert users(ledger) == []
    ledger.exposures.append(shown(*range(20)), "batch")
    assert users(ledger) == sorted(map(str, range(20)))


def test_processes_that_write_at_once_lose_nothing_and_write_nothing_twice(open_ledger, another):
    processes = [another("expose", f"p{number}-", 10) for number in range(2)]
    for process in processes:
        process.go()
    ledger = open_ledger()
    during = users(ledger)
    assert [process.hear() for process in processes] == ["done"] * 2
    wanted = [f"p{process}-{number}" for process in range(2) for number in range(10)]
    wanted += [f"shared{number}" for number in range(10)]
    assert set(during) <= set(wanted)
    assert users(ledger) == sorted(wanted)
    assert users(open_ledger()) == sorted(wanted)


def test_only_what_is_new_is_copied_and_never_more_at_a_time_than_fits(open_ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "IN_MEMORY", 5)
    ledger = open_ledger()
    for number in range(4):
        ledger.exposures.append(shown(*(f"{number}{place}" for place in range(3))), f"first/{number}")
    ledger.exposures.append(shown(*(f"large{place}" for place in range(12))), "large")
    assert len(users(ledger)) == 24
    before = files(tmp_path)
    assert [name.split("-")[0].lstrip("0") for name in before] == ["1", "2", "3", "4", "5"]
    when = [(tmp_path / "shared-exposures" / name).stat().st_mtime_ns for name in before]
    for number in range(3):
        ledger.exposures.append(shown(f"late{number}"), f"late/{number}")
    assert len(users(open_ledger())) == len(users(ledger)) == 27
    assert [name.split("-")[0].lstrip("0") for name in files(tmp_path)][5:] == ["8"]
    assert [(tmp_path / "shared-exposures" / name).stat().st_mtime_ns for name in before] == when


def test_a_copy_of_another_store_is_thrown_away(open_ledger, tmp_path):
    ledger = open_ledger()
    ledger.exposures.append(shown(1), "a")
    ledger.exposures.append(shown(2), "b")
    assert users(ledger) == ["1", "2"]
    store = Store.open(tmp_path / "elsewhere")
    other = ledger_of(store, tmp_path)
    assert users(other) == []
    other.exposures.append(shown(3), "a")
    assert users(other) == ["3"]
    store.close()
    assert users(ledger) == ["1", "2"]


@pytest.mark.parametrize(
    ("exposure", "key", "says"),
    [
        (Exposure("1", datetime(2026, 3, 2), "e", "0"), "k", "`timestamp` needs a time zone"),
        (Exposure("", NINE, "e", "0"), "k", "`user_id` must be a text that is not empty"),
        (Exposure("1", NINE, "e", "\0"), "k", "`variation_id` must be a text that is not empty"),
        (Exposure("1", NINE, "e", "0"), "", "`key` must name these exposures"),
    ],
)
def test_what_cannot_be_an_exposure_is_refused_whole(tmp_path, exposure, key, says):
    store = Store.open(tmp_path)
    ledger = ledger_of(store, tmp_path)
    with pytest.raises(PlatformError, match=says):
        ledger.exposures.append([*shown(1), exposure], key)
    assert users(ledger) == []
    store.close()


# -- traffic


def test_a_warehouse_that_shares_keeps_every_promise_and_writes_no_file(open_ledger, tmp_path):
    (tmp_path / "days.csv").write_text("user_id,timestamp,active,hates,shown\n7,2026-03-02,1,0,20\n")
    surface = served(tmp_path, options=SHARED, slots=2)
    results = platform_conformance(WarehousePlatform, surface, no_load, "artifacts/production", open_ledger())
    assert [result.message for result in results if not result.passed] == []
    assert not (tmp_path / "allocations.json").exists()


def test_changes_of_several_processes_at_once_are_all_there(open_ledger, another):
    processes = [another("traffic", f"p{number}/", 8) for number in range(2)]
    for process in processes:
        process.go()
    assert [process.hear() for process in processes] == ["done"] * 2
    assert len(open_ledger().allocations.read().keys) == 16


def test_a_service_on_another_machine_follows_a_test_and_what_it_shows_is_counted(open_ledger, tmp_path):
    surface = served(tmp_path, options=SHARED, slots=2)
    (tmp_path / "days.csv").write_text("user_id,timestamp,active,hates,shown\n7,2026-03-02,1,0,20\n")
    platform = open_platform(surface, no_load, open_ledger())
    service = open_ledger()
    allocations, written = service.live(seconds=0), []
    set_provider(ExperimentProvider(allocations), "shares")
    client = get_client("shares")
    client.add_hooks([ExposureHook(written.append)])
    people = [str(number) for number in range(200)]

    def seen() -> np.ndarray:
        answers = [client.get_string_value("a", "-1", EvaluationContext(user)) for user in people]
        return np.array(answers, np.int8)

    platform.launch("artifacts/first", 0, "launch/1")
    assert allocations.production(people[0]) == str(Path("artifacts/first").absolute())
    test = live_test(surface, "a")
    platform.start(test, "start")
    arms = seen()
    assert np.array_equal(arms, HashAssigner().assign(test.allocation(), people))
    service.exposures.append(written, "service/1")
    with platform.connect() as connection:
        found = connection.execute(
            f"SELECT user_id, variation_id FROM {platform.exposures} WHERE experiment_id = 'a'"
        ).fetchall()
    assert sorted(found) == sorted(
        (user, str(arm)) for user, arm in zip(people, arms, strict=True) if arm != OUTSIDE
    )
    platform.ramp("a", 1.0, "ramp")
    assert np.array_equal(seen(), HashAssigner().assign(test.allocation(1.0), people))
    platform.stop("a", "stop")
    assert set(seen()) == {OUTSIDE}
    with service._store.transaction() as access:
        access.execute("UPDATE evorank_traffic SET data = '{}'")
    assert set(seen()) == {OUTSIDE}
    with pytest.raises(PlatformError, match=r"traffic of surface 'shop' in .* is not what was written"):
        platform.running()


def test_what_a_service_knows_is_as_old_as_it_says(open_ledger, tmp_path):
    ledger = open_ledger()
    lazy, eager = ledger.live(seconds=3600), ledger.live(seconds=0)
    assert lazy.production("1") is eager.production("1") is None
    ledger.allocations.change(lambda traffic: traffic.launch("x", 0, "k"))
    assert (lazy.production("1"), eager.production("1")) == (None, str(tmp_path.parents[1] / "x"))


def test_a_store_that_is_gone_is_a_platform_in_trouble(open_ledger, open_store):
    ledger = open_ledger()
    ledger._store.close()
    for ask in (
        ledger.allocations.read,
        lambda: ledger.exposures.append(shown(1), "k"),
        lambda: ledger.view(duckdb.connect()),
    ):
        with pytest.raises(PlatformError):
            ask()


def test_a_copy_that_cannot_be_written_is_a_platform_in_trouble_and_is_made_later(open_ledger, tmp_path):
    ledger = open_ledger()
    ledger.exposures.append(shown(1), "k")
    (tmp_path / "shared-exposures").write_text("in the way")
    with pytest.raises(PlatformError, match="shared-exposures"):
        users(ledger)
    (tmp_path / "shared-exposures").unlink()
    assert users(ledger) == ["1"]


# -- the loop


def test_a_test_that_one_machine_began_is_seen_and_ended_by_another(home, pool, database, tmp_path):
    spec = open_surface(home, "tiny").spec
    online = Online(platform="warehouse", options=SHARED, metrics=METRICS, holdback=0.0, minimum_rows=100)
    save_surface(home, spec.model_copy(update={"online": online}))
    (home / "surfaces" / "tiny" / "days.csv").write_text(
        "user_id,timestamp,visits,dislikes\n1,2026-03-02,1,0\n"
    )
    shutil.copytree(home, tmp_path / "elsewhere")
    known = {"surface": "tiny", "seeds": 2, "selection": "fifo", "pool": pool, "store": database}
    here = Context(home=str(home), **known)
    there = Context(home=str(tmp_path / "elsewhere"), **known)
    try:
        identifier = propose(open_operations(here), DELTA, why="a smaller step", by="ada")
        assert [each["id"] for each in tick(here).approvals] == [
            identifier
        ]  # its past tells nothing of power
        request(there, identifier, "approve", by="bob", reason="we have time")
        assert tick(there).errors == []
        assert [each["phase"] for each in overview(here).live] == ["live"]
        assert list(open_operations(here).platform.running()) == open_operations(there).platform.running()
        ledger = StoredLedger.open(home, "tiny", database)
        assert list(ledger.live()) == [identifier]
        request(here, identifier, "abort", by="ada", reason="changed my mind")
        (error,) = tick(here).errors
        assert "is not on this machine" in error
        assert list(ledger.live()) == []
        assert open_operations(there).platform.running() == []
        (found,) = open_operations(there).session.journal.experiments("tiny")
        assert found.result == "aborted"
        ledger.close()
    finally:
        close_sessions()
