"""events: tells an open page that there is something new to see, as server-sent events.

A page hears only *that* something changed, and asks for what it shows itself. Whoever writes need not know of
any page: the store and the runs' folders are looked at four times a second, for microseconds, and only while
somebody listens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool

__all__ = ["stream"]

EVERY, AT_MOST, ANYWAY = 0.25, 0.5, 20.0
"""Seconds between two looks, and between two events at least; and after which a page is told in any case,
so that silence is seen."""


async def stream(mark: Callable[[], str], ending: Callable[[], bool]) -> AsyncIterator[str]:
    """Events until the listener goes away, or the server does (`ending`). `mark`: another text whenever
    something has changed."""
    seen, told = await run_in_threadpool(mark), time.monotonic()
    yield "retry: 1000\n\n"
    while not ending():
        await asyncio.sleep(EVERY)
        now, age = await run_in_threadpool(mark), time.monotonic() - told
        if (now != seen and age >= AT_MOST) or age >= ANYWAY:
            seen, told = now, time.monotonic()
            yield "event: changed\ndata: \n\n"
