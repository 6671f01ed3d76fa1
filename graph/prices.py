"""prices: what a call to a chat model costs, from one dated table that settings may override.

A price that is not known is None and never zero: a sum that leaves it out says so.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.state import Usage

__all__ = ["FREE", "Price", "Prices"]

LOCAL = ("embedded", "evorank-embedded-engineer", "ollama")
"""Providers that send no bill."""
DATED = re.compile(r"-(latest|\d{3}|\d{8}|\d{4}-\d{2}-\d{2})$")
"""How providers name one version of a model; its price is the model's."""
PER = 1_000_000


class _Rates(BaseModel):
    """US dollars per million tokens."""

    model_config = ConfigDict(extra="forbid")
    input: float = Field(ge=0, description="Tokens read")
    output: float = Field(ge=0, description="Tokens written, thinking among them")
    cached: float | None = Field(
        default=None, ge=0, description="Tokens read from the provider's cache; empty: as input"
    )
    written: float | None = Field(
        default=None, ge=0, description="Tokens written to that cache; empty: as input"
    )


class _Long(_Rates):
    """The rates of a call with a long prompt."""

    over: int = Field(ge=1, description="Tokens of the prompt beyond which these rates hold for all of it")


class Price(_Rates):
    """The rates of a model."""

    long: _Long | None = Field(default=None, description="Other rates for long prompts, where there are any")

    def usd(self, usage: Usage, written: int = 0) -> float | None:
        """Dollars of one call; None where its tokens were not reported and are not free.

        `written`: of the input, tokens that were written to the provider's cache.
        """
        if not (self.input or self.output):
            return 0.0
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        rates: _Rates = self.long if self.long and usage.input_tokens > self.long.over else self
        cached = usage.cached_tokens or 0
        fresh = max(0, usage.input_tokens - cached - written)
        reading = fresh * rates.input + usage.output_tokens * rates.output
        reading += cached * (rates.input if rates.cached is None else rates.cached)
        reading += written * (rates.input if rates.written is None else rates.written)
        return reading / PER


FREE = Price(input=0, output=0)


class Prices:
    """The table, with a run's own prices on top: name of a model as provider:model -> Price."""

    def __init__(self, own: Mapping[str, Price] | None = None) -> None:
        self.as_of, self._known = _table()
        self._own = dict(own or {})

    def of(self, model: str) -> Price | None:
        """A model's price; None: not known. A version by its date or number costs what its model costs."""
        provider, _, name = model.partition(":")
        plain = f"{provider}:{name.removeprefix('models/')}"
        for each in (model, plain, DATED.sub("", plain)):
            if each in self._own:
                return self._own[each]
            if each in self._known:
                return self._known[each]
        return FREE if provider in LOCAL else None


@cache
def _table() -> tuple[str, dict[str, Price]]:
    read = tomllib.loads(files("evorank.graph").joinpath("prices.toml").read_text())
    return read["as_of"], {name: Price.model_validate(rates) for name, rates in read["prices"].items()}
