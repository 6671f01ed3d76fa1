"""Quoting for prompts: JSON of bounded length, so that no value can flood a prompt or leave its block."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["clipped", "number", "quoted", "short", "text"]

HIDDEN = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
"""What JSON may hold as it is, and what some readers take for the end of a line, or do not show at all."""


def quoted(value: Any, indent: int | None = None) -> str:
    """The value as JSON. Line breaks of every kind and invisible characters in strings are escaped, so a
    string can neither close its own fence nor begin a line, and says what it seems to say."""
    written = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def text(value: Any, limit: int) -> str:
    """One line of at most `limit` characters; "" for None."""
    line = " ".join(HIDDEN.sub(" ", str(value or "")).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def clipped(value: Any, limit: int) -> Any:
    """The value itself while its JSON is short enough, else its long strings cut, else a note of its size."""
    if len(quoted(value)) <= limit:
        return value
    shorter = _cut(value, 300)
    return shorter if len(quoted(shorter)) <= 2 * limit else {"omitted": f"{len(quoted(value))} characters"}


def number(value: Any, digits: int = 5) -> float | None:
    """To significant digits, or None for None."""
    return None if value is None else float(f"{float(value):.{digits}g}")


def short(fingerprint: Any) -> str | None:
    """The first 12 characters of a fingerprint, or None."""
    return str(fingerprint)[:12] if fingerprint else None


def _cut(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= limit else value[: limit - 1] + "…"
    if isinstance(value, Mapping):
        return {key: _cut(item, limit) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(item, limit) for item in value]
    return value
