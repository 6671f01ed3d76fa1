"""The journal as prompts show it: what comes first, what is kept, and what live traffic said of it."""

from __future__ import annotations

import json

import pytest

from evorank.prompts.journal import journal_lines, live_gain, verdict
from evorank.prompts.length import tokens
from evorank.prompts.quoted import quoted

PRODUCTION = "p" * 64


def test_the_journal_is_sorted_best_first_and_keeps_failures(briefing):
    lines, omitted = journal_lines(briefing.journal, PRODUCTION)
    assert [line["id"] for line in lines] == ["4", "2", "1", "5", "3"]
    assert omitted == 0


def test_a_journal_may_be_shown_as_made_in_part_or_not_at_all_to_compare(briefing):
    def shown(history):
        lines, omitted = journal_lines(briefing.journal, PRODUCTION, history=history)
        assert len(lines) + omitted == len(briefing.journal)
        return [line["id"] for line in lines]

    assert shown("sorted") == ["4", "2", "1", "5", "3"]
    made = sorted(briefing.journal, key=lambda attempt: attempt["started_at"])
    assert shown("unsorted") == [str(attempt["step"]) for attempt in made]
    assert shown("unsorted") != shown("sorted")
    assert shown("top-1") == ["4"]
    assert shown("none") == []


def steps(lines):
    return {int(line["id"]) for line in lines}


def size(lines):
    return sum(tokens(quoted(line) + "\n") for line in lines)


def test_a_journal_that_does_not_fit_keeps_its_best_and_its_newest_and_stays_within_its_room(attempt_of):
    journal = [attempt_of(step, "better", -0.001 * step) for step in range(1, 201)]
    journal += [
        attempt_of(step, "failed", started_at=f"2026-02-{step - 200:02d}") for step in range(201, 229)
    ]
    whole, omitted = journal_lines(journal, PRODUCTION)
    assert (len(whole), omitted) == (228, 0)
    lines, omitted = journal_lines(journal, PRODUCTION, room=size(whole) // 2)
    assert len(lines) + omitted == 228
    assert size(whole) // 2 - 200 < size(lines) <= size(whole) // 2
    assert [line["id"] for line in lines[:60]] == [str(step) for step in range(200, 140, -1)]
    assert steps(lines) >= set(range(201, 229)), "the newest, all of which failed"
    assert lines == [line for line in whole if line in lines], "in the same order"


def test_of_the_own_run_the_newest_are_told_by_their_steps_and_not_by_clocks(attempt_of):
    journal = [
        attempt_of(step, "failed", run="mine", started_at=f"2026-01-{40 - step}") for step in range(1, 30)
    ]
    room = size(journal_lines(journal, PRODUCTION, own_run="mine")[0]) // 3
    lines, _ = journal_lines(journal, PRODUCTION, room=room, own_run="mine")
    assert steps(lines) >= {27, 28, 29}


def test_attempts_are_called_by_their_step_in_their_own_run_and_by_their_id_elsewhere(attempt_of):
    other = attempt_of(2, "worse", 0.1, run="other", id="c0ffee00-aaaa")
    lines, _ = journal_lines([attempt_of(7, "worse", 0.2), other], PRODUCTION, own_run="run-1")
    assert [line["id"] for line in lines] == ["c0ffee00", "7"]


def test_an_attempt_against_another_production_says_so(attempt_of):
    lines, _ = journal_lines([attempt_of(1, "better", -0.1, production="q" * 64)], PRODUCTION)
    assert lines[0]["against"] == "q" * 12


def test_a_winner_of_live_traffic_comes_first_and_a_loser_after_the_winners_of_the_proxy(
    briefing, experiment_of
):
    tests = [experiment_of(2, "launched", 0.02), experiment_of(4, "no_launch", 0.001)]
    lines, _ = journal_lines(briefing.journal, PRODUCTION, tests)
    assert [line["id"] for line in lines] == ["2", "4", "1", "5", "3"]
    assert [line["outcome"] for line in lines[:2]] == ["better", "better"]
    lines, _ = journal_lines(briefing.journal, PRODUCTION, tests[1:])
    assert [line["id"] for line in lines] == ["2", "4", "1", "5", "3"], (
        "the proxy of 4 is better than that of 2"
    )


def test_live_winners_are_sorted_by_their_lift_and_not_by_their_proxy(briefing, experiment_of):
    tests = [experiment_of(2, "superseded", 0.03), experiment_of(4, "launched", 0.01)]
    lines, _ = journal_lines(briefing.journal, PRODUCTION, tests)
    assert [live_gain(line["online"]) for line in lines[:2]] == [0.03, 0.01]


def test_effects_stand_with_their_role_lift_and_interval(briefing, experiment_of):
    lines, _ = journal_lines(briefing.journal, PRODUCTION, [experiment_of(4, "launched", 0.02)])
    assert lines[0]["online"] == {
        "verdict": "won",
        "result": "launched",
        "success": {"active_days": {"lift": 0.02, "interval": [0.016, 0.024]}},
        "guardrails": {"dislike_rate": {"lift": -0.01, "interval": [-0.014, -0.006], "better_is": "lower"}},
        "reason": "why it was launched",
    }


def test_estimates_of_a_platform_and_effects_without_a_lift_are_shown_too(briefing, experiment_of):
    estimate = {"metric": "active_days", "lift": 0.05, "low": 0.01, "high": 0.09, "level": 0.95}
    absolute = {"metric": "dislike_rate", "lift": None, "low": -1.0, "high": 2.0, "difference": 0.5}
    test = experiment_of(4, "launched", 0.05, effects=[estimate, absolute])
    (line, *_), _ = journal_lines(briefing.journal, PRODUCTION, [test])
    assert line["online"]["success"] == {"active_days": {"lift": 0.05, "interval": [0.01, 0.09]}}
    assert line["online"]["guardrails"]["dislike_rate"]["interval"] == [-1.0, 2.0]
    assert line["online"]["guardrails"]["dislike_rate"]["difference"] == 0.5


@pytest.mark.parametrize("phase", ["proposed", "validated", "training", "live"])
def test_nothing_of_a_running_test_is_shown_before_its_horizon(phase, briefing, experiment_of):
    looks = [{"metric": "dislike_rate", "harm": 0.7777}]
    readings = [{"until": "2026-02-05T00:00:00", "users": [777, 777], "failures": [], "looks": looks}]
    test = experiment_of(4, phase=phase, readings=readings, effects=[], reason="777 users so far")
    lines, _ = journal_lines(briefing.journal, PRODUCTION, [test])
    assert [line["id"] for line in lines] == ["4", "2", "1", "5", "3"]
    assert lines[0]["online"] == {"verdict": "under way", "phase": phase}
    assert "777" not in json.dumps(lines)


def test_what_a_person_proposed_is_a_line_of_its_own(briefing, experiment_of):
    test = experiment_of(8, "no_launch", -0.01, attempt=None, proposed_by="ada")
    lines, omitted = journal_lines(briefing.journal, PRODUCTION, [test])
    (own,) = [line for line in lines if line["persona"] == "ada"]
    assert (own["id"], own["outcome"], own["phi"]) == ("experime", "proposed", "080808080808")
    assert (own["online"]["verdict"], len(lines), omitted) == ("lost", 6, 0)


def test_of_several_experiments_of_an_attempt_the_latest_that_was_read_counts(briefing, experiment_of):
    tests = [
        experiment_of(4, id="c", times={"proposed": "2026-04-01"}),
        experiment_of(4, "no_launch", -0.02, id="b", times={"proposed": "2026-03-01"}),
        experiment_of(4, "superseded", 0.02, id="a", times={"proposed": "2026-02-01"}),
    ]
    lines, _ = journal_lines(briefing.journal, PRODUCTION, tests)
    assert [line["online"]["result"] for line in lines if "online" in line] == ["no_launch"]


def test_every_live_result_is_kept_however_little_room_there_is(attempt_of, experiment_of):
    journal = [attempt_of(step, "better", -0.001 * step) for step in range(1, 301)]
    tests = [experiment_of(step, "no_launch", -0.01) for step in range(1, 11)]
    lines, omitted = journal_lines(journal, PRODUCTION, tests, room=0)
    assert (steps(lines), omitted) == (set(range(1, 11)), 290)
    lines, _ = journal_lines(journal, PRODUCTION, tests, room=20_000)
    assert steps(lines) > set(range(1, 11))


def test_what_others_reported_gives_way_to_own_records(attempt_of):
    told = {"by": "ada", "when": "", "result": None, "metrics": []}
    journal = [attempt_of(step, "better", imported=told) for step in range(1, 20)]
    journal += [attempt_of(step, "worse", 0.1) for step in range(20, 40)]
    room = size(journal_lines(journal[19:], PRODUCTION)[0])
    lines, omitted = journal_lines(journal, PRODUCTION, room=room)
    assert (steps(lines), omitted) == (set(range(20, 40)), 19)


def test_a_verdict_is_what_traffic_said_and_not_what_a_person_did(experiment_of):
    launch = {"outcome": "launch", "rule": "superior_and_safe", "reason": ""}
    broken = {"outcome": "abort", "rule": "guardrail_broken", "reason": ""}
    spoiled = {"outcome": "abort", "rule": "data_quality", "reason": ""}
    told = {
        "won": [
            experiment_of(1, "launched", 0.01),
            experiment_of(1, "superseded", 0.01),
            experiment_of(1, "no_launch", decision=launch),  # a person said no, or it must win twice
            experiment_of(1, decision=launch, phase="live"),  # waits for its approval
        ],
        "lost": [experiment_of(1, "no_launch", 0.01), experiment_of(1, "aborted", decision=broken)],
        "not read": [experiment_of(1, result) for result in ("aborted", "rejected", "failed", "withdrawn")]
        + [experiment_of(1, "aborted", decision=spoiled)],
        "under way": [experiment_of(1), experiment_of(1, phase="live")],
    }
    for expected, tests in told.items():
        assert {verdict(test) for test in tests} == {expected}
