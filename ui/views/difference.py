"""difference: two configurations side by side, a line for each field, code line by line.

A Φ is JSON of any system; nothing here knows what a field means.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from evorank.model.system import Phi
from evorank.ui.views.common import View

__all__ = ["Difference", "FieldChange", "Line", "flat", "side_by_side"]

Kind = Literal["same", "changed", "added", "removed"]
CONTEXT = 3
"""Unchanged lines of code that are shown around changed ones."""


class Line(View):
    """A line of code on both sides. number: from 1; null where the side has none."""

    kind: Kind | Literal["gap"]
    before: str
    after: str
    before_number: int | None = None
    after_number: int | None = None


class FieldChange(View):
    """One field of the configuration that differs."""

    path: str
    kind: Kind
    before: str | None
    after: str | None
    code: bool = Field(default=False, description="It is text of several lines")
    lines: list[Line] = Field(default_factory=list, description="Of changed code, side by side")


class Difference(View):
    """What separates a candidate from another Φ."""

    against: Literal["parent", "production"]
    name: str = Field(description="What it is compared with, in words")
    attempt: str | None = Field(default=None, description="The attempt that this is, if it is one")
    known: bool = Field(description="False: that Φ is not known here")
    fields: list[FieldChange]
    same: int = Field(description="Fields that do not differ")


def flat(phi: Any, prefix: str = "") -> dict[str, str]:
    """Path -> value as text, for every leaf; an empty object or list is a leaf."""
    if isinstance(phi, Mapping) and phi:
        found: dict[str, str] = {}
        for name, value in phi.items():
            found |= flat(value, f"{prefix}.{name}" if prefix else str(name))
        return found
    if isinstance(phi, list) and any(isinstance(each, Mapping | list) for each in phi):
        found = {}
        for number, value in enumerate(phi):
            found |= flat(value, f"{prefix}[{number}]")
        return found
    return {prefix: phi if isinstance(phi, str) else json.dumps(phi, ensure_ascii=False)}


def side_by_side(before: Phi, after: Phi) -> tuple[list[FieldChange], int]:
    """The fields that differ, in the order of `after`, then those that are gone; how many are the same."""
    old, new = flat(before), flat(after)
    fields, same = [], 0
    for path in [*new, *(path for path in old if path not in new)]:
        one, two = old.get(path), new.get(path)
        if one == two:
            same += 1
            continue
        if path not in new and one in EMPTY and _below(path, new):
            continue  # it has fields now, and these are told
        if path not in old and two in EMPTY and _below(path, old):
            continue
        kind: Kind = "added" if one is None else "removed" if two is None else "changed"
        several = "\n" in (one or "") or "\n" in (two or "")
        lines = _lines(one, two) if several and kind == "changed" else []
        fields.append(FieldChange(path=path, kind=kind, before=one, after=two, code=several, lines=lines))
    return fields, same


EMPTY = ("{}", "[]", "null")


def _below(path: str, fields: Mapping[str, str]) -> bool:
    return any(each.startswith((f"{path}.", f"{path}[")) for each in fields)


def _lines(before: str | None, after: str | None) -> list[Line]:
    old, new = ((text or "").rstrip("\n").split("\n") if text else [] for text in (before, after))
    found: list[Line] = []
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for position, (kind, a, b, c, d) in enumerate(blocks):
        if kind == "equal":
            keep = set(range(b - a))
            if b - a > 2 * CONTEXT + 1:
                head = set() if position == 0 else set(range(CONTEXT))
                tail = set() if position == len(blocks) - 1 else set(range(b - a - CONTEXT, b - a))
                keep = head | tail
            skipped = False
            for step in range(b - a):
                if step in keep:
                    found.append(_line("same", old[a + step], new[c + step], a + step + 1, c + step + 1))
                elif not skipped:
                    skipped = True
                    found.append(Line(kind="gap", before="", after=""))
            continue
        for step in range(max(b - a, d - c)):
            one = old[a + step] if a + step < b else None
            two = new[c + step] if c + step < d else None
            what: Kind = "added" if one is None else "removed" if two is None else "changed"
            found.append(
                Line(
                    kind=what,
                    before=one or "",
                    after=two or "",
                    before_number=a + step + 1 if one is not None else None,
                    after_number=c + step + 1 if two is not None else None,
                )
            )
    return found


def _line(kind: Kind, before: str, after: str, one: int, two: int) -> Line:
    return Line(kind=kind, before=before, after=after, before_number=one, after_number=two)
