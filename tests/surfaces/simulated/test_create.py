"""A surface to live on is made whole or not at all, the same each time, and everything works on it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lived import digest, read

from evorank.model.errors import ConfigurationError, PlatformError
from evorank.surfaces.platform import open_platform
from evorank.surfaces.simulated.create import create
from evorank.surfaces.simulated.live import LiveEncoder
from evorank.surfaces.simulated.presets import PRESETS
from evorank.surfaces.surface import WORLDS, list_surfaces, open_surface


def _none(artifact: Path):
    raise AssertionError(artifact)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_surface_of_each_preset_can_be_trained_on_served_and_read(preset, tmp_path):
    surface = create(tmp_path, preset, preset, users=250, days=9)
    surface.check_label()
    LiveEncoder(surface.dataset())
    assert open_surface(tmp_path, preset).spec == surface.spec
    platform = open_platform(surface, _none)
    assert read(platform, "SELECT count(DISTINCT timestamp), min(active), max(active) FROM days") == [
        (9, 1, 1)
    ]
    online = surface.spec.online
    assert online is not None
    with platform.connect() as connection:
        for metric in online.metrics:
            sql = f"SELECT {metric.value}, {metric.denominator or 1} FROM {metric.source}"
            assert connection.execute(f"{sql} HAVING {metric.value} > 0").fetchall(), metric.name
    assert [metric.name for metric in online.metrics if metric.success] == ["active_days", "satisfied_watch"]
    platform.next_day()


def test_the_built_in_worlds_are_the_presets():
    assert set(WORLDS.values()) == set(PRESETS)


def test_the_same_arguments_give_the_same_surface_and_another_seed_another_one(tmp_path):
    made = [
        digest(create(tmp_path / name, "home", "home", users=150, days=3, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert made[0] == made[1]
    assert made[0].keys() == made[2].keys()
    assert made[0] != made[2]


def test_a_surface_that_is_there_is_opened_as_it_is(tmp_path):
    first = create(tmp_path, "mine", "shorts", users=150, days=3)
    platform = open_platform(first, _none)
    platform.next_day()
    again = create(tmp_path, "mine", "home", users=300, days=9)
    assert again.spec == first.spec
    assert open_platform(again, _none).now() == platform.now()
    assert list_surfaces(tmp_path) == ["mine", "simulated"]


_MAKE = (
    "import sys; from pathlib import Path; from evorank.surfaces.simulated.create import create\n"
    "create(Path(sys.argv[1]), 'simulated', 'home', users=120, days=8); print('made')"
)


@pytest.mark.heavy
def test_a_creation_that_is_killed_leaves_no_surface_and_is_done_again(tmp_path):
    with subprocess.Popen([sys.executable, "-c", _MAKE, str(tmp_path)]) as making:
        until = time.monotonic() + 60
        while not list(tmp_path.glob(".simulated.new/days/day=2026-01-07.parquet")):
            assert making.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        making.kill()
    assert list_surfaces(tmp_path) == ["simulated"]
    again = create(tmp_path, "simulated", "home", users=120, days=8)
    straight = create(tmp_path / "straight", "simulated", "home", users=120, days=8)
    assert digest(again) == digest(straight)
    assert not list(tmp_path.glob(".simulated.new/*"))


@pytest.mark.heavy
def test_two_processes_at_once_make_one_surface(tmp_path):
    several = [
        subprocess.Popen([sys.executable, "-c", _MAKE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [each.communicate(timeout=120)[0] for each in several] == ["made\n", "made\n"]
    straight = create(tmp_path / "straight", "simulated", "home", users=120, days=8)
    assert digest(open_surface(tmp_path, "simulated")) == digest(straight)


def test_what_cannot_be_made_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ConfigurationError, match="`preset` must be one of"):
        create(tmp_path, "mine", "hoem")
    with pytest.raises(ConfigurationError, match="users"):
        create(tmp_path, "mine", "home", users=3)
    (tmp_path / "surfaces" / "mine").mkdir(parents=True)
    (tmp_path / "surfaces" / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds something that is no surface"):
        create(tmp_path, "mine", "home", users=100, days=1)
    assert (tmp_path / "surfaces" / "mine" / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".*.new"))


def test_first_days_are_random_and_later_ones_ranked_by_clicks(tmp_path):
    surface = create(tmp_path, "home", "home", users=800, days=10)
    log = f"FROM read_parquet('{surface.directory}/log/day=*.parquet')"
    of_day = "GROUP BY epoch_ms(time_ms)::DATE ORDER BY min(time_ms)"
    seen = f"SELECT avg(is_rand), avg(is_click), min(propensity) {log} {of_day}"
    days = read(open_platform(surface, _none), seen)
    random, clicks, propensity = np.array(days).T
    assert random[:2].tolist() == [1, 1]
    assert 0 < random[2:].max() < 0.12
    assert clicks[4:].mean() > 1.2 * clicks[:2].mean()
    assert propensity.min() > 0, "every impression can be reweighted"


def test_a_launch_on_a_fresh_surface_needs_an_artifact(tmp_path):
    platform = open_platform(create(tmp_path, "home", "home", users=100, days=2), _none)
    with pytest.raises(PlatformError, match="no artifact"):
        platform.launch("artifacts/none", 0, "key")
