from __future__ import annotations

import datetime

import pytest
from pydantic import ValidationError

from evorank.graph.prices import Price, Prices
from evorank.graph.state import Usage

PRICE = Price(
    input=1.25, cached=0.125, output=10, long={"over": 200_000, "input": 2.5, "cached": 0.25, "output": 15}
)


def test_the_cost_of_a_call_is_fresh_input_cached_input_and_output():
    usage = Usage(input_tokens=10_000, cached_tokens=8_000, output_tokens=1_000, thinking_tokens=900)
    assert PRICE.usd(usage) == pytest.approx((2_000 * 1.25 + 8_000 * 0.125 + 1_000 * 10) / 1e6)


def test_a_long_prompt_has_other_rates_for_all_of_it():
    usage = Usage(input_tokens=300_000, cached_tokens=100_000, output_tokens=1_000)
    assert PRICE.usd(usage) == pytest.approx((200_000 * 2.5 + 100_000 * 0.25 + 1_000 * 15) / 1e6)


def test_what_is_written_to_a_cache_may_cost_more():
    price = Price(input=3, cached=0.3, written=3.75, output=15)
    usage = Usage(input_tokens=10_000, cached_tokens=2_000, output_tokens=0)
    assert price.usd(usage, written=5_000) == pytest.approx((3_000 * 3 + 2_000 * 0.3 + 5_000 * 3.75) / 1e6)
    assert Price(input=3, output=15).usd(usage) == pytest.approx(10_000 * 3 / 1e6)


def test_what_was_not_reported_has_no_cost_unless_nothing_has():
    assert PRICE.usd(Usage(input_tokens=10)) is None
    assert Price(input=0, output=0).usd(Usage()) == 0


def test_the_table_has_a_date_and_knows_a_version_by_its_models_name():
    prices = Prices()
    datetime.date.fromisoformat(prices.as_of)
    pro = prices.of("google_genai:gemini-2.5-pro")
    assert pro.long.over == 200_000
    assert prices.of("google_genai:models/gemini-2.5-pro") == pro
    assert prices.of("openai:gpt-5-2025-08-07") == prices.of("openai:gpt-5")
    assert prices.of("anthropic:claude-sonnet-4-5-20250929") == prices.of("anthropic:claude-sonnet-4-5")


@pytest.mark.parametrize("name", ["openai:gpt-5-pro", "google_genai:gemini-2.5-pro-tts", "openai:mine", "x"])
def test_a_model_that_is_not_in_the_table_has_no_price_whatever_its_name_begins_with(name):
    assert Prices().of(name) is None


def test_who_sends_no_bill_is_free():
    for name in ("ollama:qwen3", "embedded"):
        assert Prices().of(name).usd(Usage(input_tokens=1_000_000, output_tokens=1)) == 0


def test_own_prices_come_first():
    own = {"openai:mine": Price(input=1, output=2), "openai:gpt-5": Price(input=9, output=9)}
    assert Prices(own).of("openai:mine").output == 2
    assert Prices(own).of("openai:gpt-5").input == 9
    with pytest.raises(ValidationError):
        Price(input=-1, output=2)
