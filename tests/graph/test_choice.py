"""Who proposes next and what: what pays off gets more turns, nothing starves, a standstill makes jumps."""

from __future__ import annotations

from collections import Counter

import pytest

from evorank.graph.choice import (
    JUMPS,
    SHARES,
    STAGNATION,
    Past,
    categories,
    choose,
    past,
    shares,
    stagnation,
)
from evorank.graph.state import Experiment, Imported, Origin

TEAM = ["optimizer", "architecture", "reward"]


def did(persona="optimizer", category="explore", payoff=0.0, **more) -> Past:
    return Past(persona, category, payoff, **({"measured": True, "turn": True} | more))


def lived(pays, steps, personas=TEAM, **how) -> list[Past]:
    """A run in which `pays(persona, category)` is every payoff."""
    known: list[Past] = []
    while len(known) < steps:
        for slot in choose(known, personas, 4, **how):
            payoff = pays(slot.persona, slot.category)
            known.append(did(slot.persona, slot.category, payoff, best=payoff > 0))
    return known


def test_while_nothing_is_known_personas_take_turns_in_their_order():
    assert [slot.persona for slot in choose([], TEAM, 7)] == [*TEAM, *TEAM, "optimizer"]


def test_while_nothing_is_measured_there_is_nothing_to_exploit():
    assert "exploit" not in categories([], "optimizer", 20)
    assert categories([did()], "optimizer", 10).count("exploit") == 5, "it catches up"


def test_categories_keep_their_shares_where_all_pay_the_same():
    found = Counter(categories([did(payoff=None, turn=False)], "optimizer", 20))
    assert found == {name: round(20 * share) for name, share in SHARES.items()}


def test_a_persona_that_pays_off_gets_more_turns_and_the_others_keep_half_of_theirs():
    known = lived(lambda persona, _: 0.5 if persona == "reward" else 0.0, 60)
    turns = Counter(each.persona for each in known[30:])
    assert turns["reward"] >= 15
    assert min(turns.values()) >= 30 // 6


def test_a_category_that_pays_off_gets_more_turns_and_none_starves():
    known = lived(lambda _, category: 0.5 if category == "exploit" else 0.0, 80, ["optimizer"])
    found = Counter(each.category for each in known[40:])
    assert found["exploit"] > 20
    assert found["innovate"] >= 4
    assert found["explore"] >= 8


def test_what_paid_long_ago_is_forgotten():
    prior = {"a": 0.5, "b": 0.5}
    early = [("a", 0.5)] * 10 + [("b", 0.0)] * 10
    assert shares(prior, early)["a"] > 0.65
    late = [*early, *[("a", 0.0), ("b", 0.5)] * 60]
    assert shares(prior, late)["a"] < 0.35


def test_shares_add_up_and_never_fall_below_their_floor():
    moved = shares(SHARES, [("explore", 1.0)] * 50 + [("exploit", 0.0)] * 50)
    assert sum(moved.values()) == pytest.approx(1.0)
    assert all(moved[name] >= share / 2 for name, share in SHARES.items())


def test_the_choice_for_a_batch_is_the_same_however_often_it_is_made():
    known = lived(lambda persona, category: 0.5 if category == "exploit" else 0.0, 37)
    assert choose(known, TEAM, 4) == choose(list(known), TEAM, 4)


def test_a_persona_that_sets_no_new_best_for_long_is_sent_to_jump():
    known = [did(payoff=0.5, best=True), *[did() for _ in range(STAGNATION)]]
    assert stagnation(known[:-1], "optimizer") == 0
    assert stagnation(known, "optimizer") == STAGNATION
    assert stagnation(known, "reward") == 0
    assert Counter(categories(known, "optimizer", 20))["innovate"] >= 20 * JUMPS["innovate"] / 2
    assert (
        Counter(categories(known, "optimizer", 20))["innovate"]
        > Counter(categories(known[:-1], "optimizer", 20))["innovate"]
    )
    assert stagnation([*known, did(best=True)], "optimizer") == 0


def test_a_persona_whose_winners_people_do_not_like_refines_them_less():
    won, lost = (
        [did(payoff=0.0, category=category, live=live) for category in SHARES for _ in range(4)]
        for live in (True, False)
    )
    assert categories(lost, "optimizer", 20).count("exploit") < categories(won, "optimizer", 20).count(
        "exploit"
    )


def test_several_that_are_asked_for_at_once_are_of_one_persona_and_may_be_fixed():
    slots = choose([], TEAM, 8, together=4, fixed={"explore": 2, "exploit": 1, "innovate": 1})
    assert [slot.persona for slot in slots] == ["optimizer"] * 4 + ["architecture"] * 4
    for group in (slots[:4], slots[4:]):
        assert Counter(slot.category for slot in group) == {"explore": 2, "exploit": 1, "innovate": 1}


def compared(difference):
    return {"metric": "log_loss", "lower_is_better": True, "difference": difference}


def test_attempts_are_read_as_payoffs(attempt):
    journal = [
        attempt(0, outcome="better", comparison=compared(-0.01), production="p"),
        attempt(1, outcome="better", comparison=compared(-0.005), production="p"),
        attempt(2, outcome="better", comparison=compared(-0.03), production="p"),
        attempt(3, outcome="worse", comparison=compared(0.01), production="p"),
        attempt(4, outcome="failed", category=None, reason="the chat model failed"),
        attempt(5, outcome="better", imported=Imported(by="ada")),
        attempt(6, outcome="refused", origin=Origin(kind="rework", surface="tiny")),
        attempt(7, run="other", outcome="cheaper", comparison=compared(0.0)),
    ]

    def test_of(number, result):
        tried = journal[number]
        return Experiment(
            id=str(number), surface="simulated", attempt=tried.id, proposed_by="optimizer", production="p",
            phi={}, fingerprint="f", result=result,
        )  # fmt: skip

    found = past(journal, [test_of(0, "launched"), test_of(2, "no_launch")], "r")
    assert [each.payoff for each in found] == [1.0, 0.1, 0.0, 0.0, None, None, 0.0, 0.5]
    assert [each.best for each in found] == [True, False, False, False, False, False, False, True]
    assert [each.live for each in found][:4] == [True, None, False, None]
    assert [each.turn for each in found] == [True, True, True, True, True, True, False, False]
