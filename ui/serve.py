"""serve: the page on 127.0.0.1, until Ctrl-C, or for as long as a script or a test looks at it."""

from __future__ import annotations

import getpass
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from evorank.graph.context import Context
from evorank.model.errors import ConfigurationError

if TYPE_CHECKING:
    import uvicorn

    from evorank.ui.source import Source

__all__ = ["PORT", "serve", "serving"]

PORT = 8765


def serve(context: Context, port: int | None, tell: Callable[[str, str], None]) -> None:
    """Serve a home. `port` None: 8765, or a free one where that is taken. `tell` hears the address with its
    token, and what is read. ConfigurationError: no journal there yet, the port
    is taken, or the extra `ui` is not installed."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f'`ui` needs a package that is not installed ({error.name}). Try: pip install "evorank[ui]"'
        ) from None
    from evorank.ui.source import Source

    source = Source(context)
    try:
        with _listening(port) as listening:
            token = secrets.token_urlsafe(24)
            server, address = _server(source, token, listening, _user())
            tell(f"{address}/?token={token}", source.store.name)
            server.run(sockets=[listening])
    finally:
        source.close()


@contextmanager
def serving(source: Source, token: str, by: str) -> Iterator[str]:
    """The same page on a free port, in a thread: its address, without the token. `source` is left open."""
    with _listening(0) as listening:
        server, address = _server(source, token, listening, by)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield address
        finally:
            server.should_exit = True
            thread.join(10)


def _server(source: Source, token: str, listening: socket.socket, by: str) -> tuple[uvicorn.Server, str]:
    """What answers on a socket, in the name of `by`, and its address."""
    import uvicorn

    from evorank.ui.app import create_app

    port: int = listening.getsockname()[1]
    app = create_app(source, token, port, by, lambda: server.should_exit)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    return server, f"http://127.0.0.1:{port}"


def _listening(port: int | None) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for wanted in (port,) if port is not None else (PORT, 0):
        try:
            made.bind(("127.0.0.1", wanted))
        except OSError:
            continue
        made.listen(128)
        return made
    made.close()
    raise ConfigurationError(f"`--port {port}` is taken. Choose another, or leave it out for a free one.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
