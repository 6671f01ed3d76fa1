from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import resource
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_world import SmallSurface

from evorank.model.errors import RefusedQuery
from evorank.model.system import Objective
from evorank.tools import run_sql_query as module
from evorank.tools.evaluator.lock import self_test
from evorank.tools.run_sql_query import Limits, run_sql_query
from evorank.tools.workbench import Workbench

QUICK = Limits(seconds=1.0, memory=256 << 20)
WORDS = (
    "select",
    "from",
    "log",
    "where",
    "(",
    ")",
    "*",
    ",",
    ";",
    "'",
    '"',
    "--",
    "/*",
    "*/",
    "1",
    "click",
    "as",
)


@pytest.fixture(scope="module")
def bench(dataset, pool, tmp_path_factory):
    home = tmp_path_factory.mktemp("sql")
    bench = Workbench(SmallSurface(dataset, home), pool, home / "cache")
    yield bench
    bench.close()


def test_a_query_sees_the_training_period_and_nothing_later(bench):
    found = run_sql_query("SELECT COUNT(*) AS n, MAX(row) AS last, AVG(click) AS rate FROM log", bench)
    train = bench.dataset.bounds["train"]
    clicks = bench.dataset.labels(Objective("click"))[train]
    assert found.columns == ["n", "last", "rate"]
    assert found.rows[0][:2] == [train.stop, train.stop - 1]
    assert found.rows[0][2] == pytest.approx(float(clicks.mean()), rel=1e-4)
    assert not found.truncated


def test_ctes_windows_casts_and_describe_work(bench):
    sql = """
    WITH days AS (SELECT "user", day, AVG(click) AS rate FROM log GROUP BY ALL),
         ranked AS (SELECT *, ROW_NUMBER() OVER (PARTITION BY "user" ORDER BY day) AS n FROM days)
    SELECT n, COUNT(*), ROUND(AVG(rate), 3), QUANTILE_CONT(rate, 0.5) FROM ranked
    GROUP BY n ORDER BY n LIMIT 3
    """
    assert [row[0] for row in run_sql_query(sql, bench).rows] == [1, 2, 3]
    assert "click" in {row[0] for row in run_sql_query("DESCRIBE log", bench).rows}
    assert run_sql_query("SELECT 'a; DROP TABLE log' AS x -- one; statement\n;", bench).rows == [
        ["a; DROP TABLE log"]
    ]


def test_a_long_result_is_cut_by_rows_and_by_characters_and_says_so(bench):
    by_rows = run_sql_query("SELECT row FROM log ORDER BY row", bench, Limits(rows=7))
    assert [row[0] for row in by_rows.rows] == list(range(7))
    assert by_rows.truncated
    assert by_rows.as_markdown().startswith("| row |\n| --- |\n| 0 |")
    assert "cut after 7 rows" in by_rows.as_markdown()
    by_characters = run_sql_query("SELECT 'x' || row FROM log", bench, Limits(characters=50))
    assert by_characters.truncated
    assert len(by_characters.rows) == 10
    cell = run_sql_query("SELECT concat_ws('-', list(row)) FROM log", bench)
    assert cell.truncated
    assert len(str(cell.rows[0][0])) == 200


HOSTILE = {
    "read_csv": "SELECT * FROM read_csv('/etc/passwd')",
    "read_text": "SELECT content FROM read_text('/etc/passwd')",
    "read_blob": "SELECT * FROM read_blob('/proc/self/environ')",
    "glob": "SELECT * FROM glob('/*')",
    "file as table": "SELECT * FROM '/etc/passwd'",
    "python variable": "SELECT * FROM request",
    "the log's own file": "SELECT * FROM read_parquet('{directory}/test.parquet')",
    "copy": "COPY log TO '/tmp/stolen.csv'",
    "copy over the log": "COPY (SELECT 1) TO '{directory}/train.parquet'",
    "attach": "ATTACH '{directory}/meta.json' AS other",
    "install": "INSTALL httpfs",
    "load": "LOAD httpfs",
    "set": "SET enable_external_access = true",
    "reset": "RESET lock_configuration",
    "pragma": "PRAGMA database_list",
    "export": "EXPORT DATABASE '/tmp/stolen'",
    "create": "CREATE TABLE mine AS SELECT 1",
    "drop": "DROP TABLE log",
    "delete": "DELETE FROM log",
    "update": "UPDATE log SET click = 1",
    "insert": "INSERT INTO log SELECT * FROM log",
    "explain": "EXPLAIN ANALYZE SELECT 1",
    "call": "CALL pragma_version()",
    "prepare": "PREPARE p AS SELECT 1",
    "several": "SELECT 1; SELECT 2",
    "several after a comment": "SELECT 1 /* ; */ ; -- ;\n DROP TABLE log",
    "nothing": "-- just a comment",
    "not sql": "tell me everything",
    "nul": "SELECT 1 \0; DROP TABLE log",
    "getenv": "SELECT getenv('PATH')",
    "current_setting": "SELECT current_setting('lock_configuration')",
    "secrets": "SELECT * FROM duckdb_secrets()",
    "settings": "SELECT * FROM duckdb_settings()",
    "catalog": "SELECT * FROM information_schema.tables",
    "qualified": "SELECT * FROM pg_catalog.pg_tables",
    "query": "SELECT * FROM query('SELECT 1')",
    "query_table": "SELECT * FROM query_table(['log'])",
    "execute serialized": "SELECT * FROM json_execute_serialized_sql('{{}}')",
    "hidden in a subquery": "SELECT (SELECT content FROM read_text('/etc/passwd')) FROM log",
    "hidden in a CTE": "WITH a AS (SELECT * FROM glob('*')) SELECT * FROM a",
    "hidden in a lambda": "SELECT list_transform([1], x -> getenv('PATH'))",
    "quoted function": "SELECT \"getenv\"('PATH')",
    "method call": "SELECT ('PATH').getenv()",
    "show": "SHOW ALL TABLES",
    "alias of a file": "SELECT * FROM read_text('/etc/passwd') AS log",
    "log as the name of another": "WITH log AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM log",
    "file as the name of a CTE": 'SELECT * FROM (WITH "/etc/passwd" AS (SELECT 1) FROM "/etc/passwd") AS a, '
    '"/etc/passwd" AS b',
    "catalog as the name of a CTE": "SELECT * FROM (WITH duckdb_tables AS (SELECT 1) SELECT * FROM "
    "duckdb_tables) AS a, duckdb_tables AS b",
    "column alias of a file": "SELECT t.x FROM (VALUES (1)) AS v(a), read_text('/etc/passwd') AS t(x)",
    "alias in a lateral join": "SELECT * FROM log AS l, LATERAL (SELECT * FROM glob('/*')) AS g",
    "table before its time": 'FROM "log" AT (VERSION => 1)',
    "unknown column": "SELECT nothing_here FROM log",
    "too long": "SELECT " + "1 + " * 5_000 + "1",
    "too deep": "SELECT " + "(" * 4_000 + "1" + ")" * 4_000,
    "endless recursion": "WITH RECURSIVE t AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM t) "
    "SELECT SUM(x) FROM t",
    "cross joins": "SELECT SUM(a.row * b.row * c.row % 7) FROM log a, log b, log c",
    "range": "SELECT SUM(range % 7) FROM range(1000000000000)",
    "range list": "SELECT len(list(range)) FROM range(1000000000000)",
    "memory bomb": "SELECT repeat('x', 100000000000)",
    "aggregated memory bomb": "SELECT string_agg(md5(row::VARCHAR) || repeat_me, '') FROM (SELECT row, "
    "list(md5(range::VARCHAR))::VARCHAR AS repeat_me FROM log, range(100000) GROUP BY row)",
    "deaf function": "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
}


def contents(directory):
    return {
        path.relative_to(directory): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_sql_is_refused_and_harms_nothing(bench, attack):
    before = contents(bench.dataset.directory)
    with pytest.raises(RefusedQuery) as refusal:
        run_sql_query(HOSTILE[attack].format(directory=bench.dataset.directory), bench, QUICK)
    assert 20 < len(str(refusal.value)) < 1000
    assert "root:" not in str(refusal.value)
    found = run_sql_query("SELECT COUNT(*) FROM log", bench, QUICK)
    assert found.rows == [[bench.dataset.bounds["train"].stop]]
    assert contents(bench.dataset.directory) == before
    assert not os.path.exists("/tmp/stolen.csv")


@pytest.mark.parametrize(
    "attack",
    [
        "SELECT content FROM read_text('/etc/passwd')",
        "COPY (SELECT 1) TO '{directory}/train.parquet'",
        "ATTACH '{directory}/train.parquet'",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "SET disabled_filesystems = ''",
        "LOAD httpfs",
        "INSTALL httpfs",
        "SELECT * FROM '{directory}/test.parquet'",
        "SELECT * FROM request",
    ],
)
def test_the_database_itself_refuses_what_the_screen_would_let_pass(bench, attack):
    import duckdb

    from evorank.tools.sql_worker import open_copy

    before = contents(bench.dataset.directory)
    with open_copy(bench.dataset.training_table(), 0, 256 << 20) as connection, pytest.raises(duckdb.Error):
        connection.execute(attack.format(directory=bench.dataset.directory)).fetchall()
    assert contents(bench.dataset.directory) == before


class Worker:
    """The worker process alone, with walls taken away by `change`, Python that runs in it first."""

    def __init__(self, dataset, change=""):
        ours, theirs = socket.socketpair()
        with theirs:
            code = f"from evorank.tools import sql_worker as w\n{change}\nw.main({theirs.fileno()})"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()],
                env=module.ONE_THREAD
                | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        self._pipe = Connection(ours.detach())
        self.loaded = self._ask({"table": dataset.training_table(), "first_row": 0, "memory": QUICK.memory})

    def query(self, sql):
        """Its answer; {"ended": exit status} where it gave none."""
        return self._ask({"sql": sql, "rows": 50, "characters": 6_000, "cell": 200, "seconds": 1.0})

    def _ask(self, request):
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
            return json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            return {"ended": self._process.wait()}

    def close(self):
        self._pipe.close()
        self._process.wait()


@pytest.fixture
def worker(dataset):
    """worker(change): a worker process of its own."""
    started = []

    def start(change=""):
        started.append(Worker(dataset, change))
        return started[-1]

    yield start
    for each in started:
        each.close()


UNSCREENED = "w.screen = lambda sql, connection: sql\n"
TRUSTING = UNSCREENED + "w.LOCKS = w.LOCKS[:2]\n"
"""Only the kernel's lock is left; the two settings kept are of threads."""
UNLOCKED = "w.lock = lambda *a, **k: None\n"
needs_a_lock = pytest.mark.skipif(self_test().tier == "degraded", reason=str(self_test().missing))
REACHING = {
    "read": "SELECT content::VARCHAR FROM read_blob('/etc/passwd')",
    "list": "SELECT * FROM glob('/etc/*')",
    "copy away": "COPY log TO '{tmp_path}/stolen.csv'",
    "copy over the log": "COPY (SELECT 1) TO '{directory}/train.parquet'",
    "attach": "ATTACH '{tmp_path}/new.db'",
    "other periods": "SELECT COUNT(*) FROM read_parquet('{directory}/test.parquet')",
}


@needs_a_lock
@pytest.mark.parametrize("attack", REACHING)
def test_the_kernel_alone_keeps_a_query_from_files(worker, dataset, tmp_path, attack):
    """No screen, no setting of DuckDB: the locked process still cannot, and lives on."""
    before = contents(dataset.directory)
    locked = worker(TRUSTING)
    found = locked.query(REACHING[attack].format(directory=dataset.directory, tmp_path=tmp_path))
    assert "refused" in found or found["rows"] == [], found  # of glob, nothing is listed
    assert locked.query("SELECT COUNT(*) FROM log")["rows"] == [[locked.loaded["rows"]]]
    assert contents(dataset.directory) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("attack", ["read", "list", "copy away", "attach"])
def test_without_the_lock_the_same_query_gets_what_it_wants(worker, dataset, tmp_path, attack):
    found = worker(TRUSTING + UNLOCKED).query(REACHING[attack].format(directory="", tmp_path=tmp_path))
    assert "refused" not in found
    assert found["rows"] or list(tmp_path.iterdir())


def test_copy_to_the_databases_own_path_destroys_nothing(worker, dataset):
    """An in-memory database has no path of its own; what it was loaded from cannot be opened any more."""
    before = contents(dataset.directory)
    loose = worker(UNSCREENED)
    for path in (dataset.directory / "train.parquet", ":memory:", "memory"):
        found = loose.query(f"COPY (SELECT 1) TO '{path}'")
        assert "refused" in found
    assert loose.query("SELECT COUNT(*) FROM log")["rows"] == [[loose.loaded["rows"]]]
    assert contents(dataset.directory) == before


def test_a_worker_holds_the_training_period_and_nothing_else(worker, dataset):
    loose = worker(UNSCREENED)
    assert loose.query("SELECT table_name FROM duckdb_tables()")["rows"] == [["log"]]
    assert loose.query("SELECT MAX(row) FROM log")["rows"] == [[dataset.bounds["train"].stop - 1]]
    shown = {row[0] for row in loose.query("DESCRIBE log")["rows"]}
    assert shown == {row[0] for row in dataset.connect().execute("DESCRIBE log").fetchall()}


def test_a_function_that_ignores_interrupts_ends_its_process_though_nobody_kills_it(worker):
    """... as where the parent has died meanwhile. Nothing else may be running for ever."""
    deaf = "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))"
    assert worker(UNSCREENED).query(deaf) == {"ended": 1}


@needs_a_lock
def test_memory_that_duckdb_does_not_count_is_bounded_by_the_kernel(worker):
    change = (
        TRUSTING + "def screen(sql, connection): return str(len(bytearray(2 * w.BESIDE)))\nw.screen = screen"
    )
    found = worker(change).query("anything")
    assert found == {"refused": "The query needed too much memory. Aggregate, sample or filter more."}


def test_a_worker_ends_with_its_pipe_and_not_with_the_thread_that_started_it(worker, dataset):
    import threading

    made = []
    thread = threading.Thread(target=lambda: made.append(worker()))
    thread.start()
    thread.join()
    assert made[0].query("SELECT 1")["rows"] == [[1]]
    made[0].close()
    assert made[0]._process.returncode == 0


LIES = {
    "more rows than allowed": '{"columns": ["a"], "rows": [[1], [2], [3]], "truncated": false, "seconds": 0}',
    "rows of another width": '{"columns": ["a"], "rows": [[1, 2]], "truncated": false, "seconds": 0}',
    "a long value": '{"columns": ["a"], "rows": [["' + "x" * 300 + '"]], "truncated": false, "seconds": 0}',
    "a value within a value": '{"columns": ["a"], "rows": [[[1]]], "truncated": false, "seconds": 0}',
    "no columns": '{"rows": [], "truncated": false, "seconds": 0}',
    "something else": '{"columns": [], "rows": [], "truncated": false, "seconds": 0, "note": "trust me"}',
    "a list": "[1, 2]",
    "a number": "7",
    "not JSON": "{",
    "not text": "\udcff",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_was_taken_over_gets_no_wrong_table_past_the_parent(bench, monkeypatch, lie):
    run_sql_query("SELECT 1", bench)
    real = bench.sql._pipe

    class Lying:
        def recv_bytes(self, most):
            real.recv_bytes(most)
            return LIES[lie].encode(errors="surrogateescape")

        def __getattr__(self, name):
            return getattr(real, name)

    monkeypatch.setattr(bench.sql, "_pipe", Lying())
    with pytest.raises(RefusedQuery):
        run_sql_query("SELECT 1", bench, Limits(rows=2))
    monkeypatch.undo()
    bench.sql.close()
    assert run_sql_query("SELECT 1 AS one", bench, Limits(rows=2)).rows == [[1]]


def test_many_queries_do_not_add_up_to_a_kill(bench):
    """There is no limit on the CPU of all queries together: each has its own wall limit."""
    bench.sql.run("SELECT 1", QUICK)
    of_all = resource.prlimit(bench.sql._process.pid, resource.RLIMIT_CPU)
    assert of_all == resource.getrlimit(resource.RLIMIT_CPU)


@pytest.mark.skipif(importlib.util.find_spec("pytz") is not None, reason="with pytz it can be shown")
def test_a_type_that_python_cannot_show_is_refused_with_what_to_do(bench):
    with pytest.raises(RefusedQuery, match="CAST the value to VARCHAR") as refusal:
        run_sql_query("SELECT now()", bench)
    assert "Traceback" not in str(refusal.value)
    assert run_sql_query("SELECT now()::VARCHAR", bench).rows


def test_a_query_that_ignores_interrupts_is_killed_and_the_next_one_works(bench):
    bench.sql.run("SELECT 1", QUICK)
    os.kill(bench.sql._process.pid, 19)  # SIGSTOP: deaf to everything but SIGKILL
    with pytest.raises(RefusedQuery, match="was killed"):
        bench.sql.run("SELECT 1", QUICK)
    assert bench.sql.run("SELECT 1", QUICK).rows == [[1]]


def test_a_huge_log_is_copied_from_its_end_and_the_result_says_so(bench, monkeypatch):
    monkeypatch.setattr(module, "COPY_ROWS", 1_000)
    bench.sql.close()
    found = run_sql_query("SELECT COUNT(*), MIN(row) FROM log", bench)
    bench.sql.close()
    rows = bench.dataset.bounds["train"].stop
    assert found.rows == [[1_000, rows - 1_000]]
    assert f"most recent 1,000 of {rows:,}" in found.as_markdown()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
def test_any_text_gives_a_table_or_a_refusal(bench, sql):
    try:
        found = run_sql_query(sql, bench, QUICK)
    except RefusedQuery:
        return
    assert found.columns


def test_values_of_every_type_fit_into_json_and_a_prompt(bench):
    found = run_sql_query(
        "SELECT NULL, TRUE, 1.5::DECIMAL(4,2), 'nan'::DOUBLE, 170141183460469231731687303715884105727, "
        "DATE '2020-02-01', [1, 2], {'a': 1}, 'a|b', 1e300",
        bench,
    )
    assert found.rows[0][:4] == [None, True, 1.5, "nan"]
    assert found.rows[0][5] == "2020-02-01"
    assert "a\\|b" in found.as_markdown()
    assert found.model_validate_json(found.model_dump_json()) == found
