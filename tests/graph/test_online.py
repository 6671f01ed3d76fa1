"""An experiment's life, on a real platform whose effects are planted, with real trainings and checkpoints."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from planted import Planted, give_traffic
from small_log import generate

from evorank.graph.context import Context, close_sessions
from evorank.graph.operations import open_operations, rebase, require_progress
from evorank.graph.status import overview, reorder, request
from evorank.graph.tick import propose, tick
from evorank.model.errors import ConfigurationError, PlatformError, RefusedDelta, ToolError
from evorank.model.logs import sources
from evorank.surfaces.surface import open_surface

DELTA = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]


@pytest.fixture(scope="module")
def past(template, pool, tmp_path_factory):
    """What four weeks of people's life left on the tiny surface, and what was measured and trained on it."""
    home, kept = (tmp_path_factory.mktemp("past") / name for name in ("home", "kept"))
    shutil.copytree(template, home)
    traffic = give_traffic(home, {}).directory
    Planted(open_surface(home, "tiny"), None)
    for name in ("traffic.json", "traffic.duckdb"):
        (kept / "surfaces" / "tiny").mkdir(parents=True, exist_ok=True)
        shutil.copy(traffic / name, kept / "surfaces" / "tiny")
    context = Context(surface="tiny", home=str(home), seeds=2, selection="fifo", pool=pool)
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    assert tick(context).live == 1
    close_sessions()
    for name in ("cache", "artifacts"):
        shutil.copytree(home / name, kept / name)
    return kept


@pytest.fixture
def live(home, past, context):
    """Makes a context on the tiny surface with traffic: live(effect=1.3, approve=True ...)."""

    def make(*, weeks=1, slots=1, wanted=0.2, refresh=14, chat_model=None, fields=None, **options):
        long = {"horizon_days": 7 * weeks, "pre_days": 7 * weeks}
        give_traffic(home, options, slots=slots, wanted_lift=wanted, refresh_days=refresh, **long)
        if "users" not in options:
            shutil.copytree(past, home, dirs_exist_ok=True)
        return context(chat_model, selection="fifo", **(fields or {}))

    return make


def days(context, number: int):
    """Ticks until `number` more days have passed."""
    until = open_operations(context).platform.now() + timedelta(days=number)
    return tick(context, until=until)


def only(context):
    (experiment,) = open_operations(context).session.journal.experiments("tiny")
    return experiment


def effects(home: Path) -> list[str]:
    lines = (home / "surfaces" / "tiny" / "effects.jsonl").read_text().splitlines()
    return [json.loads(line)["method"] for line in lines]


def test_a_candidate_that_people_like_goes_through_five_phases_and_is_launched(live, home):
    context = live(effect=1.25)
    for kept in ("cache", "artifacts"):
        shutil.rmtree(home / kept)  # here everything is measured and trained
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    report = days(context, 8)
    found = only(context)
    assert report.errors == []
    assert found.result == "launched", found.reason
    assert list(found.times) == ["proposed", "validated", "training", "live", "completed"] or set(
        found.times
    ) == {"proposed", "validated", "training", "live", "completed"}
    assert found.effects[0]["lift_low"] > 0
    assert len(found.readings) == 7
    assert found.version == 2
    operations = open_operations(context)
    assert operations.production()["optimizer"]["args"]["lr"] == 0.05
    assert operations.platform.running() == []
    assert effects(home) == ["launch", "start", "ramp", "stop", "launch"]


def test_the_north_star_is_not_read_before_the_horizon(live):
    context = live(effect=1.25)
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    days(context, 5)
    found = only(context)
    assert found.phase == "live"
    assert found.effects == []
    assert {look["metric"] for reading in found.readings for look in reading["looks"]} == {"dislikes"}


def test_a_candidate_that_changes_nothing_is_not_launched(live):
    context = live(effect=1.0)
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    days(context, 8)
    assert only(context).result == "no_launch"
    assert only(context).decision["rule"] == "no_superior_metric"


def test_a_candidate_that_breaks_a_guardrail_is_stopped_within_days(live, home):
    context = live(effect=1.25, harm=2.0)
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    days(context, 8)
    found = only(context)
    assert found.result == "aborted"
    assert "dislikes" in found.reason
    assert len(found.readings) < 5
    assert "stop" in effects(home)


def test_lost_exposures_end_a_test_whatever_its_metrics_say(live):
    context = live(effect=1.25, lose=0.3)
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    days(context, 8)
    assert only(context).result == "aborted"
    assert "equal arms" in only(context).reason


def test_a_test_that_could_see_nothing_waits_for_a_person(live):
    context = live(users=300, wanted=0.01)
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    report = days(context, 3)
    assert [each["id"] for each in report.approvals] == [only(context).id]
    assert only(context).phase == "validated"
    request(context, only(context).id[:8], "approve", by="bob", reason="we have time")
    days(context, 1)
    assert only(context).phase == "live"
    assert only(context).approvals[0]["by"] == "bob"


def test_a_person_approves_the_launch_or_refuses_it(live, home):
    context = live(effect=1.25, fields={"approve": True})
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    report = days(context, 9)
    assert report.approvals
    assert open_operations(context).schedule.current().version == 1
    assert "superior_and_safe" in only(context).decision["rule"]
    request(context, only(context).id, "abort", by="bob", reason="not before the holidays")
    tick(context)
    assert only(context).result == "no_launch"
    assert "not before the holidays" in only(context).reason
    assert open_operations(context).platform.running() == []


def test_what_cannot_be_asked_is_refused_and_says_why(live):
    context = live()
    operations = open_operations(context)
    identifier = propose(operations, DELTA, why="a smaller step", by="ada")
    tick(context)
    with pytest.raises(ConfigurationError, match="not for an approval"):
        request(context, identifier, "approve", by="bob", reason="")
    with pytest.raises(ConfigurationError, match="names no experiment"):
        request(context, "ffffffff-0", "abort", by="bob", reason="")
    with pytest.raises(ConfigurationError, match=identifier[:8]):
        propose(operations, DELTA, why="the same again", by="eve")
    with pytest.raises(ConfigurationError, match="changes nothing"):
        propose(operations, [], why="nothing", by="eve")
    with pytest.raises(RefusedDelta, match="/optimizer/args/lr"):
        propose(operations, [DELTA[0] | {"value": -1}], why="wrong", by="eve")


def test_a_launch_is_taken_back_by_the_next_tick_once_and_only_while_it_serves(live, home):
    context = live(effect=1.25)
    operations = open_operations(context)
    identifier = propose(operations, DELTA, why="a smaller step", by="ada")
    with pytest.raises(ConfigurationError, match="not what serves"):
        request(context, identifier, "rollback", by="bob", reason="")
    days(context, 15)
    assert operations.schedule.current().experiment == identifier
    request(context, identifier, "rollback", by="bob", reason="the shop complains")
    with pytest.raises(ConfigurationError, match="already"):
        request(context, identifier, "rollback", by="bob", reason="again")
    assert operations.schedule.current().version == 2
    tick(context)
    tick(context)
    assert [each.version for each in operations.schedule.versions()] == [1, 2, 3]
    serving = operations.schedule.current()
    assert serving.why == "rollback to version 1 by bob: the shop complains"
    assert serving.phi == operations.schedule.versions()[0].phi
    assert operations.production()["optimizer"]["args"]["lr"] != 0.05
    assert operations.schedule.rollbacks() == []
    with pytest.raises(ConfigurationError, match="not what serves"):
        request(context, identifier, "rollback", by="bob", reason="")


def test_a_rollback_that_was_done_before_a_crash_is_not_done_again(live):
    context = live(effect=1.25)
    operations = open_operations(context)
    identifier = propose(operations, DELTA, why="a smaller step", by="ada")
    days(context, 15)
    request(context, identifier, "rollback", by="bob", reason="")
    operations.roll_back(1, by="bob", reason="")  # the tick died before it consumed the request
    tick(context)
    assert operations.schedule.current().version == 3
    assert operations.schedule.rollbacks() == []


def test_a_live_test_that_is_aborted_gives_its_traffic_back(live):
    context = live(effect=1.25)
    identifier = propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    days(context, 3)
    assert open_operations(context).platform.running()
    request(context, identifier, "abort", by="bob", reason="changed my mind")
    tick(context)
    assert open_operations(context).platform.running() == []
    assert only(context).result == "aborted"
    with pytest.raises(ConfigurationError, match="ended"):
        request(context, identifier, "abort", by="bob", reason="again")


def test_a_paused_test_is_watched_and_goes_no_further(live):
    context = live(effect=1.25)
    identifier = propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    days(context, 2)
    request(context, identifier, "pause", by="bob", reason="")
    days(context, 8)
    found = only(context)
    assert found.phase == "live"
    assert found.effects == []
    assert len(found.readings) > 7
    request(context, identifier, "resume", by="bob", reason="")
    days(context, 2)
    assert only(context).result == "launched"


def test_the_queue_is_first_in_first_out_and_can_be_reordered(live):
    context = live()
    operations = open_operations(context)
    ids = [
        propose(operations, [DELTA[0] | {"value": rate}], why=f"rate {rate}", by="ada")
        for rate in (0.05, 0.06, 0.07)
    ]
    reorder(context, ids[2], 1)
    days(context, 1)
    assert [each["id"] for each in overview(context).live] == [ids[2]]
    assert [each["id"] for each in overview(context).queue] == ids[:2]


def test_two_tests_at_once_have_users_of_their_own(live):
    context = live(slots=2, weeks=2)
    operations = open_operations(context)
    for rate in (0.05, 0.06):
        propose(operations, [DELTA[0] | {"value": rate}], why=f"rate {rate}", by="ada")
    days(context, 3)
    with operations.platform.connect() as database:
        (both,) = database.execute(
            "SELECT count(*) FROM (SELECT user_id FROM exposures GROUP BY 1 "
            "HAVING count(DISTINCT experiment_id) > 1)"
        ).fetchone()
        (tests,) = database.execute("SELECT count(DISTINCT experiment_id) FROM exposures").fetchone()
    assert (both, tests) == (0, 2)


def test_a_win_that_production_has_overtaken_is_proposed_anew_on_top_of_it(live):
    context = live(slots=2, weeks=2, effect=1.25)
    operations = open_operations(context)
    first = propose(operations, DELTA, why="a smaller step", by="ada")
    wider = [{"op": "replace", "path": "/architecture/embedding_dim", "value": 6}]
    second = propose(operations, wider, why="wider", by="ada")
    days(context, 16)
    found = {each.id: each for each in operations.session.journal.experiments("tiny")}
    assert {found[first].result, found[second].result} == {"launched", "superseded"}
    (third,) = set(found) - {first, second}
    phi = found[third].phi
    assert (phi["optimizer"]["args"]["lr"], phi["architecture"]["embedding_dim"]) == (0.05, 6)


def test_a_winner_can_be_asked_to_win_twice(live):
    context = live(effect=1.25, fields={"replicate": True})
    operations = open_operations(context)
    first = propose(operations, DELTA, why="a smaller step", by="ada")
    days(context, 9)
    assert operations.schedule.current().version == 1
    days(context, 9)
    found = {each.id: each for each in operations.session.journal.experiments("tiny")}
    assert found[first].result == "no_launch"
    (again,) = (each for each in found.values() if each.id != first)
    assert again.replication_of == first
    assert again.result == "launched"


def test_a_platform_that_times_out_is_asked_again_and_nothing_is_lost(live, home):
    context = live(effect=1.25, fail={"start": 2, "status": 2})
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    days(context, 1)
    assert "timed out" in only(context).trouble
    days(context, 15)
    assert only(context).result == "launched"
    assert effects(home).count("start") == 1


def test_a_ramp_or_a_stop_that_times_out_is_done_by_a_later_tick(live, home):
    context = live(effect=1.25, fail={"ramp": 1, "stop": 2})
    propose(open_operations(context), DELTA, why="a smaller step", by="ada")
    told = days(context, 19).errors
    assert [error.split(": ", 1)[1].split("`")[1] for error in told] == ["ramp", "stop", "stop"]
    assert only(context).result == "launched"
    assert [each for each in effects(home) if each != "launch"] == ["start", "ramp", "stop"]
    assert open_operations(context).platform.running() == []


def test_a_model_that_is_not_what_was_exported_is_neither_replayed_nor_shown_to_anybody(live, home):
    context = live(effect=1.25)
    operations = open_operations(context)
    operations.prepare(lambda _: None)
    folder = operations.home / operations.schedule.current().serving
    with (folder / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    propose(operations, DELTA, why="a smaller step", by="ada")
    days(context, 1)
    assert only(context).result == "failed"
    assert "weights.safetensors is not the file that was exported" in only(context).reason
    assert "start" not in effects(home)


def test_rolling_back_serves_the_version_before(live, home):
    context = live(effect=1.25)
    operations = open_operations(context)
    propose(operations, DELTA, why="a smaller step", by="ada")
    days(context, 9)
    before = operations.schedule.versions()[0].phi
    version = operations.roll_back(None, by="bob", reason="the shop complained")
    assert version.version == 3
    assert operations.production() == before
    assert "the shop complained" in version.why
    assert effects(home)[-1] == "launch"


def test_the_same_delta_goes_on_another_production_only_where_it_did_not_change():
    old = {"a": {"x": 1, "y": 2}, "b": 3}
    changes = [
        {"op": "replace", "path": "/a/x", "value": 5},
        {"op": "add", "path": "/c", "value": 7},
    ]
    assert rebase(changes, old, old | {"b": 4}) == {"a": {"x": 5, "y": 2}, "b": 4, "c": 7}
    with pytest.raises(RefusedDelta, match="/a/x"):
        rebase(changes, old, {"a": {"x": 9, "y": 2}, "b": 3})
    with pytest.raises(RefusedDelta, match="/c"):
        rebase(changes, old, old | {"c": 1, "b": 9})


# -- what serves is trained again


def grow(home: Path, days: int) -> None:
    """Days of people's life pass on the tiny surface, and its log has them."""
    log = generate(users=60, items=120, days=days)
    with sources.connect() as connection:
        connection.register("generated", log)
        file = home / "surfaces" / "tiny" / "log.parquet"
        connection.execute(f"COPY generated TO '{file}' (FORMAT parquet)")


def launches(home: Path) -> list[str]:
    lines = (home / "surfaces" / "tiny" / "effects.jsonl").read_text().splitlines()
    return [each["key"].split("-")[0] for each in map(json.loads, lines) if each["method"] == "launch"]


def test_what_serves_is_trained_again_on_the_newest_log_after_a_fortnight(live, home):
    context = live()
    days(context, 13)
    grow(home, 26)
    days(context, 0)
    assert launches(home) == ["launch/1"]
    days(context, 1)
    (version,) = open_operations(context).schedule.versions()
    assert version.serving != version.artifact
    assert version.trained == open_operations(context).platform.now()
    assert version.serving.endswith(open_operations(context).bench.dataset.key[:12])
    days(context, 5)
    assert launches(home) == ["launch/1", f"refresh/1/{Path(version.serving).name.split('-')[0]}"]


def test_production_the_holdback_and_both_arms_of_a_test_have_seen_the_same_log(live, home):
    context = live(effect=1.25)
    operations = open_operations(context)
    propose(operations, DELTA, why="a smaller step", by="ada")
    days(context, 8)
    assert only(context).result == "launched"
    grow(home, 26)
    operations.renew(force=True)
    propose(operations, [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.04}], why="b", by="ada")
    days(context, 2)
    first, second = operations.schedule.versions()
    (found,) = (each for each in operations.session.journal.experiments("tiny") if each.phase == "live")
    assert second.serving == found.artifacts["control"]
    data = {Path(folder).name.split("-")[1] for folder in (*found.artifacts.values(), first.serving)}
    assert data == {operations.bench.dataset.key[:12]}
    assert [each.split("/")[:2] for each in launches(home)] == [
        ["launch", "1"],
        ["launch", "2"],
        ["refresh", "1"],
        ["refresh", "2"],
    ]


def test_a_model_that_cannot_be_trained_again_leaves_what_serves_and_is_told(live, home, monkeypatch):
    context = live()
    days(context, 13)
    grow(home, 26)
    operations = open_operations(context)
    monkeypatch.setattr(operations, "train", raises(ToolError("the loss is not finite")))
    report = days(context, 1)
    assert "goes on as it is: the loss is not finite" in report.errors[0]
    assert operations.schedule.current().serving == operations.schedule.current().artifact
    monkeypatch.undo()
    assert days(context, 1).errors == []  # the next day tries again
    assert operations.schedule.current().serving != operations.schedule.current().artifact


def test_a_platform_that_did_not_hear_of_a_new_model_hears_of_it_at_the_next_tick(live, home, monkeypatch):
    context = live()
    days(context, 13)
    grow(home, 26)
    operations = open_operations(context)
    launch = operations.platform.launch

    def deaf(artifact: str, version: int, key: str) -> None:
        if key.startswith("refresh"):
            raise PlatformError("timed out")
        launch(artifact, version, key)

    monkeypatch.setattr(operations.platform, "launch", deaf)
    assert "timed out" in days(context, 1).errors[0]
    assert launches(home) == ["launch/1"]
    monkeypatch.undo()
    assert tick(context).errors == []
    assert len(launches(home)) == 2


def test_a_surface_whose_models_are_trained_elsewhere_is_left_alone(live, home):
    context = live(refresh=0)
    days(context, 13)
    grow(home, 26)
    days(context, 10)
    assert launches(home) == ["launch/1"]


def raises(error: Exception):
    def broken(*_: object, **__: object) -> None:
        raise error

    return broken


def test_a_training_that_surely_learned_nothing_serves_nobody():
    generator = np.random.default_rng(0)
    positive = generator.random(200_000) < 0.3
    noise = generator.random(len(positive)).astype(np.float32)
    with pytest.raises(ToolError, match=r"no progress: on 200,000 later rows its AUC is 0\.\d{4}, as coins"):
        require_progress(noise, positive)
    require_progress(noise + 0.1 * positive.astype(np.float32), positive)
    few = np.tile(np.array([True, True, False, False]), 125)  # an AUC of 0.5, but of too few rows to be sure
    require_progress(np.tile(np.array([0.0, 1.0], np.float32), 250), few)
    require_progress(noise, np.zeros(len(noise), bool))
