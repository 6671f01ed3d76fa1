"""What all commands share: their options, their output, and the one place where an error becomes text."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Home", "Json", "console", "errors_are_one_line", "home_path", "print_json", "read_json"]

Home = Annotated[
    Path | None,
    typer.Option(
        help="Folder of everything a run reads and writes. Default: .evorank, or EVORANK_HOME.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]


def console(*, error: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=error, emoji=False)  # `provider:model:` is no picture


def home_path(home: Path | None) -> Path:
    """The home that a command works on: its flag, or what settings say."""
    from evorank.graph.settings import load_settings

    return Path(load_settings({"home": str(home)} if home else {}).home)


def read_json(path: Path) -> Any:
    """What a file given by hand holds. ConfigurationError: it cannot be read, or is no JSON."""
    from evorank.model.errors import ConfigurationError

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"`{path}` is not a JSON file: {error}.") from error


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


@contextlib.contextmanager
def errors_are_one_line() -> Iterator[None]:
    """The only place where an error becomes text and an exit code."""
    from evorank.model.errors import EvorankError

    try:
        yield
    except EvorankError as error:
        console(error=True).print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        where = f" `{error.filename}`" if error.filename else ""
        console(error=True).print(
            f"error:{where} {error.strerror or error}", style="red", markup=False, soft_wrap=True
        )
        raise typer.Exit(1) from error
