"""Deltas: a JSON Patch in, a candidate Φ out, or a refusal that says where and why.

Also what makes two candidates the same: `fingerprint`, SHA-256 of the canonical JSON. Nothing here knows
what Φ means; that is the system's `check`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jsonpatch
import jsonpointer

from evorank.model.errors import Finding, RefusedDelta
from evorank.model.syntax import did_you_mean, escape
from evorank.model.system import Phi

__all__ = ["apply_delta", "canonical", "check_json", "diff", "fingerprint"]

MAX_OPERATIONS = 200
MAX_DEPTH = 32
MAX_NODES = 20_000
MAX_CHARACTERS = 256_000  # of a Φ's canonical JSON, and of all strings of a patch
MAX_INTEGER = 2**53  # beyond it, JSON readers disagree about integers

_NEEDS: Mapping[str, tuple[str, ...]] = {
    "add": ("value",),
    "remove": (),
    "replace": ("value",),
    "move": ("from",),
    "copy": ("from",),
    "test": ("value",),
}
Tokens: TypeAlias = tuple[str, ...]


# --------------------------------------------------------------------------- what JSON is


def check_json(document: Any, pointer: str = "") -> list[Finding]:
    """Why a value is not JSON that every store and reader agrees on; [] means it is.

    Refused: NaN and infinities, keys that are not strings, integers beyond 2^53, text that is not
    Unicode, nesting beyond 32, more than 20,000 values. Stops at the first finding of a kind that blows up.
    """
    findings: list[Finding] = []
    todo: list[tuple[Any, str, int]] = [(document, pointer, 0)]
    nodes = characters = 0
    while todo:
        value, where, depth = todo.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            return [*findings, Finding(where[:200], f"must not be nested more than {MAX_DEPTH} deep")]
        if nodes > MAX_NODES:
            return [*findings, Finding(pointer, f"must not hold more than {MAX_NODES} values")]
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str):
                    findings.append(Finding(where, "must have text as keys", type(key).__name__))
                elif not _is_text(key):
                    findings.append(Finding(where, "must have keys of Unicode text without NUL", key))
                else:
                    characters += len(key)
                    todo.append((inner, f"{where}/{escape(key)}", depth + 1))
        elif isinstance(value, list):
            todo.extend((inner, f"{where}/{index}", depth + 1) for index, inner in enumerate(value))
        elif isinstance(value, str):
            characters += len(value)
            if not _is_text(value):
                findings.append(Finding(where, "must be Unicode text without NUL", value))
        else:
            findings.extend(_check_scalar(value, where))
        if characters > MAX_CHARACTERS:
            return [*findings, Finding(pointer, f"must not hold more than {MAX_CHARACTERS} characters")]
    return findings


def _check_scalar(value: Any, where: str) -> list[Finding]:
    if value is None or isinstance(value, bool):
        return []
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            digits = value.bit_length() * 3 // 10  # printing it could be refused by Python itself
            return [Finding(where, "must be an integer within ±2^53", f"about {digits} digits")]
        return []
    if isinstance(value, float):
        return [] if math.isfinite(value) else [Finding(where, "must be a finite number", value)]
    return [
        Finding(where, "must be JSON: object, array, text, number, true, false or null", type(value).__name__)
    ]


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


# --------------------------------------------------------------------------- identity


def canonical(phi: Phi) -> str:
    """The one JSON text of Φ: keys sorted, no spaces, ASCII, integer-valued floats as integers.

    RefusedDelta if Φ is not JSON (see check_json).
    """
    findings = check_json(phi)
    if findings:
        raise RefusedDelta(findings)
    return _dumps(phi)


def fingerprint(phi: Phi) -> str:
    """SHA-256 of canonical(phi), 64 hex digits: equal exactly for equal candidates."""
    return hashlib.sha256(canonical(phi).encode()).hexdigest()


def _dumps(value: Any) -> str:
    return json.dumps(_normal(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _normal(value: Any) -> Any:
    """A deep copy in which integer-valued floats are integers."""
    if isinstance(value, dict):
        return {key: _normal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normal(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    return value


# --------------------------------------------------------------------------- patches


def apply_delta(
    phi: Phi, patch: Sequence[Mapping[str, Any]], allowed_prefixes: Sequence[str] | None = None
) -> Phi:
    """Φ after an RFC 6902 patch; `phi` itself is left alone. All operations apply, or none.

    `allowed_prefixes`: JSON Pointers below which (or at which) the patch may write; `test` and the source
    of a `copy` may be anywhere. `test` compares JSON values: 1 equals 1.0 but not true.

    Raises RefusedDelta, and nothing else whatever `patch` holds; findings point into Φ, or into the patch
    as /patch/INDEX where an operation is malformed.
    """
    operations = _operations(patch)
    if allowed_prefixes is not None:
        _check_prefixes(operations, [_tokens(prefix) for prefix in allowed_prefixes])
    if findings := check_json(phi):
        raise RefusedDelta(findings)
    result = copy.deepcopy(phi)
    for operation in operations:
        result = _applied(result, operation)
        if operation["op"] in ("add", "copy", "replace") and (findings := check_json(result)):
            raise RefusedDelta(findings)  # after every growth: fifty copies of the whole double fifty times
    return result


def diff(a: Phi, b: Phi) -> list[dict[str, Any]]:
    """The operations (add, remove, replace) that turn Φ `a` into `b`, one per changed field, sorted by path.

    Lists are replaced whole. apply_delta(a, diff(a, b)) has the fingerprint of b; equal Φ's give [].
    """
    operations: list[dict[str, Any]] = []
    _diff(_checked(a), _checked(b), "", operations)
    return operations


def _checked(phi: Phi) -> Phi:
    if findings := check_json(phi):
        raise RefusedDelta(findings)
    return phi


def _diff(a: Mapping[str, Any], b: Mapping[str, Any], path: str, operations: list[dict[str, Any]]) -> None:
    for key in sorted({*a, *b}):
        where = f"{path}/{escape(key)}"
        if key not in b:
            operations.append({"op": "remove", "path": where})
        elif key not in a:
            operations.append({"op": "add", "path": where, "value": copy.deepcopy(b[key])})
        elif isinstance(a[key], dict) and isinstance(b[key], dict):
            _diff(a[key], b[key], where, operations)
        elif _dumps(a[key]) != _dumps(b[key]):
            operations.append({"op": "replace", "path": where, "value": copy.deepcopy(b[key])})


def _operations(patch: Any) -> list[dict[str, Any]]:
    """A deep copy of a well-formed patch; RefusedDelta otherwise."""
    if not isinstance(patch, list | tuple):
        raise RefusedDelta([Finding("/patch", "must be a list of operations", type(patch).__name__)])
    if len(patch) > MAX_OPERATIONS:
        raise RefusedDelta([Finding("/patch", f"must have at most {MAX_OPERATIONS} operations", len(patch))])
    if findings := check_json(list(patch), "/patch"):
        raise RefusedDelta(findings)
    findings = []
    for index, operation in enumerate(patch):
        findings.extend(_malformed(operation, f"/patch/{index}"))
    if findings:
        raise RefusedDelta(findings)
    return [copy.deepcopy(operation) for operation in patch]


def _malformed(operation: Any, where: str) -> list[Finding]:
    if not isinstance(operation, dict):
        return [Finding(where, "must be an object with op and path", operation)]
    op = operation.get("op")
    if not isinstance(op, str) or op not in _NEEDS:
        return [Finding(f"{where}/op", f"must be one of {', '.join(_NEEDS)}", op)]
    findings = []
    for member in ("path", *_NEEDS[op]):
        if member not in operation:
            findings.append(Finding(f"{where}/{member}", f"is required by {op}"))
        elif member != "value":
            try:
                if not _tokens(operation[member]) and op != "test":
                    findings.append(
                        Finding(f"{where}/{member}", "must not be the whole of Φ; patch its fields")
                    )
            except ValueError as error:
                findings.append(
                    Finding(f"{where}/{member}", str(error), operation[member], "Try /optimizer/args/lr.")
                )
    return findings


def _check_prefixes(operations: list[dict[str, Any]], prefixes: list[Tokens]) -> None:
    findings = []
    for operation in operations:
        written = {"test": (), "move": ("path", "from")}.get(operation["op"], ("path",))
        for member in written:
            tokens = _tokens(operation[member])
            if not any(tokens[: len(prefix)] == prefix for prefix in prefixes):
                allowed = ", ".join(_pointer(prefix) for prefix in prefixes) or "nothing"
                findings.append(
                    Finding(
                        operation[member],
                        "is outside what this persona may patch",
                        hint=f"Allowed: {allowed}.",
                    )
                )
    if findings:
        raise RefusedDelta(findings)


def _applied(document: Any, operation: dict[str, Any]) -> Any:
    op, path = operation["op"], operation["path"]
    if op == "test":
        found = _resolve(document, path)
        if _dumps(found) != _dumps(operation["value"]):
            raise RefusedDelta([Finding(path, f"failed its test for {_brief(operation['value'])}", found)])
        return document
    if op in ("move", "copy"):
        _resolve(document, operation["from"])
    if op in ("remove", "replace"):
        _resolve(document, path)
    else:
        parent = _resolve(document, _pointer(_tokens(path)[:-1]))
        if not isinstance(parent, dict | list):
            raise RefusedDelta([Finding(path, "has a parent that is neither object nor array", parent)])
    try:
        return jsonpatch.JsonPatch([operation]).apply(document, in_place=True)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        raise RefusedDelta([Finding(path, f"cannot be applied: {op} failed ({error})")]) from None
    except (LookupError, TypeError, ValueError) as error:
        raise RefusedDelta(
            [Finding(path, f"cannot be applied: {op} failed ({type(error).__name__})")]
        ) from None


def _resolve(document: Any, pointer: str) -> Any:
    """The value at a pointer; RefusedDelta names the deepest part that exists and what is there."""
    here, reached = document, ""
    for token in _tokens(pointer):
        if isinstance(here, dict) and token in here:
            here = here[token]
        elif isinstance(here, list) and token.isascii() and token.isdigit() and str(int(token)) == token:
            if int(token) >= len(here):
                raise RefusedDelta([Finding(pointer, f"does not exist: {reached} has {len(here)} elements")])
            here = here[int(token)]
        elif isinstance(here, dict):
            hint = did_you_mean(token, here) if here else ""
            missing = f"does not exist: {reached or 'Φ'} has no {token!r}"
            raise RefusedDelta([Finding(pointer, missing, hint=f"{hint} Use add for a new field.".strip())])
        else:
            raise RefusedDelta([Finding(pointer, f"does not exist: {reached or 'Φ'} has no {token!r}", here)])
        reached = f"{reached}/{escape(token)}"
    return here


def _tokens(pointer: Any) -> Tokens:
    """RFC 6901. ValueError, with the rule as its text, if `pointer` is not a JSON Pointer."""
    if not isinstance(pointer, str):
        raise ValueError("must be a JSON Pointer, as text")
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise ValueError("must be a JSON Pointer: it starts with /")
    tokens = []
    for part in pointer[1:].split("/"):
        if "~" in part.replace("~0", "").replace("~1", ""):
            raise ValueError("must be a JSON Pointer: ~ is written ~0, and / within a name ~1")
        tokens.append(part.replace("~1", "/").replace("~0", "~"))
    return tuple(tokens)


def _pointer(tokens: Tokens) -> str:
    return "".join(f"/{escape(token)}" for token in tokens)


def _brief(value: Any) -> str:
    text = _dumps(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
