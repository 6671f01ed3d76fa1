"""A world is deterministic, pairs its arms, does not grow, and tells no log what people feel."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from worlds import Recorder, active_days, small

from evorank.model.errors import ConfigurationError, ToolError
from evorank.surfaces.simulated.policies import Greedy, Oracle, Random, clicks, joyful
from evorank.surfaces.simulated.traffic import CONTEXT, SIGNALS, Sinks
from evorank.surfaces.simulated.world import World, everybody


def _logged(world, policies, assign, days=3):
    log = Recorder()
    for _ in range(days):
        world.step_day(assign, policies, log)
    return log.columns()


def _same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def _rows_of(columns, users):
    kept = np.isin(columns["user_id"], users)
    rows = {name: values[kept] for name, values in columns.items()}
    order = np.lexsort((rows["position"], rows["time_ms"], rows["user_id"]))
    return {name: values[order] for name, values in rows.items()}


def test_the_same_seed_and_policies_give_the_same_days_bit_by_bit():
    first, second = World(small(), 5), World(small(), 5)
    a = _logged(first, [Greedy(Oracle(first, clicks), 0.2)], everybody())
    b = _logged(second, [Greedy(Oracle(second, clicks), 0.2)], everybody())
    assert _same(a, b)
    assert np.array_equal(first.people.satisfaction, second.people.satisfaction)
    assert not _same(a, _logged(World(small(), 6), [Random()], everybody()))


def test_a_users_days_do_not_depend_on_the_policy_of_the_other_arm():
    """No interference: that is what makes an A/B test of this world unbiased."""
    mine = np.arange(0, 300, 2)
    runs = []
    for other in (joyful, clicks):
        world = World(small(), 5)
        policies = [Random(), Oracle(world, other)]
        runs.append(_rows_of(_logged(world, policies, lambda ids: ids % 2), mine))
    assert len(runs[0]["user_id"]) > 500
    assert _same(*runs)


def test_an_arm_of_everybody_and_an_arm_of_some_treat_a_user_alike():
    mine = np.arange(0, 300, 2)
    whole, part = World(small(), 5), World(small(), 5)
    alone = _rows_of(_logged(whole, [Oracle(whole, clicks)], everybody()), mine)
    shared = _rows_of(_logged(part, [Oracle(part, clicks), Random()], lambda ids: ids % 2), mine)
    assert _same(alone, shared)


def test_the_first_users_of_a_larger_world_are_those_of_a_smaller_one():
    few = _logged(World(small(100), 5), [Random()], everybody())
    many = _logged(World(small(1500), 5), [Random()], everybody())
    assert _same(_rows_of(few, np.arange(100)), _rows_of(many, np.arange(100)))


def test_fresh_people_meet_the_same_videos():
    known, fresh = World(small(), 5), World(small(), 5, first_user=1000)
    assert np.array_equal(known.videos.vector, fresh.videos.vector)
    assert not np.array_equal(known.people.taste, fresh.people.taste)
    assert _logged(fresh, [Random()], everybody())["user_id"].min() >= 1000


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    whole = _rows_of(_logged(World(small(), 5), [Random()], everybody()), np.arange(300))
    monkeypatch.setattr("evorank.surfaces.simulated.world.BLOCK", 17)
    assert _same(whole, _rows_of(_logged(World(small(), 5), [Random()], everybody()), np.arange(300)))


def test_a_saved_world_continues_as_if_it_had_not_stopped(tmp_path):
    straight, stopped = World(small(), 5), World(small(), 5)
    for world in (straight, stopped):
        _logged(world, [Random()], everybody(), days=12)  # more uploads than slots
    stopped.save(tmp_path / "world.npz")
    reopened, copied = World.open(tmp_path / "world.npz"), stopped.copy()
    after = [_logged(world, [Random()], everybody()) for world in (straight, reopened, copied)]
    assert _same(after[0], after[1])
    assert _same(after[0], after[2])


def test_a_file_that_is_no_world_is_refused(tmp_path):
    path = tmp_path / "world.npz"
    path.write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match=r"world\.npz is not a saved world"):
        World.open(path)


def test_memory_does_not_grow_while_videos_come_and_go():
    world = World(small(), 5)
    before = {name: a.nbytes for name, a in vars(world.videos).items() if isinstance(a, np.ndarray)}
    first = set(world.videos.video_id.tolist())
    for _ in range(15):
        world.step_day(everybody(), [Random()])
    after = {name: a.nbytes for name, a in vars(world.videos).items() if isinstance(a, np.ndarray)}
    assert {name: after[name] for name in before} == before
    assert not first & set(world.videos.video_id.tolist())
    assert world.videos.born.max() == world.day


def test_a_log_has_what_a_server_sees_and_nothing_latent():
    columns = _logged(World(small(), 5), [Random()], everybody())
    told = {*CONTEXT, *SIGNALS, "time_ms", "is_rand", "propensity", "arm"} - {"returned_next_day"}
    assert set(columns) == told


def test_signals_agree_with_each_other():
    c = _logged(World(small(600), 5), [Random()], everybody(), days=6)
    passed = c["is_click"] == 0
    for name in ("play_time_ms", "long_view", "is_like", "is_hate", "is_forward", "is_follow", "is_comment"):
        assert not c[name][passed].any(), name
    assert not c["survey_score"][passed].any()
    long = np.minimum(c["duration_ms"], 18_000)
    assert np.array_equal(c["long_view"] == 1, (c["is_click"] == 1) & (c["play_time_ms"] >= long))
    assert c["play_time_ms"].max() <= 2 * c["duration_ms"].max() + 10
    assert c["video_age_days"].min() >= 0
    assert c["register_days"].min() >= 0


def test_a_session_shows_each_video_once_and_positions_without_gap():
    c = _logged(World(small(), 5), [Random()], everybody())
    key = c["user_id"] * 10**13 + c["time_ms"]
    assert len(np.unique(np.stack([key, c["video_id"]]), axis=1).T) == len(key)
    first = np.r_[True, key[1:] != key[:-1]]
    assert (c["position"][first] == 0).all()
    assert (np.diff(c["position"])[~first[1:]] == 1).all()


def test_the_report_counts_what_the_log_holds():
    world, log = World(small(), 5), Recorder()
    report = world.step_day(lambda ids: ids % 2, [Random(), Random()], Sinks([log]))
    c = log.columns()
    assert report.total("impressions") == len(c["user_id"])
    assert report.total("clicks", arm=1) == c["is_click"][c["arm"] == 1].sum()
    assert report.total("watch_s") == pytest.approx(c["play_time_ms"].sum() / 1000, rel=1e-5)
    good = (c["long_view"] == 1) & (c["is_hate"] == 0)
    assert report.total("satisfied_s") == pytest.approx(c["play_time_ms"][good].sum() / 1000, rel=1e-5)
    assert np.array_equal(report.authors.sum(0), np.bincount(c["author_id"], minlength=20))
    assert 0.05 <= report.creator_concentration(0) <= 1
    assert log.days[0][0] == datetime.date(2026, 1, 5)
    assert np.array_equal(log.days[0][1], report.users["user_id"])
    assert log.ended == 1


def test_who_comes_is_known_before_the_day():
    world = World(small(), 5)
    expected = world.users_active(0)
    assert np.array_equal(world.step_day(everybody(), [Random()]).users["user_id"], expected)
    with pytest.raises(ToolError, match="known for day 1 only"):
        world.users_active(5)


def test_joy_brings_people_back():
    world = World(small(2000), 5)
    before = len(world.users_active(0))
    world.people.satisfaction += 0.3
    assert len(world.users_active(0)) > before


def test_fatigue_lowers_clicks_and_rests_overnight():
    world = World(small(2000), 5)
    tired = world.copy()
    tired.people.fatigue += 5
    assert active_days(tired, Random(), 1)[1] < active_days(world, Random(), 1)[1]
    assert tired.people.fatigue.max() < 5


def test_weekends_and_evenings_are_busier():
    world = World(small(3000, returning={"weekend": 1.0}), 5)
    log = Recorder()
    for _ in range(7):
        world.step_day(everybody(), [Random()], log)
    users = [len(active) for _, active in log.days]
    assert min(users[5:]) > max(users[:5])
    by_hour = np.bincount(log.columns()["hour"], minlength=24)
    assert by_hour[20] > 3 * by_hour[3]


class Broken:
    exploration = 0.0

    def __init__(self, scores):
        self.scores = scores

    def score(self, rows):
        return self.scores(rows)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (lambda rows: np.full(rows.shape, np.nan, np.float32), "NaN or infinity"),
        (lambda rows: np.zeros(rows.shape[0], np.float32), "got shape"),
    ],
)
def test_a_policy_without_scores_is_named(scores, told):
    with pytest.raises(ToolError, match=f"Broken.score must return finite float32.*{told}"):
        World(small(), 5).step_day(everybody(), [Broken(scores)])


@pytest.mark.parametrize("assign", [everybody(1), lambda ids: ids[:-1] * 0, lambda ids: ids * 0 - 1])
def test_an_assignment_to_no_policy_is_refused(assign):
    with pytest.raises(ToolError, match=r"an arm in \[0, 1\)"):
        World(small(), 5).step_day(assign, [Random()])
