"""Against the truth: rankers are replayed on a log, and serve the same days of the same world."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replayed import Rates, truth, world_and_log

from evorank.model.errors import LogError, ToolError
from evorank.model.system import Objective
from evorank.tools.offpolicy import clear_loser
from evorank.tools.replay import _chances, replay

CLICK = Objective("CAST(is_click AS DOUBLE)", {}, "mse")
SATISFIED = Objective("LEAST(play_time_ms, 60000) * long_view * (1 - is_hate) / 1000.0", {}, "mse")


@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 8))
@settings(deadline=None)  # the first example imports scipy
def test_chances_are_those_of_places_in_a_random_set(others, more, places):
    draws, places = others + more, min(places, others + 1)
    table = _chances(draws, others, places)
    # The shown item is exchangeable with its rivals: over all its ranks each place has the same chance.
    assert table.mean(axis=1) == pytest.approx(np.full(places, 1 / (others + 1)))
    if places == others + 1:
        assert table.sum(axis=0) == pytest.approx(np.ones(draws + 1))
    # Of a set, exactly one draw has each place.
    inside = _chances(draws - 1, others - 1, min(places, others)) * others / draws
    assert inside.sum(axis=1) == pytest.approx(np.ones(len(inside)))


def test_chances_are_the_counts_of_all_sets():
    draws, others = 7, 3
    table = _chances(draws, others, others + 1)
    for below in range(draws + 1):
        rivals = [rank < below for rank in range(draws)]  # True: ranked below the item
        places = [others - sum(chosen) for chosen in combinations(rivals, others)]
        counted = np.bincount(places, minlength=others + 1) / len(places)
        assert table[:, below] == pytest.approx(counted)


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """People scroll without looking, so the positions seen are those of the log whoever ranks."""
    mornings, dataset = world_and_log(
        tmp_path_factory.mktemp("steady"), 2_500, exploration=0.5, scroll_joy=0.0
    )
    clicks = Rates(dataset, "is_click")
    watched = Rates(dataset, "is_like + long_view")
    return mornings, dataset, {"clicks": clicks, "watched": watched, "bad": Rates(dataset, "is_click", -1.0)}


@pytest.mark.heavy
@pytest.mark.parametrize("top", [1, 6])
@pytest.mark.parametrize("name", ["watched", "bad"])
def test_replay_finds_what_a_ranker_would_really_have_earned(steady, name, top):
    mornings, dataset, rankers = steady
    found = replay(dataset, rankers["clicks"], rankers[name], CLICK, candidates=12, top=top, sessions=10**6)
    real = {each: truth(mornings, dataset, rankers[each], top=top) for each in ("clicks", name)}
    for each in found.estimates:
        # The truth has noise of its own, about half of the estimate's: 4 errors.
        assert each.difference == pytest.approx(real[name] - real["clicks"], abs=4 * each.error)
        assert each.production == pytest.approx(real["clicks"], rel=0.1)
    assert found.estimates[0].method == "snips"
    assert len(found.estimates) == 2
    assert clear_loser(found) == (name == "bad" or top == 1)


@pytest.mark.heavy
def test_intervals_cover_the_truth_for_groups_of_users(tmp_path):
    mornings, dataset = world_and_log(tmp_path, 12_000)  # as the world is: joy makes people scroll
    ours, theirs = Rates(dataset, "is_click"), Rates(dataset, "is_like + long_view")
    for top, groups in ((1, 25), (6, 40)):
        real = truth(mornings, dataset, theirs, top=top) - truth(mornings, dataset, ours, top=top)
        found = [
            replay(
                dataset, ours, theirs, CLICK, candidates=12, top=top, sessions=10**6,
                random=f"is_rand = 1 AND user_id % {groups} = {group}",
            )
            for group in range(groups)
        ]  # fmt: skip
        assert all(one.unsupported is None for one in found)
        for method in (0, 1):
            each = [one.estimates[method] for one in found]
            # Binomial(25, 0.95) is below 0.84 in 1 of 145.
            assert np.mean([one.low <= real <= one.high for one in each]) >= 0.84
            differences = np.array([one.difference for one in each])
            assert abs(differences.mean() - real) < 4 * differences.std() / np.sqrt(groups)


@pytest.mark.heavy
def test_what_is_not_random_is_not_used_and_the_reward_may_be_any_signal(steady):
    _, dataset, rankers = steady
    with dataset.connect() as connection:
        part = dataset.bounds["validation"]
        rows, users = connection.execute(
            f"SELECT count(*), count(DISTINCT user_id) FROM log WHERE is_rand = 1 AND row >= {part.start}"
        ).fetchone()
    assert rows < 0.7 * (part.stop - part.start)
    same = [
        replay(dataset, rankers["clicks"], rankers["watched"], SATISFIED, candidates=12, sessions=10**6)
        for _ in range(2)
    ]
    assert same[0] == same[1]
    assert (same[0].impressions, same[0].users) == (rows, users)
    fewer = replay(dataset, rankers["clicks"], rankers["watched"], SATISFIED, candidates=12, sessions=700)
    assert fewer.impressions < rows
    assert fewer.estimates[1].error > same[0].estimates[1].error


@pytest.mark.heavy
def test_what_cannot_be_replayed_is_told(steady):
    _, dataset, rankers = steady
    ours, theirs = rankers["clicks"], rankers["watched"]

    def why(**changes) -> str:
        return replay(dataset, ours, theirs, CLICK, **({"candidates": 12} | changes)).unsupported or ""

    assert "no impression of the log was shown at random" in why(random="false")
    assert "not enough support" in why(random="is_rand = 1 AND user_id < 60")
    assert "not enough support" in why(candidates=400, top=1, sessions=300)
    with pytest.raises(LogError, match="nowhere"):
        why(random="nowhere = 1")
    with pytest.raises(ValueError, match="candidates"):
        why(candidates=1)
    broken = lambda rows: np.full(len(rows), np.nan, np.float32)  # noqa: E731
    with pytest.raises(ToolError, match="finite"):
        replay(dataset, ours, broken, CLICK, candidates=12)


@pytest.mark.heavy
def test_candidates_that_were_retrieved_for_the_user_are_no_pool_of_everybody(steady):
    _, dataset, rankers = steady

    def fits(rows):
        return (rows.column("user_id") + rows.column("tag")) % 4 == 0

    part = dataset.bounds["validation"]
    retrieved = np.flatnonzero(fits(dataset.rows("validation"))) + part.start

    def theirs(rows):
        return rankers["clicks"](rows) + np.float32(10) * fits(rows)

    chosen = f"is_rand = 1 AND row IN ({', '.join(map(str, retrieved))})"
    found = replay(dataset, rankers["clicks"], theirs, CLICK, candidates=12, random=chosen)
    assert "the weights of the candidate's ranking have mean" in (found.unsupported or "")
