"""The page's costs as the journal grows: first paint, weight and requests of each view, CPU of the server.

    python benchmarks/page.py [--records 100 10000] [--json]

In the system's Chromium (`apt-get install chromium`), on a home that is made here: attempts of the size that
real ones have, and a production version for every 500 of them. Writes only to a temporary directory. About a
minute; the report's size and time are measured too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evorank.graph.context import Context
from evorank.graph.journal import Journal, thread_id
from evorank.graph.schedule import Schedule
from evorank.graph.state import Attempt, Usage
from evorank.graph.store import Store
from evorank.model.delta import fingerprint
from evorank.ui.report import make_report, write_html
from evorank.ui.serve import serving
from evorank.ui.source import Source

VIEWS = ("/", "/progress", "/journal", "/journal?q=rate&sort=gain", "/lineage", "/compare", "/steering")
TOKEN = "benchmark"
PERSONAS = ("optimizer", "architecture", "reward")
OUTCOMES = ("inconclusive", "worse", "better", "equal", "refused", "inconclusive", "worse")
GENERATION = 500
WHY = (
    "Search step (explore): learning rate (times the usual) from 3.33 to 2 and batch size from 1024 to 2048. "
    "The playbook recommends more, smaller steps for logs like this one, and the journal has not tried it."
)


def production(number: int) -> dict[str, Any]:
    layers = {"h1": "relu(dense(inputs, 128))", "h2": "relu(dense(h1, 128))", "output": "layer_norm(h2)"}
    return {
        "optimizer": {
            "name": "Adagrad",
            "args": {"lr": 0.1 / (1 + number)},
            "batch_size": 1024,
            "epochs": 1.0,
        },
        "architecture": {"embedding_dim": 16, "layers": layers},
        "reward": {"factors": {"clicked": "CAST(click AS DOUBLE)"}, "label": "clicked", "loss": "bce"},
    }


def attempt(step: int) -> Attempt:
    phi = production(step // GENERATION)
    before = fingerprint(phi)
    outcome = OUTCOMES[step % len(OUTCOMES)]
    rate = 0.001 * (1 + step)
    patch = [
        {"op": "replace", "path": "/optimizer/args/lr", "value": rate},
        {"op": "replace", "path": "/optimizer/batch_size", "value": 2048},
    ]
    phi = phi | {"optimizer": phi["optimizer"] | {"args": {"lr": rate}, "batch_size": 2048}}
    gain = {"better": 0.004, "worse": -0.004}.get(outcome, 0.0) + 0.0005 * (step % 5)
    both = {"loss": 0.45, "auc": 0.67, "parameters": 158_369, "train_cpu_seconds": 0.5, "latency_ms": 4.0}
    curve = [[1000 * n, 0.7 - 0.01 * n] for n in range(25)]
    comparison = {
        "metric": "log_loss",
        "lower_is_better": True,
        "verdict": outcome,
        "difference": -gain,
        "low": -gain - 0.003,
        "high": -gain + 0.003,
        "margin": 0.0009,
        "seeds": list(range(8)),
        "effort": "full",
        "rows": 14_653,
        "candidate": both,
        "production": both,
        "reason": "",
        "cpu_seconds": 3.0,
        "curves": {"candidate": curve, "production": curve},
    }
    return Attempt(
        id=thread_id("run", step),
        run=f"run-{step // 1000}",
        step=step,
        surface="simulated",
        data_version="d",
        persona=PERSONAS[step % 3],
        category=("explore", "exploit", "innovate")[step % 3],
        hypothesis=WHY,
        base=before,
        production=before,
        patch=patch,
        changes=patch,
        phi=phi,
        fingerprint=fingerprint(phi),
        outcome=outcome,
        reason="The noise hides the difference; about 40 seeds would tell.",
        comparison=None if outcome == "refused" else comparison,
        usage=Usage(calls=3, cpu_seconds=3.0),
        model="embedded engineer",
        started_at="2026-11-27T06:52:27.000+00:00",
        seconds=24.0,
    )


def make(home: Path, records: int) -> None:
    store = Store.open(home)
    journal, schedule = Journal(store), Schedule(store, "simulated")
    for number in range(1 + (records - 1) // GENERATION):
        schedule.launch(
            phi=production(number), artifact=f"a{number}", experiment=None, why=WHY, key=f"launch/{number}"
        )
    for begin in range(0, records, 1000):
        journal.extend([attempt(step) for step in range(begin, min(begin + 1000, records))])
    store.close()


PAINT = """() => {
  const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter((each) => !each.name.endsWith("/events"));
  return {
    paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null,
    sent: all.reduce((sum, each) => sum + each.transferSize, 0),
    whole: all.reduce((sum, each) => sum + each.decodedBodySize, 0),
    requests: all.length,
  };
}"""


def measure(records: int, chromium: str) -> list[dict[str, Any]]:
    from playwright.sync_api import sync_playwright

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        make(home, records)
        source = Source(Context(home=str(home)))
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        begun = time.process_time()
        source.snapshot()
        rows.append(
            {"records": records, "what": "first read of the journal", "cpu": time.process_time() - begun}
        )
        with serving(source, TOKEN, "benchmark") as address:
            for path in VIEWS:
                tries = []
                for _ in range(3):  # a fresh browser each time: nothing is cached
                    context = browser.new_context()
                    context.set_extra_http_headers({"authorization": f"Bearer {TOKEN}"})
                    page = context.new_page()
                    cdp = context.new_cdp_session(page)
                    cdp.send("Network.setCacheDisabled", {"cacheDisabled": True})
                    before = time.process_time()
                    page.goto(address + path, wait_until="load")
                    page.wait_for_timeout(300)
                    tries.append(page.evaluate(PAINT) | {"cpu": time.process_time() - before})
                    context.close()
                best = {name: statistics.median(each[name] or 0.0 for each in tries) for name in tries[0]}
                rows.append({"records": records, "what": path} | best)
            rows.append(
                {"records": records, "what": "an append is seen", "paint": latency(browser, address, home)}
            )
        begun = time.process_time()
        text = write_html(make_report(source))
        rows.append(
            {
                "records": records,
                "what": "report",
                "cpu": time.process_time() - begun,
                "whole": len(text.encode()),
            }
        )
        browser.close()
        source.close()
    return rows


def latency(browser: Any, address: str, home: Path) -> float:
    """Milliseconds from an append by another process's means until it stands on an open page; median of 5."""
    context = browser.new_context(extra_http_headers={"authorization": f"Bearer {TOKEN}"})
    page = context.new_page()
    page.goto(address)
    page.locator("#connection.live").wait_for()
    journal = Journal.open(home)
    found = []
    for number in range(5):
        page.wait_for_timeout(700)
        fresh = attempt(number).model_copy(
            update={"id": thread_id("fresh", number), "run": "fresh", "hypothesis": f"seen-{number}"}
        )
        begun = time.perf_counter()
        journal.append(fresh)
        page.get_by_text(f"seen-{number}").wait_for()
        found.append(1000 * (time.perf_counter() - begun))
    journal.close()
    context.close()
    return statistics.median(found)


def show(rows: list[dict[str, Any]]) -> None:
    columns = ("records", "view", "first paint, or seen after, ms", "KB sent", "KB unpacked", "requests")
    print(f"| {' | '.join(columns)} | CPU of this process, ms |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for row in rows:
        cells = [
            f"{row['paint']:.0f}" if "paint" in row else "",
            f"{row['sent'] / 1000:.0f}" if "sent" in row else "",
            f"{row['whole'] / 1000:.0f}" if "whole" in row else "",
            f"{row['requests']:.0f}" if "requests" in row else "",
            f"{1000 * row['cpu']:.0f}" if "cpu" in row else "",
        ]
        print(f"| {row['records']:,} | {row['what']} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no Chromium here: apt-get install chromium")
    rows = [row for records in given.records for row in measure(records, chromium)]
    print(json.dumps(rows, indent=2)) if given.json else show(rows)


if __name__ == "__main__":
    main()
