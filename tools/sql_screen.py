"""What agents' SQL may say: one SELECT over `log` and its own CTEs, with functions from a list.

DuckDB's own parser decides, never a regular expression: comments, quotes and Unicode tricks mean here what
they mean there. The list is of what may be used; whatever DuckDB adds later is refused until it is listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import duckdb

from evorank.model.sql import FUNCTIONS as SCALARS

__all__ = ["FUNCTIONS", "TABLE_FUNCTIONS", "Refused", "screen"]

LONGEST = 10_000
"""Characters of one statement."""


class Refused(Exception):  # noqa: N818 - a refusal, not a malfunction
    """Why a statement may not run, in a sentence."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


AGGREGATES = _words(
    """count count_star sum avg mean min max any_value first last arbitrary median mode quantile
    quantile_cont quantile_disc approx_quantile approx_count_distinct stddev stddev_samp stddev_pop
    variance var_samp var_pop corr covar_pop covar_samp regr_slope regr_intercept regr_r2 regr_count
    skewness kurtosis kurtosis_pop entropy mad bool_and bool_or count_if countif arg_max arg_min max_by
    min_by list array_agg string_agg group_concat listagg histogram favg fsum geomean product sem
    bit_and bit_or bit_xor grouping grouping_id"""
)
WINDOWS = _words(
    """row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value"""
)
FURTHER = _words(
    """even gcd lcm degrees radians sinh cosh asin acos gamma lgamma factorial width_bucket equi_width_bins
    !~~ ~~* !~~* & | ~ << >> || @ ! xor left right ltrim rtrim replace reverse substr substring
    split_part string_split str_split concat concat_ws strlen instr position strpos lcase ucase ascii
    chr hash md5 regexp_matches regexp_extract regexp_replace regexp_full_match now current_date
    current_timestamp today make_date make_timestamp to_timestamp strftime strptime try_strptime
    epoch_us epoch_ns last_day monthname dayname weekday yearweek century decade era age date_add
    date_sub datesub to_days to_hours to_minutes to_seconds list_value list_aggregate list_aggr list_avg
    list_sum list_min list_max list_count list_unique list_distinct list_sort list_slice list_extract
    list_element array_extract array_length list_position list_has list_has_any list_has_all array_slice
    list_median list_concat list_transform list_filter list_reverse_sort unnest struct_pack
    struct_extract row map map_keys map_values element_at cardinality typeof random"""
)
FUNCTIONS = SCALARS | AGGREGATES | WINDOWS | FURTHER
"""Functions a query may call: without side effect, blind to the machine."""
TABLE_FUNCTIONS = _words("unnest range generate_series")
"""Functions a query may select from."""


def screen(sql: str, connection: duckdb.DuckDBPyConnection) -> str:
    """The statement to run, or `Refused` with the reason. `connection` only parses."""
    if len(sql) > LONGEST:
        raise Refused(f"The query must have at most {LONGEST:,} characters, got {len(sql):,}.")
    if "\0" in sql:
        raise Refused("The query holds a NUL character.")
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise Refused(f"DuckDB cannot parse the query: {' '.join(str(error).split())[:400]}") from None
    if len(statements) != 1:
        raise Refused(f"The query must be exactly one SELECT statement, got {len(statements)}.")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise Refused(f"The query must be a SELECT statement, got {kind.name}.")
    found = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    tree = json.loads(found[0]) if found else {"error": True}
    if tree.get("error"):
        raise Refused(f"The query cannot be examined ({tree.get('error_message')}). Write a plain SELECT.")
    nodes = list(_nodes(tree))
    names = {name.lower() for node in nodes for name in _ctes(node)}
    # Outside its own SELECT the name of a CTE is whatever else bears it, a file even: so nothing else may.
    if strange := [name for name in names if not name.isidentifier()]:
        raise Refused(f"A CTE must have a name of letters, digits and _, got {min(strange)!r}.")
    if taken := names & _catalog(connection):
        raise Refused(f"A CTE may not be named {min(taken)!r}, a name of DuckDB's own. Choose another.")
    known = {"log"} | names
    for node in nodes:
        _check(node, known)
    return sql


def _catalog(connection: duckdb.DuckDBPyConnection) -> set[str]:
    found = connection.execute("SELECT view_name FROM duckdb_views() WHERE internal").fetchall()
    return {str(name).lower() for (name,) in found}


def _check(node: dict[str, Any], known: set[str]) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        table = ".".join(part for part in (node.get("catalog_name"), node.get("schema_name")) if part)
        name = node.get("table_name", "")
        if table or name.lower() not in known:
            seen = ".".join(part for part in (table, name) if part)
            raise Refused(f"The query may read the table `log` and its own CTEs only, got {seen!r}.")
    elif kind == "TABLE_FUNCTION":
        name = str((node.get("function") or {}).get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            allowed = ", ".join(sorted(TABLE_FUNCTIONS))
            raise Refused(f"The query may not select from {name}(); from `log`, its CTEs, or {allowed}.")
    elif kind == "SHOW_REF" and not node.get("query"):
        raise Refused("The query may DESCRIBE or SUMMARIZE `log`, and show nothing else.")
    name = node.get("function_name")
    if isinstance(name, str) and name and name.lower() not in FUNCTIONS | TABLE_FUNCTIONS:
        near = get_close_matches(name.lower(), FUNCTIONS, 3)
        hint = f" Close: {', '.join(near)}." if near else " Use plain arithmetic, aggregates and windows."
        raise Refused(f"The function {name}() may not be used here.{hint}")


def _ctes(node: dict[str, Any]) -> Iterator[str]:
    """Names that a node's WITH clause defines."""
    for entry in (node.get("cte_map") or {}).get("map", []):
        if isinstance(entry.get("key"), str):
            yield entry["key"]
    if node.get("type") in ("RECURSIVE_CTE_NODE", "CTE_NODE") and isinstance(node.get("cte_name"), str):
        yield node["cte_name"]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the tree; iterative, since its depth is the agent's choice."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
