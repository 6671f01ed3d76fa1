"""A world behind the ports: each day happens once, everybody sees what they should, and tests can be read."""

from __future__ import annotations

import datetime
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lived
import numpy as np
import pytest
from lived import NAME, POINTS, Table, a_test_of, artifact, copied, digest, made, platform_of, read

from evorank.model.data import Dataset
from evorank.model.errors import ConfigurationError, PlatformError, ToolError
from evorank.surfaces.assignment import hash_v2
from evorank.surfaces.platform import HOLDBACK, Timelapse, open_platform
from evorank.surfaces.simulated.live import LiveEncoder
from evorank.surfaces.simulated.logs import replay
from evorank.surfaces.simulated.policies import Greedy
from evorank.surfaces.simulated.traffic import Sinks
from evorank.surfaces.simulated.world import World
from evorank.surfaces.surface import Surface
from evorank.tools.abtest.decision import read_horizon
from evorank.tools.abtest.plan import Plan
from evorank.tools.abtest.sufficient import collect

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Surface:
    return made(tmp_path_factory.mktemp("lived"))


@pytest.fixture
def surface(original, tmp_path) -> Surface:
    return copied(original, tmp_path)


def busy(surface: Surface, **changes):
    """A platform with a launch and a running test."""
    platform = platform_of(surface)
    platform.launch(artifact(surface, "baity"), 0, "first")
    platform.launch(artifact(surface, "odd"), 1, "second")
    platform.start(a_test_of(surface, **changes), "start")
    return platform


# A day


def test_a_day_moves_the_clock_and_is_there_to_be_read(surface):
    platform = open_platform(surface, Table)
    assert isinstance(platform, Timelapse)
    before = platform.now()
    assert before.tzinfo is datetime.UTC
    platform.next_day()
    assert platform.now() == before + DAY
    days = read(
        platform, "SELECT timestamp, count(*), count(DISTINCT user_id) FROM days GROUP BY 1 ORDER BY 1"
    )
    assert [row[0] for row in days] == [datetime.datetime(2026, 1, 5) + n * DAY for n in range(10)]
    assert all(rows == users > 0 for _, rows, users in days)


def test_a_days_row_sums_up_the_log(surface):
    platform = busy(surface)
    day = platform.now().date()
    for _ in range(2):
        platform.next_day()
    log = f"read_parquet('{surface.directory}/log/day={day}.parquet')"
    top = (
        f"SELECT author_id FROM read_parquet('{surface.directory}/log/day=*.parquet') WHERE "
        f"epoch_ms(time_ms) < '{day}' GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 15"  # 5% of 300
    )
    summed = (
        f"SELECT user_id, count(*), sum(is_click), round(sum(play_time_ms) / 1000, 1), sum(is_hate), "
        f"sum(is_like), count(DISTINCT time_ms), count(*) FILTER (author_id IN ({top})) FROM {log} GROUP BY 1"
    )
    kept = (
        "SELECT user_id, impressions, clicks, round(watch_s, 1), hates, likes, sessions, "
        f"top_creator_impressions FROM days WHERE timestamp = '{day}'"
    )
    assert np.allclose(sorted(read(platform, summed)), sorted(read(platform, kept)), atol=0.11)
    assert (
        read(platform, f"SELECT sum(top_creator_impressions) FROM days WHERE timestamp = '{day}'")[0][0] > 0
    )


@pytest.fixture(scope="session")
def straight(original, tmp_path_factory) -> tuple[Surface, list[dict[str, str]]]:
    """A surface that is about to live the second day of a test, and what its folder holds after that and the
    next."""
    surface = copied(original, tmp_path_factory.mktemp("straight"))
    platform = busy(surface)
    platform.next_day()
    before, digests = copied(surface, tmp_path_factory.mktemp("before")), []
    for _ in range(2):
        platform.next_day()
        digests.append(digest(surface))
    return before, digests


@pytest.fixture(scope="session")
def killed(straight, tmp_path_factory) -> dict[str, Surface]:
    """Point -> that surface, after a process that was killed there."""
    left = {point: copied(straight[0], tmp_path_factory.mktemp("killed")) for point in POINTS}
    where = [str(word) for point in POINTS for word in (left[point].directory.parents[1], point)]
    done = subprocess.run(
        [sys.executable, lived.__file__, NAME, *where], stdout=subprocess.PIPE, text=True, timeout=600
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(POINTS)
    return left


@pytest.mark.heavy
@pytest.mark.parametrize("point", POINTS)
def test_a_day_that_was_killed_is_lived_again_with_the_same_result(point, straight, killed):
    before, (second, third) = straight
    surface, start = killed[point], platform_of(before).now()
    platform = platform_of(surface)
    if platform.now() == start:  # not committed: nothing of the day is shown, and it comes again
        assert read(platform, f"SELECT count(*) FROM days WHERE timestamp >= '{start:%Y-%m-%d}'") == [(0,)]
        platform.next_day()
    else:
        assert point == POINTS[-1]
    assert digest(surface) == second
    platform.next_day()
    assert digest(surface) == third


def test_it_does_not_matter_which_process_lives_a_day(original, tmp_path):
    one, several = copied(original, tmp_path / "one"), copied(original, tmp_path / "several")
    platform, turns = busy(one), [busy(several), platform_of(several)]
    for turn in (0, 1, 0, 0):
        platform.next_day()
        turns[turn].next_day()
    assert digest(one) == digest(several)


def test_a_world_behind_the_ports_is_the_world(original, tmp_path):
    """The same policies and the same assignment, by hand: who is in which arm, and what they are shown."""
    surface = copied(original, tmp_path / "a")
    world, folder = World.open(surface.directory / "world.npz"), tmp_path / "a" / "artifacts"
    platform = busy(surface, coverage=0.5)
    dataset = Dataset.open(next((surface.directory / "data").glob("*/meta.json")).parent)
    encoder = LiveEncoder(dataset)
    replay(surface.directory / "log", encoder, after=datetime.date(2026, 1, 12))

    class ByHand:
        exploration = 0.0

        def __init__(self, name):
            self.table = Table(folder / name)

        def score(self, rows):
            return self.table.score(encoder.encode(rows)).reshape(rows.shape)

    def assign(users):
        place, coin = hash_v2(surface.layer, users), hash_v2("seed 0", users)
        arms = np.where(coin < 0.25, 2, np.where((coin >= 0.5) & (coin < 0.75), 3, 0))
        return np.where(place < 0.05, 1, arms)

    policies = [Greedy(ByHand(name), 0.05) for name in ("odd", "baity", "baity", "joyful")]
    names = np.array(["production", "holdback", "e0:0", "e0:1"])
    for _ in range(3):
        today = platform.now()
        platform.next_day()
        report = world.step_day(assign, policies, Sinks([encoder]))
        order = np.argsort(report.users["user_id"])
        columns = ("user_id", "impressions", "clicks", "watch_s", "satisfied_s", "hates")
        by_hand = [report.users[name][order].tolist() for name in columns]
        by_hand.append(names[report.users["arm"][order]].tolist())
        of_today = f"FROM days WHERE timestamp = '{today:%Y-%m-%d}' ORDER BY user_id"
        found = read(platform, f"SELECT {', '.join(columns)}, arm {of_today}")
        assert found == list(zip(*by_hand, strict=True))
        assert len(set(by_hand[-1])) == 4
    assert platform.now().date() == world.date


def test_a_day_that_breaks_has_not_happened(original, tmp_path):
    surface, straight = copied(original, tmp_path / "broken"), copied(original, tmp_path / "straight")
    platform = busy(surface)
    platform.next_day()
    before = platform.now()

    class Broken(Table):
        def score(self, rows):
            if self.calls == 1:
                raise ToolError("The training process died.")
            return super().score(rows)

    platform._servers._load = Broken
    platform._servers.close()
    with pytest.raises(PlatformError, match=f"could not live through {before.date()}.*died"):
        platform.next_day()
    assert platform.now() == before
    assert all(table.closed for table in Table.opened if isinstance(table, Broken))
    platform._servers._load = Table
    platform.next_day()
    done = busy(straight)
    for _ in range(2):
        done.next_day()
    assert digest(surface) == digest(straight)


def test_one_process_at_a_time_lives_a_day(surface):
    waiting = "import fcntl, os, sys, time\n" + (
        f"f = open({str(surface.directory / 'world.lock')!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "f.write(str(os.getpid())); f.flush(); print(os.getpid(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", waiting], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        owner = other.stdout.readline().strip()
        platform = platform_of(surface)
        with pytest.raises(PlatformError, match=f"held by process {owner}"):
            platform.next_day()
        platform.launch(artifact(surface, "odd"), 0, "meanwhile")  # and traffic can be moved
        other.kill()
    platform.next_day()


# Traffic


def test_the_same_key_is_one_effect_in_any_process(surface):
    test = a_test_of(surface, coverage=0.2)
    for platform in (platform_of(surface), platform_of(surface)):
        platform.start(test, "a")
        platform.ramp("e0", 0.5, "b")
        platform.launch(artifact(surface, "odd"), 0, "c")
        assert [(each.experiment_id, each.coverage) for each in platform.running()] == [("e0", 0.5)]
    platform.ramp("e0", 1.0, "d")
    platform.ramp("e0", 0.5, "b")
    assert platform.status("e0").coverage == 1.0
    platform.stop("e0", "f")
    platform.start(test, "a")
    platform.stop("e0", "f")
    platform.stop("e0", "g")
    assert (platform.status("e0").state, platform.running()) == ("stopped", [])
    with pytest.raises(PlatformError, match="'c' was used"):
        platform.launch(artifact(surface, "baity"), 1, "c")
    assert platform.status("never").state == "unknown"


def test_what_cannot_be_served_is_refused_before_it_stops_the_world(surface, tmp_path):
    platform = platform_of(surface)
    with pytest.raises(PlatformError, match="no artifact"):
        platform.launch(str(tmp_path / "nothing"), 1, "a")
    foreign = tmp_path / "foreign"
    shutil.copytree(artifact(surface, "odd"), foreign)
    (foreign / "manifest.json").write_text(json.dumps({"data": "0123456789abcdef"}))
    with pytest.raises(PlatformError, match="data version 0123456789abcdef"):
        platform.start(
            a_test_of(surface, candidate="x", control="x").model_copy(update={"control": str(foreign)}), "b"
        )
    with pytest.raises(PlatformError, match="layer"):
        platform.start(a_test_of(surface, layer="another"), "c")
    with pytest.raises(PlatformError, match="holdback"):
        platform.start(
            a_test_of(surface, slot=0, experiment_id="x").model_copy(update={"slot": (0.0, 0.5)}), "d"
        )
    assert platform.running() == []
    platform.next_day()


def test_a_home_can_be_moved_while_a_test_runs(original, tmp_path):
    surface, straight = copied(original, tmp_path / "here"), copied(original, tmp_path / "straight")
    busy(surface).next_day()
    moved = copied(surface, tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    platform, done = platform_of(moved), busy(straight)
    platform.start(a_test_of(moved), "start")  # the same call, told by another path
    platform.next_day()
    done.next_day()
    done.next_day()
    assert digest(moved) == digest(straight)


def test_nobody_moves_when_coverage_rises_and_all_go_back_when_it_stops(surface):
    platform = busy(surface, coverage=0.3)
    platform.next_day()
    early = dict(
        read(platform, "SELECT DISTINCT user_id, variation_id FROM exposures WHERE experiment_id = 'e0'")
    )
    platform.ramp("e0", 1.0, "more")
    for _ in range(2):
        platform.next_day()
    shown = read(platform, "SELECT DISTINCT user_id, variation_id FROM exposures WHERE experiment_id = 'e0'")
    assert len(shown) == len(dict(shown)) > 2 * len(early) > 0
    assert early.items() <= dict(shown).items()
    seen = {"0": "e0:0", "1": "e0:1"}
    arms = read(platform, "SELECT DISTINCT user_id, arm FROM days WHERE arm LIKE 'e0%'")
    assert {(user, seen[variation]) for user, variation in shown} == set(arms)
    platform.stop("e0", "stop")
    today = platform.now()
    platform.next_day()
    assert read(
        platform, f"SELECT DISTINCT arm FROM days WHERE timestamp = '{today:%Y-%m-%d}' ORDER BY 1"
    ) == [
        ("holdback",),
        ("production",),
    ]


def test_launches_reach_everybody_outside_but_the_holdback_which_keeps_the_first(surface):
    platform = platform_of(surface)
    seen = []
    for version, name in enumerate(("baity", "joyful", "odd")):
        platform.launch(artifact(surface, name), version, name)
        platform.next_day()
        seen.append({bytes(table.worth) for table in platform._servers._rankers.values()})
    worth = {
        name: bytes(np.load(Path(artifact(surface, name)) / "worth.npy"))
        for name in ("baity", "joyful", "odd")
    }
    assert seen == [{worth["baity"]}, {worth["baity"], worth["joyful"]}, {worth["baity"], worth["odd"]}]
    rows = read(platform, "SELECT user_id, arm FROM days WHERE timestamp >= '2026-01-14'")
    users, arms = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    assert np.array_equal(arms == "holdback", hash_v2(surface.layer, users) < 0.05)
    assert set(arms) == {"holdback", "production"}


def test_the_holdback_is_served_the_newest_model_of_the_first_version(surface):
    platform = platform_of(surface)
    for name, version in (("baity", 0), ("joyful", 1), ("odd", 0)):
        platform.launch(artifact(surface, name), version, f"{name} {version}")
    platform.next_day()
    worth = [np.load(Path(artifact(surface, name)) / "worth.npy") for name in ("odd", "joyful")]
    assert {bytes(table.worth) for table in platform._servers._rankers.values()} == set(map(bytes, worth))


def test_without_a_version_0_the_holdback_keeps_what_served_before(surface):
    platform = platform_of(surface)
    platform.launch(artifact(surface, "odd"), 1, "launch")
    with pytest.raises(PlatformError, match="first launch"):
        platform.launch(artifact(surface, "baity"), 0, "late")
    platform.next_day()
    assert platform._servers._counting is not None
    assert len(platform._servers._rankers) == 1


# Reading


def test_exposures_are_those_who_came_at_their_first_impression(surface):
    platform = busy(surface, slot=0)
    for _ in range(2):
        day = platform.now().date()
        platform.next_day()
    today = f"read_parquet('{surface.directory}/log/pending/day={day}.parquet')"
    first = f"(SELECT user_id, epoch_ms(min(time_ms)) AS first FROM {today} GROUP BY 1)"
    for experiment, arms in (("e0", "arm LIKE 'e0:%'"), (HOLDBACK, "true")):
        came = f"FROM days JOIN {first} USING (user_id) WHERE timestamp = '{day}' AND {arms}"
        shown = f"FROM exposures WHERE experiment_id = '{experiment}' AND timestamp >= '{day}'"
        expected = sorted(read(platform, f"SELECT user_id, first {came}"))
        assert sorted(read(platform, f"SELECT user_id, timestamp {shown}")) == expected != []
    held = f"SELECT DISTINCT user_id FROM exposures WHERE experiment_id = '{HOLDBACK}' AND variation_id = '0'"
    users = np.array(read(platform, held))[:, 0]
    everybody = np.array(read(platform, "SELECT DISTINCT user_id FROM days"))[:, 0]
    assert set(users) == set(everybody[hash_v2(surface.layer, everybody) < 0.05])


def _judged(surface: Surface, **test):
    """A whole live test, read at its horizon."""
    platform = busy(surface, **test)
    assert surface.spec.online is not None
    plan = Plan(experiment_id="e0", start=platform.now(), metrics=surface.spec.online.metrics, pre_days=7)
    for _ in range(14):
        platform.next_day()
    with platform.connect() as connection:
        return read_horizon(plan, collect(connection, plan, platform.exposures, platform.now()), [])


@pytest.mark.heavy
def test_a_better_ranker_is_found_better(original, tmp_path):
    reading = _judged(copied(original, tmp_path))
    assert reading.failures == []
    assert reading.decision is not None
    assert (reading.decision.outcome, reading.decision.rule) == ("launch", "superior_and_safe")
    days = next(effect for effect in reading.effects if effect.metric == "active_days")
    assert days.lift_low is not None
    assert days.lift_low > 0.05


@pytest.mark.heavy
def test_two_arms_with_the_same_ranker_are_alike(original, tmp_path):
    reading = _judged(copied(original, tmp_path), candidate="again")
    assert reading.failures == []  # sample ratio among them
    for effect in reading.effects:
        error = (effect.high - effect.low) / 4
        assert abs(effect.low + effect.high) / 2 < 4 * error, effect


def test_the_arm_alone_changes_nothing_for_anybody(original, tmp_path):
    days = []
    for seed in ("one", "two"):
        platform = busy(copied(original, tmp_path / seed), candidate="again", seed=seed)
        for _ in range(3):
            platform.next_day()
        days.append(read(platform, "SELECT * EXCLUDE (arm) FROM days ORDER BY timestamp, user_id"))
    assert days[0] == days[1]


def test_two_tests_at_once_share_nobody(original, tmp_path):
    surface = copied(original, tmp_path, slots=2)
    platform = platform_of(surface)
    platform.launch(artifact(surface, "baity"), 0, "launch")
    for slot in (0, 1):
        platform.start(a_test_of(surface, slot=slot), f"start {slot}")
    with pytest.raises(PlatformError, match="overlaps"):
        platform.start(a_test_of(surface, slot=1, experiment_id="third"), "third")
    platform.next_day()
    users = [
        {row[0] for row in read(platform, f"SELECT user_id FROM exposures WHERE experiment_id = '{name}'")}
        for name in ("e0", "e1")
    ]
    assert all(users)
    assert not users[0] & users[1]
    assert len(platform._servers._rankers) == 2, "what serves twice is loaded once"


# Opening


def test_a_surface_without_a_world_says_what_to_do(surface):
    (surface.directory / "world.npz").unlink()
    with pytest.raises(ConfigurationError, match=r"no world.*world\.npz"):
        platform_of(surface)


@pytest.mark.parametrize(
    ("options", "told"), [({"explore": 1}, "explore"), ({"exploration": 2}, "exploration")]
)
def test_wrong_options_are_named(original, tmp_path, options, told):
    with pytest.raises(ConfigurationError, match=f"online.options.{told}"):
        platform_of(copied(original, tmp_path, options=options))


def test_a_damaged_world_is_one_clear_error(surface):
    platform = platform_of(surface)
    (surface.directory / "world.npz").write_bytes(b"no zip")
    with pytest.raises(PlatformError, match="not a saved world"):
        platform.now()
    with pytest.raises(PlatformError, match="not a saved world"):
        platform.next_day()


def test_days_are_explored_as_the_options_say(original, tmp_path):
    surface = copied(original, tmp_path, options={"exploration": 0.3})
    platform = busy(surface)
    for _ in range(3):
        platform.next_day()
    log = f"FROM read_parquet('{surface.directory}/log/day=*.parquet')"
    shares = dict(read(platform, f"SELECT epoch_ms(time_ms)::DATE AS day, avg(is_rand) {log} GROUP BY 1"))
    days = [shares[datetime.date(2026, 1, 5) + n * DAY] for n in range(len(shares))]
    assert days[:2] == [1, 1]
    assert np.mean(days[2:9]) == pytest.approx(0.05, abs=0.03)
    assert np.mean(days[9:]) == pytest.approx(0.3, abs=0.07)
