"""RecBole atomic files: NAME.inter with optional NAME.user and NAME.item, headers typed as `column:type`.

token is categorical, token_seq a list of words, float numeric; float_seq is left out. Every column of
.inter but user, item and timestamp is taken for a signal unless named in `context`: a signal taken for a
feature would be leakage. https://recbole.io/docs/user_guide/data/atomic_files.html
"""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evorank.model.errors import LogError
from evorank.model.logs import sources
from evorank.model.logs.encode import Progress
from evorank.model.logs.sources import identifier
from evorank.model.logs.spec import (
    Categorical,
    FeatureSpec,
    History,
    LogSpec,
    Numeric,
    SideTable,
    Source,
    Tokens,
)
from evorank.surfaces.importers.common import finish, folder
from evorank.surfaces.surface import Surface

__all__ = ["import_recbole"]

_TYPES = {"token": "VARCHAR", "token_seq": "VARCHAR", "float": "DOUBLE", "float_seq": "VARCHAR"}
_WORDS = 1000
"""A list with a larger vocabulary (titles) is left out: it names single items."""


def import_recbole(
    path: Path,
    name: str,
    home: Path,
    *,
    label: str | None = None,
    context: Sequence[str] = (),
    north_star: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
) -> Surface:
    """The surface of one RecBole dataset: a folder with one .inter file, or that file.

    `label`: SQL in [0, 1] over the signals; by default rating >= 4, or the signal `label` or `click`.
    `context`: columns of .inter known before the impression. `north_star`: active days of users, for logs
    of natural traffic. LogError: no .inter file, a header that is not typed, no timestamp, no signal.
    """
    directory = folder(path, "a RecBole dataset")
    inter = Path(path).absolute() if Path(path).is_file() else _one(directory)
    types = _header(inter)
    user, item, time = (_role(types, inter, prefix) for prefix in ("user", "item", "time"))
    signals = [column for column in types if column not in (user, item, time, *context)]
    if missing := [column for column in context if column not in types]:
        raise LogError(sources.unknown_column("context", missing[0], list(types)))
    if not signals:
        raise LogError(
            f"{inter} has no signal: only {list(types)}. A log of positives alone is one class; add a column "
            "(rating, label, click) that tells what happened."
        )
    features: list[FeatureSpec] = [Categorical(name=user), Categorical(name=item)]
    features += [f for column in context if (f := _feature(column, types[column]))]
    sides = []
    for suffix, key in ((".user", user), (".item", item)):
        if not (table := inter.with_suffix(suffix)).exists():
            continue
        columns = _header(table)
        if key not in columns:
            raise LogError(sources.unknown_column(f"{table.name}: its key", key, list(columns)))
        side = SideTable(**_source(table, columns), key=key)
        sides.append(side)
        features += [
            feature
            for column, kind in columns.items()
            if column not in types and (feature := _feature(column, kind)) and _few_words(feature, side)
        ]
    features.append(Categorical(name="hour", column="hour(time)"))
    label = label or _label(signals)
    # Two lists, because what was seen and not liked says as much of a user nobody knows.
    features.append(History(name="liked_items", of=item, length=20, where=f"({label}) > 0.5"))
    features.append(History(name="recent_items", of=item, length=20))
    log = LogSpec(
        **_source(inter, types),
        user=user,
        item=item,
        time=time,
        signals=signals,
        sides=sides,
        features=features,
    )
    return finish(
        home,
        name,
        log,
        description=f"RecBole dataset {inter.stem}; the label is {label}.",
        label="target",
        factors={"target": label},
        active_user=identifier(user) if north_star else None,
        replace=replace,
        progress=progress,
    )


def _one(directory: Path) -> Path:
    found = sorted(directory.glob("*.inter"))
    if len(found) != 1:
        raise LogError(
            f"`path` must hold one .inter file, {directory} has {[file.name for file in found]}. Name the "
            "file itself."
        )
    return found[0]


def _header(file: Path) -> dict[str, str]:
    """Columns of an atomic file: name -> type."""
    with file.open(encoding="utf-8") as stream:
        line = stream.readline().rstrip("\r\n")
    if not line:
        raise LogError(f"{file} is empty: it must begin with a typed header such as user_id:token.")
    found: dict[str, str] = {}
    for field in line.split("\t"):
        column, _, kind = field.rpartition(":")
        if not column or kind not in _TYPES:
            raise LogError(
                f"{file}: the header must be tab-separated column:type with type in {list(_TYPES)}, got "
                f"{field!r}."
            )
        found[column] = kind
    return found


def _role(types: dict[str, str], file: Path, prefix: str) -> str:
    for column in types:
        if column.lower().startswith(prefix):
            return column
    raise LogError(
        f"{file} has no column for the {prefix}; its columns are {list(types)}. A log needs user, item, time."
    )


def _source(file: Path, types: dict[str, str]) -> dict[str, Any]:
    kinds = {f"{column}:{kind}": _TYPES[kind] for column, kind in types.items()}
    reader = {"delim": "\t", "header": True, "quote": "", "types": kinds}
    columns = {column: identifier(f"{column}:{kind}") for column, kind in types.items()}
    return {"path": str(file), "reader": reader, "columns": columns}


def _feature(column: str, kind: str) -> FeatureSpec | None:
    name = "".join(letter if letter.isalnum() else "_" for letter in column)
    name += "_" * keyword.iskeyword(name)  # `class` cannot be a name in a layer
    if kind == "token":
        return Categorical(name=name, column=column, min_count=2)
    if kind == "float":
        return Numeric(name=name, column=column)
    return Tokens(name=name, column=column) if kind == "token_seq" else None


def _few_words(feature: FeatureSpec, side: Source) -> bool:
    if not isinstance(feature, Tokens):
        return True
    with sources.connect() as connection:
        table = sources.relation(connection, side, "log.sides")
        count = connection.execute(
            "SELECT count(DISTINCT word) FROM (SELECT "
            f"unnest(string_split({identifier(str(feature.column))}, ' ')) "
            f"AS word FROM {table})"
        ).fetchone()
    return bool(count and count[0] <= _WORDS)


def _label(signals: Sequence[str]) -> str:
    if "rating" in signals:
        return "CAST(rating >= 4 AS DOUBLE)"
    for name in ("label", "click", "is_click"):
        if name in signals:
            return f"CAST({name} AS DOUBLE)"
    raise LogError(
        f"`label` is needed: which of the signals {list(signals)} is the goal? Give SQL in [0, 1], e.g. "
        f'"CAST({signals[0]} > 0 AS DOUBLE)".'
    )
