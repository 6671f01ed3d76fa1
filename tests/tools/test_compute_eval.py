from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evorank.model.errors import ConfigurationError, RefusedDelta, ToolError
from evorank.model.system import Objective
from evorank.tools import alignment
from evorank.tools.alignment import Outcomes, align, outcomes
from evorank.tools.compute_eval import compute_eval, label_alignment


def test_a_reward_of_likes_is_better_aligned_than_clicks_where_likes_bring_users_back(bench):
    found = compute_eval(bench.production | {"label": '"like"', "steps": 20}, bench)
    assert found.verdict == "better", found.reason
    assert (found.metric, found.lower_is_better) == ("alignment", False)
    assert found.low > 0
    assert found.candidate.alignment > 0 > found.production.alignment
    assert "users" in found.reason


def test_bait_is_found_harmful_although_keen_users_click_more(bench):
    clicks, likes = (label_alignment(Objective(label), bench) for label in ("click", '"like"'))
    assert clicks.high < 0, clicks.reason
    assert likes.low > 0, likes.reason


def test_the_same_reward_is_equal(bench):
    found = compute_eval(dict(bench.production), bench)
    assert (found.verdict, found.difference) == ("equal", 0.0)


def test_a_surface_without_a_north_star_says_so(bench):
    bench.surface.spec.north_star = None
    with pytest.raises(ToolError, match="no north star"):
        compute_eval(bench.production | {"label": '"like"'}, bench)


def test_an_invalid_reward_is_refused(bench):
    with pytest.raises(RefusedDelta, match="/lr"):
        compute_eval({"lr": 0, "label": "click"}, bench)


def test_days_whose_horizon_is_not_over_within_validation_are_dropped(bench):
    star = bench.surface.spec.north_star
    days = bench.dataset.days(slice(0, bench.dataset.bounds["validation"].stop))
    for horizon in (1, 3):
        star.horizon_days = horizon
        found = outcomes(bench.dataset, star)
        assert len(found.value) == len(days)
        assert days[np.isfinite(found.value)].max() == days.max() - horizon


def test_a_horizon_longer_than_the_validation_period_still_gives_an_answer(bench):
    star = bench.surface.spec.north_star
    days = bench.dataset.days("validation")
    star.horizon_days = int(days.max() - days.min()) + 1
    star.sql = star.sql.replace("a.day + 1", f"a.day + {star.horizon_days}")
    found = compute_eval(bench.production | {"label": '"like"', "steps": 20}, bench)
    assert found.difference > 0
    assert "user-day" not in found.reason


@pytest.mark.parametrize(
    ("sql", "horizon", "message"),
    [
        ("SELECT nothing FROM log", 1, "must be a SELECT"),
        ('SELECT "user", day FROM log', 1, "must be a SELECT"),
        ('SELECT "user", day, 1 FROM log', 1, "one row per"),
        ('SELECT DISTINCT "user", day, 1 FROM log', 1, "too little"),
        ('SELECT DISTINCT "user", day, hash("user", day) % 2 FROM log', 300, "too little"),
    ],
)
def test_a_north_star_that_says_nothing_is_told_so(bench, sql, horizon, message):
    star = bench.surface.spec.north_star
    star.sql, star.horizon_days = sql, horizon
    with pytest.raises((ConfigurationError, ToolError), match=message):
        outcomes(bench.dataset, star)


def world(rng, users=150, items=25, days=4, effect=0.6):
    """Impressions of a world in which item quality moves the outcome, users differ, and moods move both."""
    quality, habit = rng.normal(size=items), rng.normal(0, 3, users)
    mood = rng.normal(0, 1, (users, days))
    user = np.repeat(np.arange(users), days * 5)
    day = np.tile(np.repeat(np.arange(days), 5), users)
    item = rng.integers(0, items, len(user))
    felt = np.bincount(user * days + day, quality[item], users * days).reshape(users, days) / 5
    value = habit[:, None] + effect * felt + mood + rng.normal(0, 1, (users, days))
    value = value - value.mean(1, keepdims=True)
    found = Outcomes(0, user, item, user * days + day, value[user, day])
    return found, quality, habit, mood


def test_alignment_is_that_of_a_slow_and_obvious_loop():
    rng = np.random.default_rng(0)
    found, quality, _, _ = world(rng, users=30, items=8)
    score = quality[found.item] + rng.normal(size=len(found.user))
    within = score - np.array([score[found.user == u].mean() for u in found.user])
    x = np.array(
        [
            within[(found.item == item) & (found.user != user)].mean()
            for user, item in zip(found.user, found.item, strict=True)
        ]
    )
    assert align([score], found, slice(0, len(found.user)), draws=1).estimate[0] == pytest.approx(
        np.corrcoef(x, found.value)[0, 1]
    )


@pytest.mark.parametrize("together", [alignment.MOST_CELLS, 1], ids=["at once", "one by one"])
def test_a_draw_is_that_of_a_slow_and_obvious_loop_over_users_drawn_several_times(together, monkeypatch):
    monkeypatch.setattr(alignment, "MOST_CELLS", together)
    rng = np.random.default_rng(4)
    found, quality, _, _ = world(rng, users=25, items=30, days=3)
    order = rng.permutation(len(found.user))  # some pairs have an outcome, some a score, some both
    found = replace(found, user=found.user[order], item=found.item[order], day=found.day[order])
    value = np.where(rng.random(len(order)) < 0.2, np.nan, found.value[order])
    found, rows = replace(found, value=value), slice(len(order) // 2, len(order))
    score = quality[found.item[rows]] + rng.normal(size=rows.stop - rows.start)
    users = int(found.user.max()) + 1
    times = np.bincount(np.random.default_rng(alignment.SEED).integers(0, users, users), minlength=users)
    who, what = found.user[rows], found.item[rows]
    within = score - np.array([score[who == user].mean() for user in who])
    x, y, weight = [], [], []
    for user, item, outcome in zip(found.user, found.item, found.value, strict=True):
        others = (what == item) & (who != user) & (times[who] > 0)
        if np.isfinite(outcome) and times[user] and others.any():
            x.append(np.average(within[others], weights=times[who[others]]))
            y.append(outcome)
            weight.append(times[user])
    (a, b), (_, c) = np.cov(x, y, aweights=weight, ddof=0)
    assert align([score], found, rows, draws=3).draws[0, 0] == pytest.approx(b / np.sqrt(a * c))


def test_neither_keen_users_nor_moods_look_like_alignment_at_item_level():
    rng = np.random.default_rng(1)
    found, _, habit, mood = world(rng, users=1500, effect=0.0)
    day = found.day % mood.shape[1]
    keen = habit[found.user] + mood[found.user, day] + rng.normal(size=len(found.user))
    aligned = align([keen], found, slice(0, len(found.user)), draws=100)
    assert abs(aligned.estimate[0]) < 3 * aligned.draws[:, 0].std()
    assert aligned.user_day[0] > 0.3  # the diagnosis lets moods in, as it says


def test_the_interval_of_a_difference_covers_the_truth_and_an_effect_is_found():
    rng = np.random.default_rng(2)
    covered, detected = [], []
    for _ in range(60):
        found, quality, _, _ = world(rng, effect=1.2)
        a, b = (rng.normal(0, 2, len(found.user)) for _ in range(2))
        null = align([a, b, quality[found.item]], found, slice(0, len(found.user)), draws=60)
        difference, draws = null.estimate[0] - null.estimate[1], null.draws[:, 0] - null.draws[:, 1]
        covered.append(abs(difference) <= 1.96 * draws.std(ddof=1))
        effect, effect_draws = null.estimate[2] - null.estimate[1], null.draws[:, 2] - null.draws[:, 1]
        detected.append(effect > 1.96 * effect_draws.std(ddof=1))
    assert np.mean(covered) >= 0.85
    assert np.mean(detected) >= 0.9


def test_the_mean_prediction_varies_over_users_as_the_mean_over_the_seeds_does():
    rng = np.random.default_rng(3)
    found, quality, _, _ = world(rng, users=600, effect=1.2)
    rows = slice(0, len(found.user))
    ours = [quality[found.item] + rng.normal(0, 0.5, len(found.user)) for _ in range(4)]
    theirs = [0.3 * quality[found.item] + rng.normal(0, 0.5, len(found.user)) for _ in range(4)]
    single = align([*ours, *theirs], found, rows, draws=200).draws
    pooled = align([np.mean(ours, axis=0), np.mean(theirs, axis=0)], found, rows, draws=200).draws
    by_seed = (single[:, :4] - single[:, 4:]).mean(axis=1)
    spread = (pooled[:, 0] - pooled[:, 1]).std(ddof=1)
    assert spread == pytest.approx(by_seed.std(ddof=1), rel=0.25)
