"""forms: what an answer must look like, in the JSON Schema that providers take, and answers read back.

Providers that enforce a schema allow less than JSON Schema: no bounds, no defaults, every property required;
some (`closed`) no objects with free names. So schemas are simplified before they are sent, and an answer is
always checked against the whole form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.messages import AIMessage
from pydantic import BaseModel, ValidationError

from evorank.graph.trouble import shortened
from evorank.model.schema import resolve

__all__ = ["delta_fields", "form_schema", "instruction", "read_answer"]

Form = TypeVar("Form", bound=BaseModel)
Schema = dict[str, Any]
DESCRIPTION = 300
"""Characters of a description on the wire: the prompt has it whole."""
CUT_OFF = ("MAX_TOKENS", "LENGTH")
WITHHELD = (
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE",  # Google
    "CONTENT_FILTER", "REFUSAL",  # OpenAI, Anthropic
)  # fmt: skip
SCALARS = ("string", "number", "boolean", "null")


# --------------------------------------------------------------------------- schemas


def form_schema(form: type[BaseModel], fields: Mapping[str, Schema], closed: bool) -> Schema:
    """A form as a provider takes it; `fields` replaces the schemas of fields by their names, at any depth."""
    whole = form.model_json_schema(by_alias=True)
    shown = _simple(whole, whole, closed, fields)
    return {"title": form.__name__, "description": _line(whole.get("description", form.__name__))} | shown


def delta_fields(schema: Mapping[str, Any], patchable: Sequence[str]) -> dict[str, Schema]:
    """What `path` and `value` of a delta are, for a patch below `patchable` of a Φ of this schema.

    Parts of Φ as wholes are left out: a delta says what changes.
    """
    scalars: set[str] = {"null"}
    objects: dict[str, Schema] = {}
    array = False
    for prefix in patchable:
        for inner in _below(_at(schema, prefix), schema, frozenset()):
            types = inner.get("type", [])
            for name in [types] if isinstance(types, str) else types:
                scalars |= {"number" if name == "integer" else name} & set(SCALARS)
                array = array or name == "array"
                if name == "object":  # what differs in its description only is one
                    told = {
                        key: value for key, value in inner.items() if key not in ("description", "default")
                    }
                    objects.setdefault(json.dumps(told, sort_keys=True), {**inner, "$root": schema})
    choices: list[Schema] = [{"type": name} for name in SCALARS if name in scalars]
    if array:
        choices.append({"type": "array", "items": {"anyOf": list(choices)}})
    return {
        "path": {
            "type": "string",
            "description": f"JSON Pointer into Φ. What is written begins with {' or '.join(patchable)}",
        },
        "value": {
            "description": "New value for add and replace, expected value for test, else null",
            "anyOf": [*choices, *objects.values()],
        },
    }


def _at(schema: Mapping[str, Any], pointer: str) -> Any:
    """The schema of what is at a JSON Pointer into Φ; {} where it says nothing."""
    here: Any = resolve(schema, schema)
    for token in pointer.split("/")[1:]:
        inside = here.get("properties", {}).get(token, here.get("additionalProperties", {}))
        here = resolve(inside, schema) if isinstance(inside, Mapping) else {}
    return here


def _below(schema: Any, root: Mapping[str, Any], seen: frozenset[str]) -> Iterator[Mapping[str, Any]]:
    """Every schema strictly inside one of an object; the one itself where it is no object."""
    if not isinstance(schema, Mapping):
        return
    if schema.get("type") != "object":
        yield schema
    children = [*schema.get("properties", {}).values(), schema.get("additionalProperties")]
    for child in [*children, *(each for name in ("anyOf", "oneOf") for each in schema.get(name, []))]:
        name = child.get("$ref", "") if isinstance(child, Mapping) else ""
        if not isinstance(child, Mapping) or name in seen:
            continue
        child = resolve(child, root)
        if child.get("type") == "object":
            yield child
        yield from _below(child, root, seen | ({name} if name else set()))


def _simple(
    schema: Any, root: Mapping[str, Any], closed: bool, fields: Mapping[str, Schema], depth: int = 0
) -> Schema:
    """A schema without references, bounds and defaults, all of whose objects say what they hold."""
    if not isinstance(schema, Mapping) or depth > 12:
        return {"type": "string"}
    root = schema.get("$root", schema if "$defs" in schema else root)
    schema = resolve(schema, root)
    known: Schema = {"description": _line(schema["description"])} if schema.get("description") else {}
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        shown = [_simple(each, root, closed, fields, depth + 1) for each in choices]
        return known | {"anyOf": _distinct(shown)}
    if "enum" in schema:
        return known | {"type": schema.get("type", "string"), "enum": list(schema["enum"])}
    if schema.get("type") == "array":
        return known | {
            "type": "array",
            "items": _simple(schema.get("items", {}), root, closed, fields, depth + 1),
        }
    if schema.get("type") == "object":
        return known | _object(schema, root, closed, fields, depth)
    types = schema.get("type")
    if isinstance(types, list):
        return known | {"anyOf": [{"type": name} for name in types]}
    return known | ({"type": types} if types else {"anyOf": [{"type": name} for name in SCALARS]})


def _object(
    schema: Mapping[str, Any], root: Mapping[str, Any], closed: bool, fields: Mapping[str, Schema], depth: int
) -> Schema:
    inner = {
        name: _simple(fields.get(name, child), root, closed, fields, depth + 1)
        for name, child in schema.get("properties", {}).items()
    }
    free = schema.get("additionalProperties")
    if isinstance(free, Mapping) and not closed:
        values = _simple(free, root, closed, fields, depth + 1)
        members = {"properties": inner, "required": [*inner]} if inner else {}
        return {"type": "object"} | members | {"additionalProperties": values}
    if isinstance(free, Mapping):  # to be written empty, and filled member by member
        return {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    return {"type": "object", "properties": inner, "required": [*inner], "additionalProperties": False}


def _distinct(schemas: Sequence[Schema]) -> list[Schema]:
    """Each alternative once; alternatives of alternatives are alternatives."""
    flat: list[Schema] = []
    for each in schemas:
        flat += each.get("anyOf", [each])
    return list({json.dumps(each, sort_keys=True): each for each in flat}.values())


def _line(text: Any) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= DESCRIPTION else line[: DESCRIPTION - 1] + "…"


# --------------------------------------------------------------------------- answers


def instruction(schema: Schema) -> str:
    """What a model is told that takes no schema."""
    return (
        "Answer with one JSON object in a fenced ```json block and nothing else. It must fit this JSON "
        f"Schema:\n{json.dumps(schema, ensure_ascii=False)}"
    )


def read_answer(raw: AIMessage, form: type[Form]) -> Form | str:
    """The answer in its form; or, in words for the model, why it is none."""
    reason = str(
        raw.response_metadata.get("finish_reason") or raw.response_metadata.get("stop_reason") or ""
    ).upper()
    if reason in CUT_OFF:
        return "it was cut off at the limit of output tokens; answer with less"
    if reason in WITHHELD:
        return f"it was withheld by the provider ({reason}); put it in other words"
    try:
        given = _arguments(raw, form.__name__)
    except ValueError as error:
        return str(error)
    try:
        return form.model_validate(given)
    except ValidationError as error:
        return _told(error)


def _arguments(raw: AIMessage, name: str) -> Any:
    """What was answered: the arguments of a tool call, or JSON in the text. ValueError says what is wrong."""
    for call in sorted(raw.tool_calls, key=lambda call: call["name"] != name):
        return call["args"]
    if raw.invalid_tool_calls:
        wrong = raw.invalid_tool_calls[0]
        raise ValueError(f"its JSON is malformed ({shortened(wrong.get('error') or wrong.get('args'), 200)})")
    text = str(raw.text).strip()
    if not text:
        raise ValueError("it was empty")
    fenced = re.findall(r"```(?:json)?\s*\n(.*?)\n?```", text, re.DOTALL)
    for candidate in (text, *reversed(fenced)):
        try:
            return json.loads(candidate)
        except json.JSONDecodeError:
            continue
    start = text.find("{")
    if start < 0:
        raise ValueError("it holds no JSON object")
    try:
        return json.JSONDecoder().raw_decode(text[start:])[0]
    except json.JSONDecodeError as error:
        raise ValueError(f"its JSON is malformed: {error}") from None


def _told(error: ValidationError) -> str:
    """The first findings of a form: field, rule, value."""
    shown = []
    for each in error.errors()[:5]:
        where = ".".join(str(part) for part in each["loc"]) or "the answer"
        message = each["msg"].removeprefix("Value error, ")
        value = "" if each["type"] in ("missing", "value_error") else f", got {shortened(each['input'], 100)}"
        shown.append(f"`{where}` {message[:1].lower() + message[1:]}{value}")
    return "; ".join(shown)
