"""What is read of a home: all of it, once, and again only when somebody wrote."""

from __future__ import annotations

import shutil

import pytest

from evorank.graph.context import Context
from evorank.graph.journal import Journal
from evorank.graph.schedule import Schedule
from evorank.graph.store import Store
from evorank.model.errors import ConfigurationError
from evorank.ui.source import Source


@pytest.fixture
def mine(home):
    found = Source(Context(surface="tiny", home=str(home)))
    yield found
    found.close()


def test_every_write_is_another_mark_however_soon_it_follows(mine, home, attempt):
    journal = Journal.open(home, create=False)
    marks = {mine.mark()}
    for step in range(3):
        journal.append(attempt(step, run="soon", surface="tiny"))
        marks.add(mine.mark())
    journal.close()
    (run,) = (home / "runs").glob("*/now.json")
    shutil.copy(run, run.with_name("draft"))
    run.with_name("draft").replace(run)
    marks.add(mine.mark())
    assert len(marks) == 5


def test_a_snapshot_is_the_same_until_somebody_writes(mine, home, attempt):
    first = mine.snapshot()
    assert mine.snapshot() is first
    journal = Journal.open(home, create=False)
    journal.append(attempt(0, run="later", surface="tiny"))
    journal.close()
    second = mine.snapshot()
    assert second is not first
    assert len(second.attempts) == len(first.attempts) + 1
    assert second.attempts[0] is first.attempts[0], "what was read is not read again"


def test_looking_writes_nothing_and_makes_no_surface(mine, home):
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    for name in mine.surfaces():
        mine.snapshot(name)
    mine.audit()
    with pytest.raises(ConfigurationError, match="must be one of"):
        mine.snapshot("watch_next")
    after = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    ours = {path for path in after if "sqlite" in path.name or path.suffix == ".lock"}
    assert {path: at for path, at in after.items() if path not in ours} == {
        path: at for path, at in before.items() if path not in ours
    }


def test_a_home_without_a_journal_is_refused_and_stays_empty(tmp_path):
    with pytest.raises(ConfigurationError, match="no journal"):
        Source(Context(home=str(tmp_path / "nothing")))
    assert not (tmp_path / "nothing").exists()


def test_the_queue_is_there_before_its_threads_are(mine, home):
    store = Store.open(home)
    waiting = mine.snapshot().experiments[0]
    fresh = waiting.model_copy(
        update={"id": "12345678-0000-0000-0000-000000000000", "fingerprint": "f" * 64, "phase": "proposed",
                "result": None, "times": {}}
    )  # fmt: skip
    Schedule(store, "tiny").add(fresh.id, fresh.fingerprint, fresh.model_dump(mode="json"))
    store.close()
    assert mine.snapshot().experiment_of[fresh.id].phase == "proposed"


def test_a_configuration_is_found_by_its_fingerprint_wherever_it_came_from(mine):
    found = mine.snapshot()
    attempt = next(each for each in found.attempts if each.phi)
    assert mine.phi("tiny", attempt.fingerprint) == attempt.phi
    assert mine.phi("tiny", found.versions[0].fingerprint) == found.versions[0].phi
    assert mine.phi("tiny", "f" * 64) is None
