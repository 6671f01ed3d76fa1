"""The page in a real browser, on homes in which both loops really ran."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from both_loops import TOKEN, serving

from evorank.graph.activity import Activity, Doing, read_activity
from evorank.graph.context import Context
from evorank.graph.journal import Journal
from evorank.graph.leases import this_process
from evorank.graph.operations import open_operations
from evorank.graph.tick import tick
from evorank.ui.source import Source

pytest.importorskip("fastapi", reason="the extra `ui` is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
expect.set_options(timeout=15_000)
VIEWS = ("/", "/progress", "/journal", "/experiments", "/lineage", "/steering", "/compare")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
PATIENCE = 15_000


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


class Visitor:
    """A browser window that has opened the printed address, and what it asked for and complained of."""

    def __init__(self, browser, address: str, **options) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.address = address
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on(
            "console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text)
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"{address}/?token={TOKEN}")

    def open(self, path: str) -> None:
        self.page.goto(f"{self.address}{path}")
        self.page.locator("#connection.live").wait_for()

    def leave(self) -> None:
        self.context.close()
        away = [url for url in self.asked if not url.startswith(f"{self.address}/")]
        assert away == [], "the page asked another machine"
        assert self.complaints == []


@pytest.fixture
def visit(browser):
    """Serves a home and opens it: visit(home) -> Visitor. At the end, nothing was asked of another machine,
    and nothing was complained of in the console."""
    made: list[Visitor] = []
    addresses: dict[Path, str] = {}
    with ExitStack() as stack:

        def make(home: Path, **options) -> Visitor:
            if home not in addresses:
                addresses[home] = stack.enter_context(serving(home))
            made.append(Visitor(browser, addresses[home], **options))
            return made[-1]

        yield make
        for each in made:
            each.leave()


def some_attempt(source) -> str:
    return next(each.id for each in source.snapshot().attempts if each.comparison and each.phi)


def launched(source) -> str:
    return next(each.id for each in source.snapshot().experiments if each.result == "launched")


def test_every_view_is_drawn_in_light_dark_print_and_on_a_telephone(finished, source, visit):
    paths = [*VIEWS, f"/attempts/{some_attempt(source)}", f"/experiments/{launched(source)}"]
    for options in (
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"viewport": {"width": 390, "height": 800}},
    ):
        visitor = visit(finished, **options)
        for path in paths:
            visitor.open(path)
            assert visitor.page.locator("h1").is_visible()
            narrow = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            assert visitor.page.evaluate(narrow), f"{path} is wider than the window"
        ink, paper = (
            visitor.page.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("color", "backgroundColor")
        )
        assert (brightness(ink) > brightness(paper)) == (options.get("color_scheme") == "dark")
    visitor.page.emulate_media(media="print")
    assert not visitor.page.locator("nav").first.is_visible()


def brightness(colour: str) -> int:
    return sum(int(each) for each in colour.removeprefix("rgb(").rstrip(")").split(",")[:3])


def test_what_models_wrote_is_shown_and_not_run(finished, source, visit):
    visitor = visit(finished)
    for each in source.snapshot().experiments:
        visitor.open(f"/experiments/{each.id}")
        assert "owned" not in visitor.page.title()
        if "owned" in each.hypothesis + each.reason:
            assert "<img src=x onerror" in visitor.page.locator("#state").inner_text()


def test_a_browser_without_the_token_or_at_another_address_sees_nothing(finished, browser):
    with serving(finished) as address:
        page = browser.new_context().new_page()
        page.goto(f"{address}/?token=wrong")
        expect(page.locator("h1")).to_have_text("A token is needed")
        assert "tiny" not in page.content()
        with pytest.raises(sync_api.Error, match="ERR_CONNECTION_REFUSED"):
            page.goto(address.replace("127.0.0.1", "127.0.0.2") + f"/?token={TOKEN}")


def test_a_new_attempt_appears_without_a_reload(home, visit, attempt):
    visitor = visit(home)
    visitor.open("/")
    visitor.page.evaluate("window.here = 1")
    journal = Journal.open(home, create=False)
    journal.append(
        attempt(77, gain=0.1, outcome="better", surface="tiny", hypothesis="it came while you looked")
    )
    journal.close()
    visitor.page.get_by_text("it came while you looked").wait_for()
    assert visitor.page.evaluate("window.here") == 1
    assert len([url for url in visitor.asked if url.endswith("/events")]) == 2, "one EventSource a page"


def test_a_run_is_seen_to_work_and_seen_to_hang(home, visit):
    (run,) = (home / "runs").glob("*/run.json")
    begun = datetime.now(UTC)

    def tells(at: datetime) -> None:
        doing = Doing(persona="optimizer", node="tool", text="seed 3 of 8", since=begun, at=at)
        told = Activity(
            run=run.parent.name, surface="tiny", process=this_process(), begun=begun, at=at, steps={9: doing}
        )
        (run.parent / "draft").write_text(told.model_dump_json())
        (run.parent / "draft").replace(run.parent / "now.json")

    visitor = visit(home)
    visitor.open("/")
    assert visitor.page.locator("#now .s-finished").is_visible()
    tells(begun)
    visitor.page.locator("#now .s-working").wait_for()
    assert "seed 3 of 8" in visitor.page.locator("#now").inner_text()
    tells(begun - timedelta(minutes=5))
    visitor.page.locator("#now .s-silent").wait_for()
    assert "may be stuck" in visitor.page.locator("#now").inner_text()
    clock = visitor.page.locator("#now tbody time")
    expect(clock).not_to_have_text(clock.inner_text())
    assert read_activity(run.parent) is not None


def test_an_approval_in_the_browser_reaches_the_loop_and_launches(home, visit):
    context = Context(surface="tiny", home=str(home), workers=1, seeds=2, selection="fifo", approve=True)
    found = Source(context)
    (waiting,) = [each.experiment for each in found.snapshot().entries if each.waiting == "approval"]
    visitor = visit(home)
    visitor.open("/")
    visitor.page.locator("#waiting a").first.click()
    assert waiting in visitor.page.url
    visitor.page.get_by_label("Why").fill("the numbers are clear")
    visitor.page.get_by_label("Who").fill("grace")
    visitor.page.get_by_role("button", name="Approve").click()
    visitor.page.locator("#said .good").wait_for()
    # It is a row: nothing has moved, the page says what was asked, and offers it no more.
    visitor.page.get_by_text("approve by grace: the numbers are clear").first.wait_for()
    assert found.snapshot().experiment_of[waiting].result is None
    visitor.page.get_by_role("button", name="Approve").wait_for(state="detached")

    report = tick(context)
    assert report.launched == [waiting] or found.snapshot().experiment_of[waiting].result == "launched"
    visitor.page.locator("#state .s-launched").wait_for()
    record = found.snapshot().experiment_of[waiting]
    assert record.approvals[0]["by"] == "grace"
    assert open_operations(context).schedule.pending(waiting) == []

    visitor.page.get_by_role("button", name="Roll back").wait_for()
    visitor.page.get_by_role("button", name="Roll back").click()
    expect(visitor.page.locator("#said .bad")).to_contain_text("`reason` is needed")
    visitor.page.get_by_label("Why").fill("the shop complains")
    visitor.page.get_by_role("button", name="Roll back").click()
    visitor.page.locator("#said .good").wait_for()
    tick(context)
    assert "rollback to version 2 by grace" in found.snapshot().versions[-1].why
    found.close()


def test_a_pause_its_end_and_an_abort_in_the_browser_reach_the_loop(home, visit):
    context = Context(surface="tiny", home=str(home), workers=1, seeds=2, selection="fifo", approve=True)
    found = Source(context)
    (waiting,) = [each.experiment for each in found.snapshot().entries if each.waiting == "approval"]
    page = (visitor := visit(home)).page
    visitor.open(f"/experiments/{waiting}")

    def ask(button: str) -> None:
        page.get_by_role("button", name=button).click()
        page.locator("#said .good").wait_for()
        page.get_by_text(f"{button.lower()} by ada").first.wait_for()
        tick(context)

    ask("Pause")
    page.locator("#state .s-paused").wait_for()
    assert found.snapshot().entry_of[waiting].paused
    ask("Resume")
    page.locator("#state .s-paused").wait_for(state="detached")
    page.get_by_role("button", name="Abort").click()
    expect(page.locator("#said .bad")).to_contain_text("`reason` is needed")
    page.get_by_label("Why").fill("the shop closes")
    ask("Abort")
    page.locator(
        "#state .s-no_launch"
    ).wait_for()  # its horizon was reached: nothing is stopped, it is not launched
    assert "the shop closes" in found.snapshot().experiment_of[waiting].reason
    assert open_operations(context).schedule.pending(waiting) == []
    found.close()


def test_a_directive_is_added_and_removed_on_the_page(home, visit):
    visitor = visit(home)
    visitor.open("/steering")
    visitor.page.get_by_label("Ask").fill("Prefer small towers.")
    visitor.page.get_by_label("Until").fill("20")
    visitor.page.get_by_role("button", name="Put in force").click()
    row = visitor.page.locator("#directives tbody tr")
    expect(row).to_contain_text("Prefer small towers.")
    expect(row).to_contain_text("20 steps")
    expect(visitor.page.get_by_label("Ask")).to_have_value("")
    visitor.page.get_by_role("button", name="Remove s1").click()
    expect(row).to_have_count(0)
    expect(visitor.page.locator("#directives")).to_contain_text("in force no longer")


def test_the_journal_is_searched_sorted_and_paged_without_a_reload(home, visit, attempt):
    journal = Journal.open(home, create=False)
    journal.extend(
        [
            attempt(step, run="many", gain=step / 1000, surface="tiny", hypothesis=f"thought-{step:03}")
            for step in range(120)
        ]
    )
    journal.close()
    visitor = visit(home)
    visitor.open("/journal")
    visitor.page.evaluate("window.here = 1")
    rows = visitor.page.locator("#table tbody tr")
    assert rows.count() == 50
    visitor.page.get_by_label("Search").press_sequentially("thought-11")
    expect(rows).to_have_count(10)
    visitor.page.get_by_label("Sort").select_option("gain")
    expect(visitor.page).to_have_url(re.compile("gain"))  # the newest was the first one before, too
    expect(rows.first).to_contain_text("thought-119")
    assert "q=thought-11" in visitor.page.url
    # What comes in meanwhile is shown as the table is filtered.
    journal = Journal.open(home, create=False)
    more = [attempt(200, run="many", gain=9.0, surface="tiny", hypothesis="thought-11-and-more")]
    journal.extend([*more, attempt(201, run="many", gain=9.0, surface="tiny", hypothesis="another")])
    journal.close()
    expect(rows).to_have_count(11)
    expect(rows.first).to_contain_text("thought-11-and-more")
    assert visitor.page.evaluate("window.here") == 1
    visitor.page.go_back()
    visitor.page.reload()
    expect(visitor.page.get_by_label("Search")).to_have_value("thought-11")


def test_live_tests_are_filtered_and_sorted_without_a_reload(finished, source, visit):
    visitor = visit(finished)
    visitor.open("/experiments")
    visitor.page.evaluate("window.here = 1")
    rows = visitor.page.locator("#table tbody tr")
    assert rows.count() == len(source.snapshot().experiments)
    visitor.page.get_by_label("State").select_option("launched")
    launched = [each for each in source.snapshot().experiments if each.result == "launched"]
    expect(rows).to_have_count(len(launched))
    expect(visitor.page.locator("#table .bar")).to_contain_text("live test")
    assert "state=launched" in visitor.page.get_by_role("link", name="CSV").get_attribute("href")
    visitor.page.get_by_label("Search").press_sequentially("nothing like it")
    expect(rows).to_have_count(0)
    expect(visitor.page.locator("#table")).to_contain_text("Nothing here")
    assert visitor.page.evaluate("window.here") == 1


def test_a_comparison_of_something_else_begins_with_what_there_is(finished, visit):
    visitor = visit(finished)
    visitor.open("/compare?by=persona&a=optimizer&b=architecture")
    visitor.page.get_by_label("Compare").select_option("category")
    visitor.page.wait_for_url(re.compile("by=category"))
    expect(visitor.page.locator("#sides table")).to_be_visible()


def test_nobody_is_asked_why_where_nothing_can_be_asked(finished, source, visit):
    visitor = visit(finished)
    ended = next(each.id for each in source.snapshot().experiments if each.result == "aborted")
    visitor.open(f"/experiments/{ended}")
    expect(visitor.page.locator("#act")).to_contain_text("It has ended")
    expect(visitor.page.locator("#act input[name=reason]")).not_to_be_visible()


def test_everything_is_reached_by_the_keyboard_and_the_focus_survives_an_update(home, visit, attempt):
    visitor = visit(home)
    visitor.open("/")
    visitor.page.keyboard.press("Tab")
    assert visitor.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = set()
    for _ in range(60):
        visitor.page.keyboard.press("Tab")
        reached.add(visitor.page.evaluate("document.activeElement.getAttribute('href')"))
    assert set(VIEWS) <= reached
    link = visitor.page.locator("#recent a.id").first
    link.focus()
    focused = visitor.page.evaluate("document.activeElement.id")
    journal = Journal.open(home, create=False)
    journal.append(attempt(78, surface="tiny", hypothesis="another one"))
    journal.close()
    visitor.page.get_by_text("another one").wait_for()
    assert visitor.page.evaluate("document.activeElement.id") == focused
    visitor.open("/progress")
    visitor.page.locator("svg.progress a").first.focus()
    assert visitor.page.locator("#tip").is_visible()


def test_charts_and_controls_have_names_for_screen_readers(finished, source, visit):
    visitor = visit(finished)
    for path in [*VIEWS, f"/experiments/{launched(source)}"]:
        visitor.open(path)
        nameless = visitor.page.evaluate(
            """() => [...document.querySelectorAll("svg.chart, svg a, input:not([type=hidden]), select, nav")]
            .filter((each) => !each.ariaLabel && !each.labels?.length && !each.textContent.trim())
            .map((each) => each.outerHTML.slice(0, 120))"""
        )
        assert nameless == [], path
        assert visitor.page.locator("h1").count() == 1
        assert visitor.page.evaluate("document.documentElement.lang") == "en"


def test_a_server_that_is_gone_is_said_to_be_gone(home, browser):
    with serving(home) as address:
        visitor = Visitor(browser, address)
        visitor.open("/")
    visitor.page.locator("#connection.lost").wait_for()
    visitor.context.close()


def test_a_page_that_is_open_asks_for_nothing_while_nothing_happens(home, visit):
    visitor = visit(home)
    visitor.open("/")
    visitor.page.locator("#audit .none").wait_for()
    asked = len(visitor.asked)
    visitor.page.wait_for_timeout(1500)
    assert visitor.asked[asked:] == []
