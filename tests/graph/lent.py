"""The pool of the tests for processes that they start, over a socket: each would warm up trainers of its own.

A connection asks the pool, until it asks for a scorer: from then on it asks that one, which ends with it. So
whoever is killed leaves nothing behind but a training that nobody waits for.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from evorank.model.errors import EvorankError
from evorank.tools.evaluator.executor import Executor


class PoolServer:
    def __init__(self, pool: Executor) -> None:
        self._pool, self._folder = pool, tempfile.mkdtemp(prefix="evo")  # a socket's path has 107 characters
        self.address = str(Path(self._folder) / "pool")
        self._listener = Listener(self.address, "AF_UNIX", backlog=64)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        asked: Any = self._pool
        try:
            with connection:
                while True:
                    method, arguments, named = connection.recv()
                    try:
                        found = getattr(asked, method)(*arguments, **named)
                    except EvorankError as error:
                        found = error
                    if method == "scorer" and not isinstance(found, EvorankError):
                        asked, found = found, None
                    connection.send(found)
        except (EOFError, OSError):
            pass  # it has what it wanted, or was killed
        finally:
            if asked is not self._pool:
                asked.close()


def _ask(connection: Connection, method: str, *arguments: Any, **named: Any) -> Any:
    connection.send((method, arguments, named))
    found = connection.recv()
    if isinstance(found, EvorankError):
        raise found
    return found


class LentPool:
    """An executor whose processes live with the server at `address`, and longer than who uses it."""

    device = "cpu"

    def __init__(self, address: str) -> None:
        self._address = address

    def scorer(self, artifact: Path, capacity: int = 50_000) -> LentScorer:
        connection = Client(self._address, "AF_UNIX")
        try:
            _ask(connection, "scorer", artifact, capacity)
        except BaseException:
            connection.close()
            raise
        return LentScorer(connection)

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        with Client(self._address, "AF_UNIX") as connection:
            return _ask(connection, method, *arguments, **named)


class LentScorer:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def score(self, rows: Any) -> Any:
        return _ask(self._connection, "score", rows)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> LentScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
