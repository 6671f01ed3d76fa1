"""Pydantic's complaints as findings: a JSON Pointer, the rule, the value seen, and what the field is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from evorank.model.errors import Finding
from evorank.model.syntax import did_you_mean, escape

__all__ = ["findings_of"]

_RULES: Mapping[str, str] = {
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "list_type": "must be a list",
    "finite_number": "must be finite",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


def findings_of(error: ValidationError, model: type[BaseModel], document: Any) -> list[Finding]:
    """Every complaint of `model.model_validate(document)`, one per place; hints are field descriptions."""
    found: dict[str, Finding] = {}
    for problem in error.errors(include_url=False, include_context=True):
        location = _place(problem["loc"], document, problem["type"])
        finding = _finding(model, location, dict(problem))
        found.setdefault(finding.pointer, finding)
    return list(found.values())


def _finding(model: type[BaseModel], location: list[Any], problem: Mapping[str, Any]) -> Finding:
    pointer = "".join(f"/{escape(str(part))}" for part in location)
    if problem["type"] == "extra_forbidden":
        holder, _ = _at(model, location[:-1])
        return Finding(pointer, "is not a field of Φ", location[-1], did_you_mean(str(location[-1]), holder))
    _, description = _at(model, location)
    hint = f"{description}." if description else ""
    if problem["type"] == "missing":
        return Finding(pointer, "is required", hint=hint)
    message = str(problem["msg"]).replace("Input should", "must")
    rule = _RULES.get(problem["type"], message[:1].lower() + message[1:])
    if len(location) < len(problem["loc"]):
        rule = "has a value of a kind that does not fit"  # every branch of a union complained
    return Finding(pointer, rule, problem["input"], hint)


def _place(location: tuple[Any, ...], document: Any, kind: str) -> list[Any]:
    """The part of a pydantic location that is a place in the document: union branches have no place."""
    place: list[Any] = []
    here = document
    for part in location:
        keys = here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        if part in keys:
            here = here[part]
        elif kind == "missing":
            return [*place, part]
        else:
            return place
        place.append(part)
    return place


def _at(model: type[BaseModel], location: list[Any]) -> tuple[list[str], str]:
    """Fields of the model that a location leads to, and the description of the last field on the way."""
    holder: type[BaseModel] | None = model
    description = ""
    for part in location:
        field = holder.model_fields.get(str(part)) if holder else None
        if field is None:
            continue  # a key of a mapping: what it holds is the model at hand
        description = field.description or ""
        nested = [
            kind
            for kind in _types(field.annotation)
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        holder = nested[0] if nested else None
    return list(holder.model_fields) if holder else [], description


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _types(inner)
