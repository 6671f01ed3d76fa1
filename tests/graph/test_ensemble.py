from __future__ import annotations

from collections import Counter

from evorank.graph.ensemble import choose, incomparable
from evorank.graph.prices import Price, Prices
from evorank.graph.state import Usage

PRICES = Prices({"p:cheap": Price(input=1, output=1), "p:dear": Price(input=20, output=20)})
BOTH = ("p:cheap", "p:dear")


def made(attempt, model, outcomes, usd, **more):
    return [
        attempt(step, model=model, outcome=outcome, usage=Usage(calls=3, usd=usd, **more))
        for step, outcome in enumerate(outcomes)
    ]


def shares(journal, names=BOTH, prices=PRICES):
    return Counter(choose(names, journal, seed, prices) for seed in range(200))


def test_the_same_journal_and_seed_choose_the_same(attempt):
    journal = made(attempt, "p:cheap", ["better", "worse"], 0.01)
    assert shares(journal) == shares(journal)
    assert choose(("p:dear",), journal, 0, PRICES) == "p:dear"


def test_of_two_that_nobody_knows_the_cheaper_is_tried_more_and_both_are(attempt):
    found = shares([])
    assert found["p:cheap"] > found["p:dear"] > 0


def test_what_wins_more_for_its_money_is_chosen_more(attempt):
    always = ["better"] * 30
    never = ["worse"] * 30
    dear_wins = made(attempt, "p:dear", always, 0.05) + made(attempt, "p:cheap", never, 0.04)
    assert shares(dear_wins)["p:dear"] > 190
    rarely = made(attempt, "p:dear", always, 5.0) + made(attempt, "p:cheap", ["better", "worse"] * 15, 0.04)
    assert shares(rarely)["p:cheap"] > 190, "twice as good at a hundred times the price"


def test_free_models_are_not_infinitely_good(attempt):
    prices = Prices({"p:dear": Price(input=1, output=1)})
    journal = made(attempt, "ollama:small", ["worse"] * 40, 0.0) + made(
        attempt, "p:dear", ["better"] * 40, 0.02
    )
    assert shares(journal, ("ollama:small", "p:dear"), prices)["p:dear"] > 190


def test_a_providers_failures_do_not_count_against_what_its_model_proposes(attempt):
    failures = made(attempt, "p:cheap", ["failed"] * 50, None, failures=1)
    assert shares(failures) == shares([])
    assert shares(made(attempt, "p:cheap", ["failed"] * 50, 0.05)) != shares([])


def test_without_a_price_money_is_left_out_for_all(attempt):
    names = ("p:cheap", "p:unknown")
    assert incomparable(names, PRICES) == ["p:unknown"]
    wins = made(attempt, "p:unknown", ["better"] * 30, None) + made(attempt, "p:cheap", ["worse"] * 30, 0.04)
    assert shares(wins, names)["p:unknown"] > 190
