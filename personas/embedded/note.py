"""The embedded engineer's note: what the journal in the prompt teaches, counted and not reasoned.

For every place of Φ it counts the candidates that changed it and how many of them won. A candidate that
changed several places counts for each, so a place may owe its wins to another; citations let a reader look.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from evorank.personas.embedded.reading import Reading, Tried

__all__ = ["note"]

CLAIMS, CITED = 4, 6
ENOUGH = 2
"""Candidates without a win before a place counts as a dead end."""
WON = ("better", "cheaper")


def note(reading: Reading) -> dict[str, Any]:
    """The answer to `insight`: places whose changes won most surely, and those where nothing won."""
    places: dict[str, list[Tried]] = defaultdict(list)
    for tried in reading.every:
        for place in _places(tried):
            places[place].append(tried)
    won = {place: [each for each in of if _won(each)] for place, of in places.items()}
    works = sorted((place for place in places if won[place]), key=lambda place: _order(places, won, place))
    barren = sorted(
        (place for place in places if not won[place] and len(places[place]) >= ENOUGH),
        key=lambda place: (-len(places[place]), place),
    )
    return {
        "works": [_works(place, places[place], won[place]) for place in works[:CLAIMS]],
        "dead_ends": [_dead_end(place, places[place]) for place in barren[:CLAIMS]],
    }


def _places(tried: Tried) -> list[str]:
    """Where a candidate changes Φ, two names deep: deep enough to say what, shallow enough to repeat."""
    delta = tried.line["delta"]
    if not isinstance(delta, list):
        return []
    return list(dict.fromkeys("/".join(str(change["path"]).split("/")[:3]) for change in delta))


def _won(tried: Tried) -> bool:
    return tried.outcome in WON and not tried.lost_live and not tried.imported


def _order(places: dict[str, list[Tried]], won: dict[str, list[Tried]], place: str) -> tuple[float, int, str]:
    """By the share of candidates that won, one lost candidate added to each, so that one win is no law."""
    return -len(won[place]) / (1 + len(places[place])), -len(won[place]), place


def _works(place: str, tried: Sequence[Tried], won: Sequence[Tried]) -> dict[str, Any]:
    metric = won[0].line.get("metric")  # a loss and a correlation have no common scale
    gains = [(each.gain, each) for each in won if each.gain is not None and each.line["metric"] == metric]
    best = max(gains, key=lambda pair: pair[0])[1] if gains else won[0]
    said = f"Counted: {len(won)} of {len(tried)} candidates that changed {place} won"
    if best.gain is not None:
        said += f"; the best, {best.line['id']}, gained {best.gain:+.4g} in {best.line['metric']}"
    return {"claim": said + ".", "cites": [str(each.line["id"]) for each in won[:CITED]]}


def _dead_end(place: str, tried: Sequence[Tried]) -> dict[str, Any]:
    counts = Counter("lost live" if each.lost_live else each.outcome for each in tried)
    ends = ", ".join(f"{count} {end}" for end, count in sorted(counts.items()))
    said = f"Counted: none of {len(tried)} candidates that changed {place} won ({ends})."
    return {"claim": said, "cites": [str(each.line["id"]) for each in tried[:CITED]]}
