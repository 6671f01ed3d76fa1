"""The pool as the strategist is shown it: where an experiment stands, and nothing of what it has seen."""

from __future__ import annotations

from evorank.prompts import render
from evorank.prompts.pool import pool_lines


def lines_of(pool):
    return {line["id"]: line for line in pool_lines(pool.candidates, pool.experiments, pool.horizon_days)}


def test_the_days_that_a_running_test_still_needs_are_told_and_what_it_saw_is_not(pool):
    lines = lines_of(pool)
    assert (lines["experiment-4"]["now"], lines["experiment-4"]["days_left"]) == ("live", 7)
    assert (lines["experiment-5"]["now"], lines["experiment-5"]["days_left"]) == ("waiting", 14)
    prompt = "".join(message.text for message in render.rank(pool))
    assert "0.7777" not in prompt
    assert "501" not in prompt


def test_what_won_before_is_marked_by_its_attempt_its_changes_or_the_win_it_repeats(pool, experiment_of):
    won = experiment_of(2, "superseded", 0.02)
    again = [
        experiment_of(7, replication_of="experiment-2"),
        experiment_of(7, attempt="2"),
        experiment_of(7, changes=won["changes"]),
        experiment_of(7),
        experiment_of(7, attempt=None),
    ]
    told = pool_lines(again, [won, experiment_of(3, "no_launch", -0.01, attempt=None)], 14)
    assert [line.get("won_live", False) for line in told] == [True, True, True, False, False]


def test_a_loser_proposed_again_is_not_marked(experiment_of):
    (line,) = pool_lines([experiment_of(7, attempt="2")], [experiment_of(2, "no_launch", -0.02)], 14)
    assert "won_live" not in line
