"""exchanges: what chat models were asked and answered, word for word, so that a decision can be read whole.

Compressed in the store, the newest `KEPT` of a surface: a prompt with a long journal is 200 KB of text, and a
tenth of that here. A recording (`--record`) is apart from this: a file that holds a whole run and replays it.
"""

from __future__ import annotations

import time
import uuid
import zlib

from evorank.graph.keys import scrub
from evorank.graph.recording import Line
from evorank.graph.store import Store

__all__ = ["KEPT", "Exchanges"]

KEPT = 2_000
"""Of a surface: those of some 500 attempts."""


class Exchanges:
    """The exchanges of one surface. Processes share them by the store."""

    def __init__(self, store: Store, surface: str) -> None:
        self.store, self.surface = store, surface

    def keep(self, run: str | None, line: Line) -> None:
        """Write one down, and forget the oldest where there are more than `KEPT`. No line holds a key."""
        data = zlib.compress(scrub(line.model_dump_json(exclude_defaults=True)).encode())
        mark = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}"
        with self.store.transaction() as access:
            access.execute(
                "INSERT INTO evorank_exchanges (id, surface, run, step, data) VALUES (?, ?, ?, ?, ?)",
                *(mark, self.surface, run or "", -1 if line.step is None else line.step, data),
            )
            access.execute(
                "DELETE FROM evorank_exchanges WHERE surface = ? AND id <= (SELECT id FROM evorank_exchanges"
                " WHERE surface = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
                *(self.surface, self.surface, KEPT),
            )

    def of(self, run: str, step: int) -> list[Line]:
        """Those of one step of a run that are still kept, in the order of the answers."""
        with self.store.reading() as access:
            rows = access.execute(
                "SELECT data FROM evorank_exchanges WHERE surface = ? AND run = ? AND step = ? ORDER BY id",
                *(self.surface, run, step),
            )
        return [Line.model_validate_json(zlib.decompress(bytes(data))) for (data,) in rows]
