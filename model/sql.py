"""The language of `reward`: one scalar SQL expression over a log's columns, checked before it meets a log.

Agents write these expressions, so nothing is taken on trust: DuckDB's own parser turns the text into a
tree, and only what is listed here may stand in it: columns, literals, operators, CASE, CAST and FUNCTIONS.
Everything else (subqueries, aggregates, windows, lambdas, files, settings, randomness, the clock) is refused,
then the types are checked against an empty table. Limits: values are not looked at; a division by zero or a
label outside [0, 1] shows only when `label_query` runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

import duckdb

from evorank.model.errors import Finding, LogError, RefusedDelta
from evorank.model.syntax import Refusal, did_you_mean, escape
from evorank.model.system import Objective

__all__ = ["FUNCTIONS", "check_expression", "check_objective", "label_query"]

MAX_TEXT = 2_000  # characters of one expression
MAX_DEPTH = 100  # nodes on the longest path of its tree
MAX_FACTORS = 50
MAX_WILDCARDS = 4  # matching LIKE '%a%b%...' takes time exponential in their number


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTIONS = (
    _words(
        "+ - * / // % ^ ** abs ceil ceiling floor round trunc sign sqrt cbrt exp ln log log2 log10 pow power"
    )
    | _words(
        "greatest least mod sin cos tan atan atan2 tanh pi isnan isinf isfinite if ifnull nullif coalesce"
    )
    | _words("~~ !~~ length len lower upper trim contains starts_with ends_with prefix suffix list_contains")
    | _words(
        "date_part datepart date_diff datediff date_trunc datetrunc epoch epoch_ms year quarter month week"
    )
    | _words("day dayofweek isodow dayofyear hour minute second")
)
"""Deterministic, without side effect, and cheap on every input."""

_LIKE = frozenset({"~~", "!~~"})
_OPERATORS = _words(
    "OPERATOR_NOT OPERATOR_IS_NULL OPERATOR_IS_NOT_NULL OPERATOR_COALESCE OPERATOR_NULLIF COMPARE_IN"
    " COMPARE_NOT_IN"
)
_NUMERIC = _words(
    "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT FLOAT DOUBLE"
    " DECIMAL BOOLEAN"
)
_TYPES = (
    _NUMERIC
    | _words(
        "INT INT1 INT2 INT4 INT8 LONG SHORT REAL FLOAT4 FLOAT8 NUMERIC BOOL LOGICAL VARCHAR TEXT STRING DATE"
    )
    | _words("TIME TIMESTAMP DATETIME")
)
_CLASSES = _words("COLUMN_REF CONSTANT FUNCTION COMPARISON CONJUNCTION CASE CAST OPERATOR BETWEEN TYPE")
_EMPTY_SELECT = ("where_clause", "having", "qualify", "sample")


def check_expression(sql: str, columns: Mapping[str, str]) -> list[str]:
    """Everything wrong with a scalar expression over `columns` (name -> DuckDB type); [] means usable."""
    with _connect() as connection:
        try:
            _type(sql, columns, connection)
        except Refusal as refusal:
            return [_sentence(refusal)]
    return []


def check_objective(objective: Objective, columns: Mapping[str, str]) -> list[Finding]:
    """Everything wrong with a reward's factors and label, at /reward/factors/NAME and /reward/label.

    Factors may use each other in any order, without cycles; names are case-insensitive, as in SQL, and
    must not hide a column. The label must be a number or a boolean.
    """
    findings: list[Finding] = []
    if len(objective.factors) > MAX_FACTORS:
        rule = f"must have at most {MAX_FACTORS} factors"
        return [Finding("/reward/factors", rule, len(objective.factors), "Merge or remove some.")]
    known = {name.lower(): name for name in columns}
    seen: dict[str, str] = {}
    for name in objective.factors:
        pointer = f"/reward/factors/{escape(name)}"
        if name.lower() in known:
            findings.append(
                Finding(pointer, "has the name of a log column", known[name.lower()], "Rename it.")
            )
        elif name.lower() in seen:
            findings.append(Finding(pointer, "differs from another factor only in case", seen[name.lower()]))
        seen[name.lower()] = name
    with _connect() as connection:
        used: dict[str, set[str]] = {}
        for name, sql in objective.factors.items():
            if not _is_plain(name, connection):
                rule = "has a name that SQL cannot use unquoted"
                findings.append(
                    Finding(f"/reward/factors/{escape(name)}", rule, name, "Rename it, e.g. watched_share.")
                )
            try:
                used[name] = _names(sql, connection)
            except Refusal as refusal:
                findings.append(refusal.at(f"/reward/factors/{escape(name)}"))
        if findings:
            return findings
        try:
            order = _ordered(used)
        except RefusedDelta as refused:
            return list(refused.findings)
        types = dict(columns)
        broken: set[str] = set()
        for pointer, name, sql in [
            *((f"/reward/factors/{escape(name)}", name, objective.factors[name]) for name in order),
            ("/reward/label", "", objective.label),
        ]:
            try:
                if name and {used_name.lower() for used_name in used[name]} & broken:
                    broken.add(name.lower())  # the finding on what it uses says enough
                    continue
                if not name and _names(sql, connection) & broken:
                    continue
                found = _type(sql, types, connection)
                if name:
                    types[name] = found
                elif found.split("(")[0] not in _NUMERIC:
                    raise Refusal(
                        f"must be a number or a boolean, and is {found}",
                        sql,
                        "CAST it, or compare it with a value.",
                    )
            except Refusal as refusal:
                broken.add(name.lower())
                findings.append(refusal.at(pointer))
    return findings


def label_query(objective: Objective, table: str) -> str:
    """A SELECT of the column `label` (DOUBLE) for every row of `table`, in its order.

    `table` is trusted SQL: a name or a parenthesised SELECT. The expressions are not: RefusedDelta if one
    leaves the language or factors form a cycle. Each factor becomes a column of a nested SELECT, so
    that later ones and the label can use it by name.
    """
    with _connect() as connection:
        used: dict[str, set[str]] = {}
        findings = []
        for pointer, name, sql in [
            *((f"/reward/factors/{escape(name)}", name, sql) for name, sql in objective.factors.items()),
            ("/reward/label", "", objective.label),
        ]:
            try:
                names = _names(sql, connection)
            except Refusal as refusal:
                findings.append(refusal.at(pointer))
            else:
                used[name] = names
    if findings:
        raise RefusedDelta(findings)
    wanted = used.pop("")
    source = table
    for name in _ordered(used, wanted):
        source = f"(SELECT *, ({objective.factors[name]}\n) AS {_quoted(name)} FROM {source})"
    return f"SELECT CAST(({objective.label}\n) AS DOUBLE) AS label FROM {source}"


def _ordered(used: Mapping[str, set[str]], wanted: set[str] | None = None) -> list[str]:
    """Factors (those that `wanted` needs, or all), each after what it uses; a cycle is refused."""
    known = {name.lower(): name for name in used}
    order: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise RefusedDelta(
                [Finding(f"/reward/factors/{escape(name)}", "must not depend on itself", circle)]
            )
        if name in order:
            return
        path.append(name)
        for other in sorted(used[name]):
            if other in known:
                visit(known[other])
        order.append(path.pop())

    for lowered, name in known.items():
        if wanted is None or lowered in wanted:
            visit(name)
    return order


# --------------------------------------------------------------------------- DuckDB


def _connect() -> duckdb.DuckDBPyConnection:
    """A connection of its own (temporary tables too) to this process's empty, locked database."""
    return _database(os.getpid()).cursor()


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """Opening takes 20 ms, a cursor none. By process id, since a fork must not use its parent's."""
    return duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "memory_limit": "64MB",
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "temp_directory": "",
        },
    )


def _type(sql: str, columns: Mapping[str, str], connection: duckdb.DuckDBPyConnection) -> str:
    """DuckDB type of the expression over an empty table with `columns`; Refusal if it has none."""
    names = _names(sql, connection)
    known = {name.lower() for name in columns}
    for name in sorted(names - known):
        raise Refusal(f"names no column or factor: {name!r}", sql, did_you_mean(name, columns))
    table = ", ".join(f"{_quoted(name)} {kind}" for name, kind in columns.items())
    try:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE log ({table or 'nothing INTEGER'})")
    except duckdb.Error as error:
        raise LogError(f"the log's columns cannot form a table: {_first_line(error)}") from None
    try:
        row = connection.execute(f"DESCRIBE SELECT ({sql}\n) AS v FROM log").fetchone()
    except duckdb.Error as error:
        raise Refusal(f"does not type-check ({_first_line(error)})", sql) from None
    assert row is not None
    return str(row[1])


def _is_plain(name: str, connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether `name` reads as itself in an expression: an identifier, and no reserved word."""
    try:
        return name.isidentifier() and _names(name, connection) == {name.lower()}
    except Refusal:
        return False


def _names(sql: str, connection: duckdb.DuckDBPyConnection) -> set[str]:
    """Lower-case column names that an expression of the language uses; Refusal outside of it."""
    if not isinstance(sql, str) or not sql.strip():
        raise Refusal("must be a SQL expression such as 'CAST(click AS DOUBLE)'", sql)
    if len(sql) > MAX_TEXT:
        raise Refusal(f"must have at most {MAX_TEXT} characters", len(sql), "Split it into factors.")
    if "\0" in sql or any("\ud800" <= character <= "\udfff" for character in sql):
        raise Refusal("must be Unicode text without NUL", sql)
    # It must mean the same alone and in parentheses: no text that closes them, a comma, or a remark cut off.
    tree = _select_item(sql, f"SELECT {sql}\n", connection)
    if _select_item(sql, f"SELECT ({sql}\n)", connection) != tree:
        raise Refusal("must be one scalar expression", sql)
    names: set[str] = set()
    for node, depth in _expressions(tree):
        if depth > MAX_DEPTH:
            raise Refusal(f"is nested more than {MAX_DEPTH} deep", sql, "Split it into factors.")
        _check_node(node, sql)
        if node["class"] == "COLUMN_REF":
            names.add(node["column_names"][0].lower())
    return names


def _select_item(sql: str, query: str, connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    try:
        row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone()
        assert row is not None
        answer = json.loads(row[0], object_hook=_without_location)
    except RecursionError:
        raise Refusal(f"is nested more than {MAX_DEPTH} deep", sql, "Split it into factors.") from None
    except duckdb.Error as error:
        raise Refusal(f"cannot be parsed ({_first_line(error)})", sql) from None
    if answer["error"]:
        raise Refusal(f"is not a SQL expression ({' '.join(answer['error_message'].split())})", sql)
    statements = answer["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    plain = (
        node.get("type") == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not node["modifiers"]
        and not node["cte_map"]["map"]
        and not node["group_expressions"]
        and not any(node.get(part) for part in _EMPTY_SELECT)
        and not node["select_list"][0]["alias"]
    )
    if not plain:
        raise Refusal("must be one scalar expression, not a query, a list or an alias", sql)
    item: dict[str, Any] = node["select_list"][0]
    return item


def _without_location(node: dict[str, Any]) -> dict[str, Any]:
    node.pop("query_location", None)
    node.pop("query_location_length", None)
    return node


def _expressions(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """Every expression of a serialised tree with its depth; no recursion, since hostile trees are deep."""
    todo: list[tuple[Any, int]] = [(tree, 0)]
    while todo:
        part, depth = todo.pop()
        if isinstance(part, dict):
            if "class" in part:
                depth += 1
                yield part, depth
            todo.extend((value, depth) for value in part.values())
        elif isinstance(part, list):
            todo.extend((value, depth) for value in part)


def _check_node(node: dict[str, Any], sql: str) -> None:
    kind = node["class"]
    if kind not in _CLASSES:
        raise Refusal(
            f"must not use a {kind.lower().replace('_', ' ')}",
            sql,
            "Columns, literals, operators, CASE, CAST and scalar functions are all there is.",
        )
    if kind == "COLUMN_REF" and len(node["column_names"]) != 1:
        raise Refusal("must name columns without a table or field", ".".join(node["column_names"]))
    if kind == "OPERATOR" and node["type"] not in _OPERATORS:
        raise Refusal(f"must not use {node['type'].lower().replace('_', ' ')}", sql)
    if kind == "FUNCTION":
        _check_function(node, sql)
    if kind == "CAST" and "cast_type" in node:  # DuckDB 1: the type is not an expression of its own
        _check_type(str(node["cast_type"]["id"]))
    if kind == "TYPE":
        if node["schema"] or node["catalog"]:
            raise Refusal("must name types without a schema", node["type_name"])
        _check_type(node["type_name"])


def _check_type(name: str) -> None:
    if name.upper() not in _TYPES:
        raise Refusal("casts to a type that is not allowed", name, f"Use {', '.join(sorted(_NUMERIC))}.")


def _check_function(node: dict[str, Any], sql: str) -> None:
    name = str(node["function_name"]).lower()
    # DuckDB 1 writes EXTRACT(hour FROM x) as pg_catalog.date_part, its own function too.
    if name not in FUNCTIONS or node["schema"] not in ("", "pg_catalog") or node["catalog"]:
        close = get_close_matches(name, FUNCTIONS, n=1, cutoff=0.75)
        hint = (
            f"Did you mean {close[0]!r}?"
            if close
            else "Use arithmetic, CASE, LEAST, GREATEST, LN, EXP, COALESCE."
        )
        raise Refusal(f"uses a function that is not allowed: {name!r}", sql, hint)
    if node["filter"] or node["distinct"] or node["order_bys"]["orders"] or node.get("export_state"):
        raise Refusal(f"must not use FILTER, DISTINCT or ORDER BY in {name!r}", sql)
    if name in _LIKE:
        pattern = (node["arguments"] if "arguments" in node else node["children"])[1]
        pattern = pattern.get("expression", pattern)
        if pattern["class"] != "CONSTANT" or json.dumps(pattern).count("%") > MAX_WILDCARDS:
            raise Refusal(f"needs a constant LIKE pattern with at most {MAX_WILDCARDS} wildcards %", sql)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _sentence(refusal: Refusal) -> str:
    return str(refusal.at("The expression"))
