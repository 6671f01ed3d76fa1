from __future__ import annotations

from types import SimpleNamespace

import pytest

from evorank.graph import spending as spendings
from evorank.graph.spending import Account, Budget, Spending, by_model
from evorank.graph.state import Usage

COST = Usage(calls=1, input_tokens=1000, output_tokens=100, usd=0.25)


def limits(**given):
    names = ("max_calls", "max_tokens", "max_usd", "max_minutes")
    return SimpleNamespace(**dict.fromkeys(names) | given)


def test_calls_are_kept_in_order_for_every_process_and_summed_per_run(open_store):
    spending = Spending(open_store(), "home")
    optimizer = Account(run="r", step=0, persona="optimizer")
    spending.note(optimizer, "think", "a:b", COST, 1.23456)
    spending.note(optimizer.model_copy(update={"step": 1}), "code", "a:b", COST, 2)
    spending.note(Account(persona="strategist"), "strategist", "c:d", Usage(calls=1, unreported=1), 3)
    spending.note(Account(run="r", step=1, persona="linter"), "linter", "c:d", Usage(failures=1), 0)
    other = Spending(open_store(), "home")
    assert [(call.role, call.step, call.seconds) for call in other.calls("r")] == [
        ("think", 0, 1.235), ("code", 1, 2.0), ("linter", 1, 0.0),
    ]  # fmt: skip
    assert [call.role for call in other.calls("r", step=1)] == ["code", "linter"]
    assert [call.role for call in other.calls(None)] == ["strategist"]
    assert other.total("r") == Usage(calls=2, input_tokens=2000, output_tokens=200, usd=0.5, failures=1)
    assert Spending(open_store(), "another").calls("r") == []
    rows = by_model(other.calls("r"))
    assert [(row["persona"], row["model"], row["usage"].calls) for row in rows] == [
        ("linter", "c:d", 0), ("optimizer", "a:b", 2),
    ]  # fmt: skip


def test_what_is_not_reported_is_not_zero_in_a_sum():
    total = COST + Usage(calls=1, unreported=1, unpriced=1)
    assert (total.input_tokens, total.cached_tokens, total.usd) == (1000, None, 0.25)
    assert (total.unreported, total.unpriced) == (1, 1)
    assert (Usage(cpu_seconds=1.5) + Usage(cpu_seconds=2)).input_tokens is None


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ({"max_calls": 2}, "budget: 2 of 2 calls spent"),
        ({"max_tokens": 2000}, "budget: 2,200 of 2,000 tokens spent"),
        ({"max_usd": 0.5}, "budget: 0.5 of 0.5 dollars spent"),
    ],
)
def test_a_budget_is_spent_when_it_is_reached_and_not_before(open_store, limit, told):
    spending = Spending(open_store(), "home")
    budget = Budget(limits(**limit), spending)
    spending.note(Account(run="r"), "think", "a:b", COST, 0)
    assert budget.spent("r") is None
    spending.note(Account(run="r"), "think", "a:b", COST, 0)
    assert budget.spent("r") == told
    assert budget.spent("another") is None
    assert Budget(limits(), spending).spent("r") is None
    assert Budget(limits(**limit), Spending(open_store(), "home")).spent("r") == told, "after a restart too"


def test_a_limit_cannot_be_kept_over_what_nobody_knows(open_store):
    spending = Spending(open_store(), "home")
    spending.note(Account(run="r"), "think", "a:b", Usage(calls=1, unreported=1, unpriced=1), 0)
    assert "1 answers came without their tokens" in Budget(limits(max_tokens=10**9), spending).spent("r")
    assert "1 answers came without their cost" in Budget(limits(max_usd=10**9), spending).spent("r")
    assert Budget(limits(max_calls=2), spending).spent("r") is None


def test_minutes_count_from_when_this_process_took_the_run_up(open_store, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(spendings, "time", SimpleNamespace(monotonic=lambda: now[0]))
    budget = Budget(limits(max_minutes=2), Spending(open_store(), "home"))
    now[0] += 119
    assert budget.spent("r") is None
    now[0] += 1
    assert budget.spent("r") == "budget: 2.0 of 2.0 minutes spent"
    budget.begin()
    assert budget.spent("r") is None
