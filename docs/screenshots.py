"""The pictures of the README: real views of a real run, in the system's Chromium.

    python docs/screenshots.py [--home HOME] [--out docs/images]

Needs a home in which a run on the surface `simulated` has finished (`python cli.py run --steps 24`), and
Chromium (`apt-get install chromium`; with `fonts-inter` it looks as in the README). Works on a copy: queues a
change of its own, lets nine days of it pass, and starts another run, so that there is something to see.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from evorank.graph.activity import read_activity
from evorank.graph.context import Context, close_sessions
from evorank.graph.operations import open_operations
from evorank.graph.tick import propose, tick
from evorank.ui.serve import serving
from evorank.ui.source import Snapshot, Source

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "a-picture"
WIDTH = "/architecture/embedding_dim"
WHY = "Wider embeddings tell more of rare videos apart; watch time should gain on what few have seen."
SIZE = {"width": 1240, "height": 800}


def prepare(home: Path) -> None:
    """A live test in its ninth day."""
    context = Context(home=str(home), workers=1, seeds=2, selection="fifo")
    operations = open_operations(context)
    wider = operations.production()["architecture"]["embedding_dim"] + 8  # there, whatever was launched
    propose(operations, [{"op": "replace", "path": WIDTH, "value": wider}], why=WHY, by="ada")
    tick(context, until=operations.platform.now() + timedelta(days=9))
    close_sessions()


@contextmanager
def another_run(home: Path) -> Iterator[None]:
    """Four candidates at work, until the picture is taken."""
    command = [sys.executable, "cli.py", "run", "--steps", "12", "--days", "0", "--workers", "1"]
    process = subprocess.Popen(
        [*command, "--home", str(home), "--display", "none"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            told = [read_activity(path.parent) for path in (home / "runs").glob("*/now.json")]
            if any(each and not each.ended and each.finished >= 4 and each.steps for each in told):
                break
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(600)  # its running steps finish


def take(page: Any, address: str, path: str, out: Path, height: int, wait: str) -> None:
    page.set_viewport_size(SIZE | {"height": height})
    page.goto(address + path)
    page.locator("#connection.live").wait_for()
    page.locator(wait).first.wait_for()
    page.screenshot(path=out)
    print(f"{out} {out.stat().st_size / 1000:.0f} KB")


def views(found: Snapshot) -> list[tuple[str, str, int, str, str]]:
    """Name, address, height, what must be there, and in which light."""
    live = next(each.id for each in found.experiments if each.phase == "live")
    launched = [each for each in found.experiments if each.result == "launched"]
    return [
        ("overview", "/", 960, "#audit svg", "light dark"),
        ("progress", "/progress", 780, "svg.progress", "light"),
        ("lineage", "/lineage", 760, "svg.lineage", "light"),
        ("live-test", f"/experiments/{live}", 980, "svg.effect", "dark"),
        ("launch", f"/experiments/{launched[-1].id}", 1000, "svg.effect", "light"),
    ]


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".evorank"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no Chromium here: apt-get install chromium")
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder) / "home"
        shutil.copytree(given.home, home)
        prepare(home)
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        source = Source(Context(home=str(home)))
        with serving(source, TOKEN, "ada") as address, another_run(home):
            for scheme in ("light", "dark"):
                context = browser.new_context(color_scheme=scheme, device_scale_factor=1.5)
                page = context.new_page()
                page.goto(f"{address}/steering?token={TOKEN}")
                for name, path, height, wait, schemes in views(source.snapshot()):
                    if scheme in schemes:
                        take(page, address, path, given.out / f"{name}-{scheme}.png", height, wait)
                context.close()
        browser.close()
        source.close()


if __name__ == "__main__":
    main()
