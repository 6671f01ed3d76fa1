"""Reads the JSON Schema of a Φ: is it sound, is every field described, does a document obey it.

The vocabulary is what pydantic and people write by hand (draft 2020-12: types, enums, bounds, objects,
arrays, anyOf / oneOf / allOf, local `$ref`). `format`, `not`, `if` and `unevaluated*` are not judged: a
document passes them. `defects` tells a bad schema as findings; judge a
schema by it before judging documents by the schema.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

from evorank.model.errors import Finding

__all__ = ["defects", "escape", "lookup", "resolve", "slips", "violations", "without_nulls"]

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_BOUNDS: Mapping[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": ("must be at least", lambda value, bound: value >= bound),
    "maximum": ("must be at most", lambda value, bound: value <= bound),
    "exclusiveMinimum": ("must be greater than", lambda value, bound: value > bound),
    "exclusiveMaximum": ("must be less than", lambda value, bound: value < bound),
    "multipleOf": ("must be a multiple of", lambda value, step: _multiple(value / step)),
}
_SIZES: Mapping[str, tuple[type[Sized], str, Callable[[float, float], bool]]] = {
    "minLength": (str, "must have at least this many characters:", lambda n, bound: n >= bound),
    "maxLength": (str, "must have at most this many characters:", lambda n, bound: n <= bound),
    "minItems": (list, "must have at least this many items:", lambda n, bound: n >= bound),
    "maxItems": (list, "must have at most this many items:", lambda n, bound: n <= bound),
    "minProperties": (dict, "must have at least this many fields:", lambda n, bound: n >= bound),
    "maxProperties": (dict, "must have at most this many fields:", lambda n, bound: n <= bound),
}


def escape(token: str) -> str:
    """One reference token of a JSON Pointer (RFC 6901)."""
    return token.replace("~", "~0").replace("/", "~1")


def lookup(document: Any, pointer: str) -> Any:
    """The value at a JSON Pointer; LookupError where there is none, ValueError where it is not a pointer."""
    if pointer and not pointer.startswith("/"):
        raise ValueError(f"{pointer!r} is not a JSON Pointer: it must be empty or start with '/'")
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list) and key.isdigit():
            document = document[int(key)]
        elif isinstance(document, Mapping):
            document = document[key]
        else:
            raise LookupError(pointer)
    return document


def resolve(schema: Any, root: Mapping[str, Any]) -> Any:
    """`schema` with a local `$ref` followed; keywords beside the `$ref` win. LookupError if it dangles."""
    seen: set[str] = set()
    while isinstance(schema, Mapping) and "$ref" in schema:
        reference = schema["$ref"]
        if not isinstance(reference, str) or not reference.startswith("#") or reference in seen:
            raise LookupError(f"$ref {reference!r} leads nowhere in this schema")
        seen.add(reference)
        try:
            target = lookup(root, reference[1:])
        except (LookupError, ValueError) as error:
            raise LookupError(f"$ref {reference!r} leads nowhere in this schema") from error
        if not isinstance(target, Mapping):
            return target
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def defects(schema: Any) -> list[Finding]:
    """What is wrong with the schema itself: not an object's, dangling references, undescribed fields ...

    Pointers lead into the schema.
    """
    if not isinstance(schema, Mapping) or schema.get("type") != "object" or not schema.get("properties"):
        return [Finding("", "must be a JSON Schema with type object and properties", schema)]
    return list(_defects(schema, schema, "", set()))


def _defects(schema: Any, root: Mapping[str, Any], at: str, seen: set[int]) -> Iterator[Finding]:
    if id(schema) in seen or isinstance(schema, bool):
        return
    seen.add(id(schema))
    if not isinstance(schema, Mapping):
        yield Finding(at, "must be a schema: an object or a boolean", schema)
        return
    types = schema.get("type", [])
    for name in [types] if isinstance(types, str) else types:
        if name not in _TYPES:
            yield Finding(f"{at}/type", "must be one of " + ", ".join(_TYPES), name)
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        yield Finding(f"{at}/enum", "must be a list that is not empty", schema["enum"])
    if "$ref" in schema:
        try:
            resolve(schema, root)
        except LookupError:
            yield Finding(f"{at}/$ref", "must lead to a definition in this schema", schema["$ref"])
    for keyword in ("properties", "patternProperties", "$defs", "definitions"):
        children = schema.get(keyword, {})
        if not isinstance(children, Mapping):
            yield Finding(f"{at}/{keyword}", "must be an object", children)
            continue
        for name, child in children.items():
            here = f"{at}/{keyword}/{escape(str(name))}"
            if keyword == "properties" and not _described(child, root):
                yield Finding(here, "must have a description: prompts and editors show it")
            yield from _defects(child, root, here, seen)
    for keyword in ("items", "additionalProperties", "propertyNames"):
        if keyword in schema:
            yield from _defects(schema[keyword], root, f"{at}/{keyword}", seen)
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for index, child in enumerate(schema.get(keyword, [])):
            yield from _defects(child, root, f"{at}/{keyword}/{index}", seen)


def _described(schema: Any, root: Mapping[str, Any]) -> bool:
    try:
        resolved = resolve(schema, root)
    except LookupError:
        return True  # told as a dangling reference
    return isinstance(resolved, Mapping) and bool(str(resolved.get("description") or "").strip())


def violations(
    document: Any, schema: Any, root: Mapping[str, Any] | None = None, at: str = ""
) -> list[Finding]:
    """Where `document` breaks `schema`; [] where it obeys. Pointers lead into the document."""
    root = schema if root is None else root
    try:
        schema = resolve(schema, root or {})
    except LookupError as error:
        return [Finding(at, f"cannot be judged: {error}")]
    if isinstance(schema, bool):
        return [] if schema else [Finding(at, "is not allowed", document)]
    return list(_violations(document, schema, root, at))


def _violations(value: Any, schema: Mapping[str, Any], root: Any, at: str) -> Iterator[Finding]:
    types = schema.get("type")
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, name) for name in types):
        yield Finding(at, f"must be of type {' or '.join(types)}", value)
        return
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        yield Finding(at, f"must be one of {schema['enum']}", value)
    if "const" in schema and not _same(value, schema["const"]):
        yield Finding(at, f"must be {schema['const']!r}", value)
    if _is(value, "number"):
        for keyword, (rule, holds) in _BOUNDS.items():
            if keyword in schema and not holds(value, schema[keyword]):
                yield Finding(at, f"{rule} {schema[keyword]}", value)
    for keyword, (kind, rule, holds) in _SIZES.items():
        if keyword in schema and isinstance(value, kind) and not holds(len(value), schema[keyword]):
            yield Finding(at, f"{rule} {schema[keyword]}", value)
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield Finding(at, f"must match {schema['pattern']}", value)
    if isinstance(value, dict):
        yield from _fields(value, schema, root, at)
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        for index, item in enumerate(value):
            child = first[index] if index < len(first) else schema.get("items", True)
            yield from violations(item, child, root, f"{at}/{index}")
    for child in schema.get("allOf", []):
        yield from violations(value, child, root, at)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            branches = [violations(value, child, root, at) for child in schema[keyword]]
            fits = sum(not found for found in branches)
            if not fits:
                yield from min(branches, key=lambda found: (_is_type(found, at), len(found)))
            elif keyword == "oneOf" and fits > 1:
                yield Finding(at, "must fit exactly one of the alternatives", value)


def _fields(value: Mapping[str, Any], schema: Mapping[str, Any], root: Any, at: str) -> Iterator[Finding]:
    for name in schema.get("required", []):
        if name not in value:
            yield Finding(f"{at}/{escape(name)}", "is required")
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, item in value.items():
        here = f"{at}/{escape(str(name))}"
        if "propertyNames" in schema:
            yield from violations(name, schema["propertyNames"], root, here)
        children = [known[name]] if name in known else []
        children += [child for pattern, child in patterns.items() if re.search(pattern, str(name))]
        for child in children or [schema.get("additionalProperties", True)]:
            if child is False:
                yield Finding(here, "is not a known field", None, f"Known: {', '.join(sorted(known))}.")
            else:
                yield from violations(item, child, root, here)


def _is(value: Any, name: str) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "null": value is None,
        "number": number,
        "integer": number and (isinstance(value, int) or value.is_integer()),
    }.get(name, False)


def _is_type(found: list[Finding], at: str) -> bool:
    """Whether a branch was meant for another type: the branch that was not says more about the slip."""
    return found[0].pointer == at and found[0].rule.startswith("must be of type")


def _multiple(ratio: float) -> bool:
    return math.isfinite(ratio) and math.isclose(ratio, round(ratio))


def _same(a: Any, b: Any) -> bool:
    """JSON equality: 1 == 1.0, but true is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


_NONSENSE: tuple[Any, ...] = (None, "nonsense", [], {}, True, -1_000_000_000)


def slips(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an author of patches gets wrong, as (description, document): each is invalid under `schema`.

    One slip a document: a value of another type, far out of range, or NaN; a field lacking or unknown. NaN,
    the empty object, an unknown field and what is no object count as invalid even where `schema` is silent.
    """
    for nonsense in _NONSENSE:
        yield f"{nonsense!r} as the whole Φ", copy.deepcopy(nonsense)
    yield "an unknown field", {**copy.deepcopy(document), "no_such_field": 1}
    for pointer, value in _places(document, ""):
        parent, key = _parent(pointer)
        if _is(value, "number"):
            yield f"NaN at {pointer}", _edited(document, parent, key, math.nan)
        changed = [(f"{wrong!r} at {pointer}", _edited(document, parent, key, wrong)) for wrong in _NONSENSE]
        changed += [(f"nothing at {pointer}", _edited(document, parent, key))]
        if isinstance(value, dict):
            changed += [(f"an unknown field in {pointer}", _edited(document, pointer, "no_such_field", 1))]
        yield from ((what, edited) for what, edited in changed if violations(edited, schema))


def without_nulls(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(pointer, the document without it) for each field that is null: what a format without null keeps."""
    for pointer, value in _places(document, ""):
        if value is None:
            yield pointer, _edited(document, *_parent(pointer))


def _places(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        here = f"{at}/{escape(str(key))}"
        yield here, child
        yield from _places(child, here)


def _parent(pointer: str) -> tuple[str, str]:
    head, _, token = pointer.rpartition("/")
    return head, token.replace("~1", "/").replace("~0", "~")


def _edited(document: Mapping[str, Any], parent: str, key: str, *value: Any) -> Any:
    """A deep copy of `document` with `parent`'s `key` set to `value`, or without it where none is given."""
    edited = copy.deepcopy(document)
    container = lookup(edited, parent)
    index: Any = int(key) if isinstance(container, list) else key
    if value:
        container[index] = copy.deepcopy(value[0])
    else:
        del container[index]
    return edited
