"""table: records that are filtered, searched, sorted and cut into pages here: of however many, a browser gets
one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import Field

from evorank.ui.views.common import View

__all__ = ["Columns", "Page", "Query", "Table", "choices", "having"]

PER_PAGE = 50
Record = TypeVar("Record")


class Columns(View):
    """What records must have: a field for each column that is filtered by. null: any."""


class Query(View):
    """What a table shows besides that."""

    sort: str = "newest"
    q: str = Field(default="", max_length=500, description="Words that must all occur, case ignored")
    page: int = Field(default=1, ge=1, le=1_000_000)
    per: int = Field(default=PER_PAGE, ge=1, le=500, description="Rows of a page")


@dataclass(frozen=True)
class Page(Generic[Record]):
    """One page of the records that a query asks for."""

    rows: Sequence[Record]
    number: int
    """Of the page, from 1: the last one where fewer are left than asked for."""
    pages: int
    total: int
    """Records that match, on all pages."""


@dataclass(frozen=True)
class Table(Generic[Record]):
    """How records of one kind are looked at."""

    records: Sequence[Record]
    """Oldest first."""
    columns: type[Columns]
    value: Callable[[Record, str], object]
    """What a record has in a column; nothing counts as `none`."""
    text: Callable[[Record], str]
    """What a search looks at, in small letters."""
    orders: Mapping[str, Callable[[Record], Any]]
    """`sort` -> key, smallest first; equal ones newest first. `newest` and `oldest` are known."""

    def matching(self, query: Query) -> list[Record]:
        """All records of a query, in its order; `query` is one of this table's `columns` as well."""
        columns = self.columns(**query.model_dump(include=set(self.columns.model_fields)))
        found = having(self.records, columns, self.value)
        if words := query.q.lower().split():
            found = [each for each in found if all(word in self.text(each) for word in words)]
        if query.sort == "oldest":
            return found
        found.reverse()
        if query.sort != "newest":
            found.sort(key=self.orders[query.sort])
        return found

    def page(self, query: Query) -> Page[Record]:
        found = self.matching(query)
        pages = max(1, -(-len(found) // query.per))
        number = min(query.page, pages)
        begin = (number - 1) * query.per
        return Page(found[begin : begin + query.per], number, pages, len(found))

    def choices(self) -> dict[str, list[str]]:
        return choices(self.records, self.columns, self.value)


def having(
    records: Sequence[Record], columns: Columns, value: Callable[[Record, str], object] = getattr
) -> list[Record]:
    """The records with the values that are asked for, in their order."""
    wanted = {name: asked for name, asked in columns.model_dump().items() if asked is not None}
    return [
        each for each in records if all(_told(value(each, name)) == asked for name, asked in wanted.items())
    ]


def choices(
    records: Sequence[Record], columns: type[Columns], value: Callable[[Record, str], object] = getattr
) -> dict[str, list[str]]:
    """What may be filtered by: column -> values that occur, sorted."""
    return {name: sorted({_told(value(each, name)) for each in records}) for name in columns.model_fields}


def _told(value: object) -> str:
    return str(value or "none")
