"""Importers: an official layout of a public log becomes a surface. Each writes one surface.toml."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evorank.surfaces.importers.kuairand import import_kuairand
from evorank.surfaces.importers.movielens import import_movielens
from evorank.surfaces.importers.recbole import import_recbole
from evorank.surfaces.surface import Surface

__all__ = ["IMPORTERS", "import_kuairand", "import_movielens", "import_recbole"]

IMPORTERS: Mapping[str, Callable[..., Surface]] = {
    "movielens": import_movielens,
    "kuairand": import_kuairand,
    "recbole": import_recbole,
}
"""Name on the command line -> `(path, name, home, *, replace, progress, ...)`."""
