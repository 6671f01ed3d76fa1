"""serve: the page on 127.0.0.1, until Ctrl-C."""

from __future__ import annotations

import getpass
import secrets
import socket
from collections.abc import Callable

from evorank.graph.context import Context
from evorank.model.errors import ConfigurationError

__all__ = ["PORT", "serve"]

PORT = 8765


def serve(context: Context, port: int | None, tell: Callable[[str, str], None]) -> None:
    """Serve a home. `port` None: 8765, or a free one where that is taken. `tell` hears the address with its
    token, and what is read. ConfigurationError: no journal there yet, the port
    is taken, or the extra `ui` is not installed."""
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ConfigurationError(
            f'`ui` needs a package that is not installed ({error.name}). Try: pip install "evorank[ui]"'
        ) from None
    from evorank.ui.app import create_app
    from evorank.ui.source import Source

    source = Source(context)
    try:
        with _listening(port) as listening:
            chosen: int = listening.getsockname()[1]
            token = secrets.token_urlsafe(24)
            app = create_app(source, token, chosen, _user(), lambda: server.should_exit)
            config = uvicorn.Config(
                app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1
            )
            server = uvicorn.Server(config)
            tell(f"http://127.0.0.1:{chosen}/?token={token}", source.store.name)
            server.run(sockets=[listening])
    finally:
        source.close()


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
