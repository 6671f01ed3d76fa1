"""A home in which both loops really ran, and the page served on one: what tests of the page share."""

from __future__ import annotations

import sys
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "graph"))

from planted import give_traffic
from tiny import make_surface

from evorank.graph.context import Context, close_sessions
from evorank.graph.operations import open_operations
from evorank.graph.plan import new_plan
from evorank.graph.runs import carry_out
from evorank.graph.status import request
from evorank.graph.tick import propose, tick
from evorank.tools.evaluator.local import LocalPool
from evorank.ui.serve import serving as server
from evorank.ui.source import Source

TOKEN = "a-token-of-32-characters-or-so-0000"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
"""What a log or a model might write."""


def live(home: Path) -> None:
    """Both loops: eight steps, a launch, a test that a person aborted, one that waits for a person. Names and
    hypotheses try to be markup."""
    make_surface(home)
    give_traffic(home, {"effect": 1.3, "past": 14})
    with LocalPool(1) as pool:
        context = Context(
            surface="tiny",
            home=str(home),
            parallel=2,
            seeds=2,
            selection="fifo",
            pool=pool,
            personas=["optimizer", "architecture"],
        )
        carry_out(new_plan(context, 8), context)
        first = _submit(context, 0.05, f"A smaller step settles lower. {HOSTILE}")
        _until(context, lambda: _record(context, first).result is not None)
        second = _submit(context, 0.06, "A step in between.")
        _until(context, lambda: _record(context, second).phase == "live")
        request(context, second, "abort", by=HOSTILE, reason=HOSTILE)
        _until(context, lambda: _record(context, second).result is not None)
        careful = context.model_copy(update={"approve": True})
        third = _submit(careful, 0.08, "A larger step after all.")
        _until(careful, lambda: _record(careful, third).decision is not None)
    close_sessions()


def _submit(context: Context, rate: float, why: str) -> str:
    delta = [{"op": "replace", "path": "/optimizer/args/lr", "value": rate}]
    return propose(open_operations(context), delta, why=why, by="ada")


def _record(context: Context, identifier: str):
    found = open_operations(context).session.journal.experiments("tiny")
    return next(each for each in found if each.id == identifier)


def _until(context: Context, done) -> None:
    for _ in range(20):
        tick(context, until=open_operations(context).platform.now() + timedelta(days=1))
        if done():
            return
    raise AssertionError("it does not come to that")


@contextmanager
def serving(home: Path, surface: str = "tiny"):
    """The page on a port of its own, as `evorank ui` serves it: its address, without the token."""
    with (
        closing(Source(Context(surface=surface, home=str(home)))) as source,
        server(source, TOKEN, "ada") as at,
    ):
        yield at
