"""How long a prompt is, and how much of a journal fits into it.

Tokens are counted without a tokenizer, since each provider has another: one for every three characters.
JSON with numbers and pointers comes to about that, prose to four, so a prompt is rather shorter than said.

Of a journal that does not fit, every result of a live test is kept, then the head and the tail: from the
best downwards into `HEAD` of the room that is left, and into the rest of it the newest of the others, most of
which lost, were refused or failed: they say where not to go. What was imported has the room that own records
leave. What is left out lies between the head and the tail, and the prompt says how much that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from evorank.prompts.quoted import quoted

__all__ = ["CHARACTERS", "HEAD", "TASK", "shortened", "tokens"]

CHARACTERS = 3
"""Of a token."""
TASK = 8_000
"""Tokens kept for the end of a prompt, a quarter of it at most: base Φ, proposal and delta are not cut."""
HEAD = 0.7

Entry = TypeVar("Entry")
Line = dict[str, Any]


def tokens(text: str) -> int:
    """About how many tokens a text is."""
    return math.ceil(len(text) / CHARACTERS)


def shortened(
    ranked: Sequence[Entry],
    room: int,
    line: Callable[[Entry], Line],
    *,
    always: Callable[[Entry], bool],
    told: Callable[[Entry], bool],
    newness: Callable[[Entry], str],
) -> list[Line]:
    """The lines of entries, best first, that fit into `room` tokens, in the order given.

    `always`: entries that are kept even where they do not fit; `told`: those that others reported, the first
    to give way; `newness`: sorts them by time.
    """
    lines: dict[int, Line] = {}

    def take(places: Iterable[int], left: float) -> tuple[list[int], float]:
        """Those that fit, in order, until one does not; and what is left of the room."""
        taken = []
        for place in places:
            if place not in lines:
                lines[place] = line(ranked[place])
            size = tokens(quoted(lines[place]) + "\n")
            if size > left:
                break
            taken.append(place)
            left -= size
        return taken, left

    own = [place for place, entry in enumerate(ranked) if not told(entry)]
    kept, _ = take((place for place in own if always(ranked[place])), math.inf)
    left = room - sum(tokens(quoted(lines[place]) + "\n") for place in kept)
    others = [place for place in own if not always(ranked[place])]
    imported = [place for place, entry in enumerate(ranked) if told(entry)]
    fitting, rest = take(others, left)
    if len(fitting) < len(others):
        fitting, rest = take(others, HEAD * left)
        rest += (1 - HEAD) * left
        newest = sorted(others[len(fitting) :], key=lambda place: newness(ranked[place]), reverse=True)
        tail, rest = take(newest, rest)
        fitting += tail
    reported, _ = take(imported, rest)
    return [lines[place] for place in sorted({*kept, *fitting, *reported})]
