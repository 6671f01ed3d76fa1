from __future__ import annotations

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evorank.model.errors import LogError, RefusedDelta
from evorank.model.sql import FUNCTIONS, check_expression, check_objective, label_query
from evorank.model.system import Objective

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine too

COLUMNS = {
    "click": "BOOLEAN",
    "watch_s": "DOUBLE",
    "duration_s": "DOUBLE",
    "rating": "TINYINT",
    "shown": "TIMESTAMP",
    "tag": "VARCHAR",
    "genres": "VARCHAR[]",
    "Odd Name": "FLOAT",
}


@pytest.fixture
def log():
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE log AS SELECT i % 2 = 0 AS click, i::DOUBLE AS watch_s, 2.0::DOUBLE AS duration_s, "
        "i AS row FROM range(10) t(i)"
    )
    return connection


# ------------------------------------------------------------------ what may be said


@pytest.mark.parametrize(
    "sql",
    [
        "CAST(click AS DOUBLE)",
        "click::DOUBLE",
        "LEAST(watch_s / duration_s, 1.0)",
        "CLICK AND NOT (rating >= 4 OR tag IS NULL)",
        "CASE WHEN click THEN 1 WHEN rating > 3 THEN 0.5 ELSE 0 END",
        "CASE rating WHEN 5 THEN 1 ELSE 0 END",
        "if(click, 1, 0)",
        "COALESCE(watch_s, 0) / NULLIF(duration_s, 0)",
        "1 / (1 + EXP(-0.1 * watch_s))",
        "watch_s ** 2 - POW(watch_s, 0.5) + duration_s % 3",
        "LN(1 + GREATEST(watch_s, 0))",
        "rating IN (4, 5)",
        "rating NOT IN (1)",
        "watch_s BETWEEN 3 AND 30",
        "tag LIKE 'comedy%'",
        "tag = 'it''s; DROP TABLE log --'",
        "contains(lower(tag), 'news')",
        "list_contains(genres, 'Drama')",
        "extract(hour FROM shown) < 6",
        "date_diff('day', DATE '2020-01-01', CAST(shown AS DATE))",
        "click IS DISTINCT FROM TRUE",
        "TRY_CAST(tag AS DOUBLE)",
        '"Odd Name" * 2',
        "watch_s -- a remark",
        "watch_s /* a remark */ + 1",
        "CAST(watch_s AS DECIMAL(10, 2))",
    ],
)
def test_scalar_expressions_over_the_columns_are_usable(sql: str):
    assert check_expression(sql, COLUMNS) == []


def test_every_allowed_function_is_one_that_duckdb_has():
    rows = duckdb.connect().execute("SELECT DISTINCT lower(function_name) FROM duckdb_functions()").fetchall()
    special = {"coalesce", "ifnull"}  # grammar, not functions
    assert {row[0] for row in rows} | special >= FUNCTIONS


# ------------------------------------------------------------------ what may not


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("read_text('/etc/passwd')", "function that is not allowed: 'read_text'"),
        ("(SELECT max(content) FROM read_text('/etc/passwd'))", "must not use a subquery"),
        ("click IN (SELECT true)", "must not use a subquery"),
        ("EXISTS (SELECT 1)", "must not use a subquery"),
        ("watch_s FROM read_csv('/etc/passwd')", "must be one scalar expression"),
        ("watch_s FROM log", "must be one scalar expression"),
        ("1 WHERE click", "must be one scalar expression"),
        ("1 LIMIT 1", "must be one scalar expression"),
        ("watch_s, duration_s", "must be one scalar expression"),
        ("watch_s AS label", "must be one scalar expression"),
        ("watch_s label", "must be one scalar expression"),
        ("DISTINCT watch_s", "must be one scalar expression"),
        ("watch_s UNION SELECT 1", "must be one scalar expression"),
        ("1) UNION SELECT (2", "is not a SQL expression"),
        ("watch_s) FROM read_csv('x') WHERE (1 = 1", "is not a SQL expression"),
        ("watch_s; DROP TABLE log", "is not a SQL expression"),
        ("watch_s; SELECT 1", "must be one scalar expression"),
        ("watch_s;", "is not a SQL expression"),
        ("watch_s /*", "is not a SQL expression"),
        ("'unfinished", "is not a SQL expression"),
        ("COPY log TO 'x'", "is not a SQL expression"),
        ("ATTACH 'x'", "casts to a type that is not allowed"),
        ("PRAGMA database_list", "must be one scalar expression"),
        ("current_setting('threads')", "function that is not allowed"),
        ("getenv('HOME')", "function that is not allowed"),
        ("nextval('s')", "function that is not allowed"),
        ("random()", "function that is not allowed"),
        ("now()", "function that is not allowed"),
        ("current_date", "names no column"),
        ("error('x')", "function that is not allowed"),
        ("repeat('x', 1000000000)", "function that is not allowed"),
        ("lpad('x', 1000000000, 'y')", "function that is not allowed"),
        ("list_sum(range(1000000000))", "function that is not allowed"),
        ("[x FOR x IN range(1000000000)]", "function that is not allowed"),
        ("list_transform([1], lambda x: x)", "function that is not allowed"),
        ("len([1, 2])", "function that is not allowed: 'list_value'"),
        ("sum(watch_s)", "function that is not allowed"),
        ("count(*)", "function that is not allowed"),
        ("greatest(1) FILTER (WHERE click)", "must not use FILTER"),
        ("row_number() OVER ()", "must not use a window"),
        ("max(watch_s) OVER (ORDER BY shown)", "must not use a window"),
        ("main.abs(watch_s)", "function that is not allowed"),
        ("pg_catalog.current_setting('threads')", "function that is not allowed"),
        ("unnest([1])", "function that is not allowed"),
        ("*", "must not use a star"),
        ("COLUMNS('w.*')", "must not use a star"),
        ("?", "must not use a parameter"),
        ("$1", "must not use a parameter"),
        ("#1", "must not use a positional reference"),
        ("log.click", "without a table or field"),
        ("{'a': 1}", "function that is not allowed"),
        ("genres[1]", "must not use array extract"),
        ("TRY(1)", "must not use operator try"),
        ("tag COLLATE nocase", "must not use a collate"),
        ("tag || tag", "function that is not allowed"),
        ("regexp_matches(tag, '(a+)+b')", "function that is not allowed"),
        ("tag LIKE tag", "constant LIKE pattern"),
        ("tag LIKE '%a%a%a%a%a%'", "at most 4 wildcards"),
        ("CAST(tag AS BLOB)", "casts to a type that is not allowed"),
        ("watch_s::DOUBLE[]", "casts to a type that is not allowed"),
        ("clik", "Did you mean 'click'?"),
        ("greetest(watch_s, 1)", "Did you mean 'greatest'?"),
        ("tag + 1", "does not type-check"),
        ("round(tag)", "does not type-check"),
        ("", "must be a SQL expression"),
        ("  ", "must be a SQL expression"),
        ("watch_s\0", "Unicode text without NUL"),
        ("\ud800", "Unicode text without NUL"),
        ("watch_s,", "must be one scalar expression"),
        ("(" * 900 + "1" + ")" * 900 + ",", "must be one scalar expression"),
        ("NOT " * 400 + "click", "nested more than 100 deep"),
        ("1" + " + 1" * 400, "nested more than 100 deep"),
        ("'" + "x" * 3000 + "'", "at most 2000 characters"),
    ],
)
def test_what_is_not_a_scalar_expression_is_refused(sql: str, problem: str):
    (found,) = check_expression(sql, COLUMNS)
    assert problem in found


@given(st.text(max_size=80) | st.text(alphabet="click(),'\"*+-/;1 ASselctFROM[]{}$#:=<>", max_size=60))
@settings(LAW, max_examples=50)
def test_arbitrary_text_is_usable_or_told_why_not(sql: str):
    problems = check_expression(sql, COLUMNS)
    if not problems:
        duckdb.connect().execute(f"SELECT ({sql}\n) FROM (SELECT true AS click) WHERE false")


def test_columns_that_cannot_form_a_table_are_the_logs_fault():
    with pytest.raises(LogError, match="cannot form a table"):
        check_expression("a", {"a": "NO SUCH TYPE"})


# ------------------------------------------------------------------ factors and label


def found(label: str, **factors: str) -> list[tuple[str, str]]:
    return [
        (finding.pointer, finding.rule) for finding in check_objective(Objective(label, factors), COLUMNS)
    ]


def test_factors_may_use_each_other_in_any_order():
    assert found("ab", ab="a * b", b="LEAST(a, 1)", a="watch_s / 2") == []


@pytest.mark.parametrize("label", ["click", "rating", "watch_s > 3", "CAST(watch_s AS DECIMAL(9, 2))", "f"])
def test_a_label_is_a_number_or_a_boolean(label: str):
    assert found(label, f="rating + 1") == []


@pytest.mark.parametrize("label", ["tag", "shown", "genres", "NULL", "shown - shown"])
def test_a_label_of_another_type_is_refused(label: str):
    ((pointer, rule),) = found(label)
    assert pointer == "/reward/label"
    assert "must be a number or a boolean" in rule


def test_a_factor_may_have_a_type_that_a_label_may_not():
    assert found("day > 3", day="extract(dow FROM moment)", moment="CAST(shown AS DATE)") == []


def test_a_cycle_of_factors_is_refused_and_shown():
    (finding,) = check_objective(Objective("a", {"a": "b", "b": "c + 1", "c": "a"}), COLUMNS)
    assert finding.rule == "must not depend on itself"
    assert finding.value == "a -> b -> c -> a"


def test_one_bad_factor_is_one_finding_however_much_uses_it():
    assert [pointer for pointer, _ in found("c", a="tag + 1", b="a + 1", c="b * 2")] == ["/reward/factors/a"]


def test_factors_do_not_hide_columns_or_each_other():
    assert found("1", Click="1") == [("/reward/factors/Click", "has the name of a log column")]
    assert found("1", a="1", A="2") == [("/reward/factors/A", "differs from another factor only in case")]


@pytest.mark.parametrize("name", ["both", "select", "a b", "1a", "", "a.b", "a)"])
def test_a_factor_needs_a_name_that_sql_can_use_unquoted(name: str):
    assert found("click", **{name: "1"}) == [
        (f"/reward/factors/{name}", "has a name that SQL cannot use unquoted")
    ]


def test_a_pointer_escapes_what_a_name_holds():
    assert found("click", **{"a/b~": "1"})[0][0] == "/reward/factors/a~1b~0"


def test_names_are_case_insensitive_as_in_sql():
    assert found("WATCHED * Click::INT", watched="WATCH_S") == []


def test_too_many_factors_are_refused():
    ((pointer, rule),) = found("1", **{f"f{i}": "1" for i in range(51)})
    assert (pointer, rule) == ("/reward/factors", "must have at most 50 factors")


# ------------------------------------------------------------------ the query


def labels(log, label: str, **factors: str) -> list[float]:
    return log.execute(label_query(Objective(label, factors), "log")).fetchnumpy()["label"].tolist()


def test_the_query_computes_the_label_of_every_row_in_order(log):
    got = labels(
        log, "clicked * watched", clicked="CAST(click AS DOUBLE)", watched="LEAST(watch_s / duration_s, 1.0)"
    )
    assert got == [0, 0, 1, 0, 1, 0, 1, 0, 1, 0]


def test_the_query_nests_factors_whatever_their_order(log):
    assert labels(log, "c + a", c="b * 10", b="a + 1", a="watch_s")[:3] == [10, 21, 32]


def test_the_query_leaves_out_factors_that_the_label_does_not_need(log):
    assert "boom" not in label_query(Objective("click", {"boom": "1 / 0"}), "log")


def test_the_query_reads_any_source(log):
    query = label_query(Objective("watch_s -- remark", {"row_": "row"}), "(SELECT * FROM log WHERE row < 3)")
    column = log.execute(query).fetchnumpy()["label"]
    assert column.dtype == np.float64
    assert column.tolist() == [0, 1, 2]


def test_a_label_that_is_boolean_becomes_zero_and_one(log):
    assert labels(log, "click")[:2] == [1, 0]


def test_factors_that_double_fifty_times_do_not_explode(log):
    factors = {"f0": "watch_s / 1e9"} | {f"f{i}": f"f{i - 1} * f{i - 1} + f{i - 1}" for i in range(1, 50)}
    assert check_objective(Objective("f49", factors), COLUMNS) == []
    assert len(labels(log, "f49", **factors)) == 10


@pytest.mark.parametrize(
    ("objective", "pointer"),
    [
        (Objective("(SELECT 1)"), "/reward/label"),
        (Objective("1) FROM read_csv('x') --"), "/reward/label"),
        (Objective("a", {"a": "getenv('HOME')"}), "/reward/factors/a"),
        (Objective("a", {"a": "b", "b": "a"}), "/reward/factors/a"),
    ],
)
def test_the_query_is_refused_for_hostile_expressions_whoever_built_the_objective(objective, pointer):
    with pytest.raises(RefusedDelta) as caught:
        label_query(objective, "log")
    assert caught.value.findings[0].pointer == pointer


def test_a_factor_name_is_quoted(log):
    assert labels(log, '"odd "" name"', **{'odd " name': "watch_s"})[:2] == [0, 1]
