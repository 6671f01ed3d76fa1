"""The journal as a table for other tools: JSON lines, CSV or Parquet, one row an attempt or experiment."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from evorank.graph.state import Attempt, Experiment
from evorank.model.errors import ConfigurationError

__all__ = ["FORMATS", "export"]

FORMATS = {".jsonl": "", ".csv": "(FORMAT csv, HEADER)", ".parquet": "(FORMAT parquet)"}


def export(records: Iterable[Attempt] | Iterable[Experiment], out: Path) -> int:
    """Write records of one kind to a new file; returns their number. JSON lines keep the nesting; in the
    flat formats, nested fields are JSON text and the comparison's numbers have columns of their own.

    ConfigurationError for an ending that is not .jsonl, .csv or .parquet, or a file that exists.
    """
    if out.suffix not in FORMATS:
        raise ConfigurationError(f"`{out}` must end in one of {', '.join(FORMATS)}, got {out.suffix!r}.")
    if out.exists():
        raise ConfigurationError(f"`{out}` exists already and is not overwritten. Choose another name.")
    rows = [record.model_dump(mode="json") for record in records]
    if not rows:
        raise ConfigurationError("nothing to export: nothing in the journal matches.")
    if out.suffix == ".jsonl":
        out.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return len(rows)
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        flat = Path(folder) / "flat.jsonl"
        flat.write_text("".join(json.dumps(_flat(row)) + "\n" for row in rows))
        # Parameters are not allowed in COPY; quotes are the only character that ends a SQL string.
        source, target = (str(path).replace("'", "''") for path in (flat, out))
        duckdb.connect().execute(
            f"COPY (SELECT * FROM read_json('{source}', sample_size=-1, convert_strings_to_integers=false)) "
            f"TO '{target}' {FORMATS[out.suffix]}"
        )
    return len(rows)


def _flat(row: dict[str, object]) -> dict[str, object]:
    compared = "proxy" if row["kind"] == "experiment" else "comparison"
    comparison = row.pop(compared)
    numbers = ("metric", "difference", "low", "high", "effort", "rows")
    usage = row.pop("usage")
    assert isinstance(usage, dict)
    flat = {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in row.items()}
    flat |= {name: comparison.get(name) if isinstance(comparison, dict) else None for name in numbers}
    return flat | {compared: json.dumps(comparison), **usage}
