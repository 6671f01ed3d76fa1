"""The gap between proxy and north star is real, in every preset: what wins clicks loses people."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import Recorder, active_days, small

from evorank.surfaces.simulated.policies import (
    Counting,
    Oracle,
    Random,
    clicks,
    composed,
    joyful,
    watch_time,
)
from evorank.surfaces.simulated.presets import PRESETS
from evorank.surfaces.simulated.world import World, everybody


@pytest.mark.heavy
@pytest.mark.parametrize("name", PRESETS)
def test_ranking_by_click_wins_clicks_and_loses_people(name):
    parameters = PRESETS[name].parameters.changed(population={"users": 1500})
    days, rate = {}, {}
    for formula in (None, clicks, watch_time, composed, joyful):
        world = World(parameters, 11)
        policy = Random() if formula is None else Oracle(world, formula)
        days[formula], rate[formula] = active_days(world, policy)
    assert rate[clicks] > 1.7 * rate[None]
    lost = days[clicks] - days[None]  # the same users, paired
    assert lost.mean() < -4 * lost.std() / np.sqrt(len(lost))
    assert days[clicks].mean() < 0.95 * days[None].mean()
    assert days[None].mean() < days[watch_time].mean() < days[composed].mean() < days[joyful].mean()
    assert days[composed].mean() > 1.15 * days[None].mean()


def test_pairing_by_common_random_numbers_narrows_the_difference():
    parameters = small(1500)
    worlds = [World(parameters, seed) for seed in (1, 1, 2)]
    a, b, other = (
        active_days(world, Random() if i == 0 else Oracle(world, watch_time), 7)[0]
        for i, world in enumerate(worlds)
    )
    assert (b - a).std() < 0.8 * (other - a).std()


def test_counting_learns_what_is_clicked_from_the_log_it_is_given():
    world, counting = World(small(1000), 5), Counting()
    for _ in range(4):
        world.step_day(everybody(), [Random()], counting)
    learned = active_days(world.copy(), counting, 1)[1]
    untaught = active_days(world.copy(), Counting(), 1)[1]
    assert learned > 1.3 * untaught


def test_counting_without_a_log_has_no_preference():
    world = World(small(), 5)
    seen = []

    class Watching:
        exploration = 0.0

        def score(self, rows):
            seen.append(Counting().score(rows))
            return seen[-1]

    world.step_day(everybody(), [Watching()], Recorder())
    assert not np.concatenate(seen).any()


def test_the_truth_is_what_happens():
    """Clicks and likes happen as often as the oracle expects, where there is no position bias."""
    world = World(small(3000, feed={"position": 0.0, "slate": 20}), 5)
    log, told = Recorder(), []

    class Asking:
        exploration = 0.0

        def score(self, rows):
            truth = world.truth(rows)
            told.append((rows.session["user_id"], rows.session["time_ms"], rows.candidate["video_id"], truth))
            return -truth.click

    world.step_day(everybody(), [Asking()], log)
    expected = {}
    for users, times, videos, truth in told:
        for i, user in enumerate(users):
            for j, video in enumerate(videos[i]):
                expected[user, times[i], video] = (truth.click[i, j], truth.acts["like"][i, j])
    c = log.columns()
    keys = zip(c["user_id"], c["time_ms"], c["video_id"], strict=True)
    rates = np.array([expected[key] for key in keys])
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        there = (rates[:, 0] >= low) & (rates[:, 0] < high)
        p = rates[there, 0]
        error = np.sqrt((p * (1 - p)).sum()) / there.sum()
        assert abs(c["is_click"][there].mean() - p.mean()) < 4 * error
    clicked = c["is_click"] == 1
    error = np.sqrt((rates[clicked, 1] * (1 - rates[clicked, 1])).sum()) / clicked.sum()
    assert abs(c["is_like"][clicked].mean() - rates[clicked, 1].mean()) < 4 * error
