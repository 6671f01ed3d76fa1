"""What DuckDB reads a log from: files become SQL, their content becomes a key, its errors become ours."""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from evorank.model.errors import LogError
from evorank.model.logs.spec import Source

__all__ = [
    "connect",
    "content_hashes",
    "explained",
    "find_files",
    "identifier",
    "literal",
    "relation",
    "unknown_column",
]

DATABASES = {".duckdb", ".ddb", ".db"}


def connect(memory_limit: str = "1GB", spill: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB in UTC that spills to `spill` beyond `memory_limit`."""
    connection = duckdb.connect(config={"memory_limit": memory_limit, "threads": min(4, os.cpu_count() or 1)})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    if spill is not None:
        connection.execute(f"SET temp_directory = {literal(str(spill))}")
    return connection


def identifier(name: str) -> str:
    """`name` quoted as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """`value` as a SQL literal: text, number, truth, list or mapping."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(str(key))}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return "'" + str(value).replace("'", "''") + "'"


def find_files(source: Source, field: str) -> list[Path]:
    """The files of a source, globs expanded, sorted within each glob. LogError names what is missing."""
    found: list[Path] = []
    for pattern in source.paths():
        path = Path(pattern).expanduser()
        if path.is_file():
            found.append(path)
            continue
        if path.is_dir():
            raise LogError(
                f"{field}.path is a directory, got {pattern}. Name its files, e.g. {path / '*.parquet'}"
            )
        matches = sorted(
            Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file()
        )
        if not matches:
            beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
            close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.5)
            hint = (
                f"Did you mean {path.parent / close[0]}?"
                if close
                else "Check the path and that it is mounted."
            )
            raise LogError(f"{field}.path matches no file, got {pattern}. {hint}")
        found.extend(matches)
    return found


def relation(connection: duckdb.DuckDBPyConnection, source: Source, field: str) -> str:
    """SQL of a subquery over the source with its added columns. Attaches a DuckDB database read-only."""
    files = find_files(source, field)
    with explained(f"{field}.path"):
        suffix = next(
            (part for part in reversed(files[0].suffixes) if part not in {".gz", ".zst"}), ""
        ).lower()
        options = "".join(f", {name} = {literal(value)}" for name, value in source.reader.items())
        listed = literal([str(file) for file in files])
        if source.table is not None or suffix in DATABASES:
            base = _attached(connection, files[0], source.table, field)
        elif suffix in {".parquet", ".pq"}:
            base = f"read_parquet({listed}{options or ', union_by_name = true'})"
        elif suffix in {".json", ".jsonl", ".ndjson"}:
            base = f"read_json({listed}{options})"
        else:
            base = f"read_csv({listed}{options})"
        known = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {base}").fetchall()}
    replaced = [f"({sql}) AS {identifier(name)}" for name, sql in source.columns.items() if name in known]
    added = [f"({sql}) AS {identifier(name)}" for name, sql in source.columns.items() if name not in known]
    star = f"* REPLACE ({', '.join(replaced)})" if replaced else "*"
    query = f"(SELECT {', '.join([star, *added])} FROM {base})"
    with explained(f"{field}.columns", sorted(known)):
        connection.execute(f"DESCRIBE SELECT * FROM {query}")
    return query


def _attached(connection: duckdb.DuckDBPyConnection, file: Path, table: str | None, field: str) -> str:
    alias = "source_" + hashlib.blake2b(str(file).encode(), digest_size=6).hexdigest()
    connection.execute(f"ATTACH IF NOT EXISTS {literal(str(file))} AS {alias} (READ_ONLY)")
    rows = connection.execute(
        "SELECT schema_name || '.' || table_name FROM duckdb_tables() WHERE database_name = $1 UNION ALL "
        "SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE database_name = $1 AND NOT "
        "internal",
        [alias],
    ).fetchall()
    tables = sorted(row[0] for row in rows)
    if table is None and len(tables) == 1:
        table = tables[0]
    wanted = f"main.{table}" if table and "." not in table else str(table)
    if wanted not in tables:
        raise LogError(f"{field}.table must name a table of {file}, got {table!r}. It has {tables}.")
    return f"{alias}.{'.'.join(identifier(part) for part in wanted.split('.', 1))}"


@contextmanager
def explained(field: str, known: Sequence[str] = ()) -> Iterator[None]:
    """Turn what DuckDB or the disk refuses into a LogError that names `field` and says what to try."""
    try:
        yield
    except duckdb.Error as error:
        text = str(error).strip()
        first = text.splitlines()[0]
        missing = re.search(r'(?:column|named) "([^"]+)"', first) if "not found" in text else None
        if missing and known:
            raise LogError(unknown_column(field, missing[1], known)) from None
        if isinstance(error, duckdb.OutOfMemoryException) or re.search("No space left|File too large", text):
            raise LogError(
                f"{field}: the disk or the memory limit is full ({first}). Free some and retry."
            ) from None
        raise LogError(f"{field} cannot be read: {' '.join(text.split())[:400]}") from None
    except OSError as error:
        raise LogError(
            f"{field}: {error.strerror or error} ({error.filename or 'while writing'}). Free disk space, "
            "or point "
            "--home at another disk, and run again; nothing half-written is kept."
        ) from None


def unknown_column(field: str, name: str, known: Sequence[str]) -> str:
    """The sentence for a column that is not there, with the nearest that is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        close = [each for each in known if each.lower() == name.lower()]
    shown = ", ".join(known[:40]) + (" ..." if len(known) > 40 else "")
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{field} names no column, got {name!r}.{hint} Columns: {shown}."


def content_hashes(sources: Mapping[str, Source], memo: Path) -> dict[str, list[str]]:
    """Hash of every file of every source, remembered in `memo` by path, size and modification time.

    A source whose files are gone, but were hashed before, keeps its hashes: an encoded log outlives its
    source, so that a home can be copied to another machine.
    """
    known: dict[str, Any] = {"files": {}, "sources": {}}
    with suppress(OSError, ValueError):
        known = json.loads(memo.read_text())
    before = json.dumps(known, sort_keys=True)
    hashes: dict[str, list[str]] = {}
    for field, source in sources.items():
        pattern = "|".join(source.paths())
        try:
            files = find_files(source, field)
        except LogError:
            if pattern not in known["sources"]:
                raise
            hashes[field] = known["sources"][pattern]
            continue
        hashes[field] = [_hash(file, known["files"]) for file in files]
        known["sources"][pattern] = hashes[field]
    if json.dumps(known, sort_keys=True) != before:
        memo.parent.mkdir(parents=True, exist_ok=True)
        partial = memo.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps(known, indent=1, sort_keys=True))
        partial.replace(memo)
    return hashes


def _hash(file: Path, known: dict[str, Any]) -> str:
    path, stat = str(file.resolve()), file.stat()
    entry = known.get(path)
    if not entry or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        entry = known[path] = [stat.st_size, stat.st_mtime_ns, digest]
    return str(entry[2])
