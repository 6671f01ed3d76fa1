"""asked: what an address or a form asks for, read; and what is said of one that cannot be understood."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from evorank.model.errors import EvorankError

__all__ = ["NotFoundError", "UnreadError", "given", "parsed", "read_json"]


class NotFoundError(EvorankError):
    """There is no such record."""


class UnreadError(EvorankError):
    """An address or a form that cannot be understood."""


def given(request: Request) -> dict[str, str]:
    """What the address asks for. A field that was left empty was not asked for."""
    return {name: value for name, value in request.query_params.items() if value != ""}


def read_json(text: str) -> Any:
    """A JSON Patch as somebody typed it."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UnreadError(f"`patch` is not JSON: {error}.") from error


def parsed(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """The fields of a pydantic model, and no others, from text."""
    try:
        return kind.model_validate({name: given[name] for name in kind.model_fields if name in given})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UnreadError(f"`{name}`: {first['msg']}, got {first['input']!r}.") from error
