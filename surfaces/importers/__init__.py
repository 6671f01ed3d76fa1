"""Importers: an official layout of a public log becomes a surface. Each writes one surface.toml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evorank.model.conformance import load_system
from evorank.model.errors import ConfigurationError
from evorank.surfaces.importers.kuairand import import_kuairand
from evorank.surfaces.importers.movielens import import_movielens
from evorank.surfaces.importers.recbole import import_recbole
from evorank.surfaces.surface import Surface, use_system

__all__ = ["IMPORTERS", "import_kuairand", "import_log", "import_movielens", "import_recbole"]

IMPORTERS: Mapping[str, Callable[..., Surface]] = {
    "movielens": import_movielens,
    "kuairand": import_kuairand,
    "recbole": import_recbole,
}
"""Name on the command line -> `(path, name, home, *, replace, progress, ...)`."""


def import_log(
    layout: str, path: Path, name: str | None, home: Path, *, system: str | None = None, **options: Any
) -> Surface:
    """The surface of the log at `path`, whose files have that layout; `system` ranks it, if given.

    `name` defaults to the folder's (or file's). ConfigurationError, before anything is written: an unknown
    layout, a system that cannot be imported, a name that is taken.
    """
    if layout not in IMPORTERS:
        raise ConfigurationError(f"`layout` must be one of {', '.join(IMPORTERS)}, got {layout!r}.")
    if system is not None:
        load_system(system)
    path = Path(path).absolute()
    surface = IMPORTERS[layout](path, name or path.stem, home, **options)
    return surface if system is None else use_system(home, surface, system)
