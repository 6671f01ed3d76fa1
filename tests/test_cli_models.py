"""Chat models as a user meets them: a key in `.env`, a budget, a recording, and nothing that leaks."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "graph"))

from scripted import ACCEPT, learning_rate, proposal  # noqa: E402
from tiny import make_surface  # noqa: E402
from wire import Asked, Wire, fault, in_turn, no_such_key, words  # noqa: E402

from evorank.graph.journal import Journal  # noqa: E402

GEMINI = "google_genai:gemini-2.5-pro"
KEY = "planted-AIzaSy-0123456789"
SAME = {"patch": [{"op": "test", "path": "/optimizer/name", "value": "Adagrad"}]}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tiny") / "home"
    make_surface(home)
    return home


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    """A working directory with a home in it, whose surface is a link: it is only read."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "surfaces").symlink_to(template / "surfaces")
    (tmp_path / ".env").write_text(f"GOOGLE_API_KEY={KEY}\n")
    return tmp_path


def settings(place: Path, url: str, **more: Any) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in more.items()]
    lines += ['surface = "tiny"', "seeds = 2", "parallel = 1", 'personas = ["optimizer"]']
    lines += ["[providers.google_genai]", f'base_url = "{url}"', "backoff = 0.001", "retries = 1"]
    (place / "evorank.toml").write_text("\n".join(lines))


def cli(place: Path, *arguments: str, check: int = 0, **environment: str) -> str:
    """What a command prints on both streams."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=place,
        env={name: value for name, value in os.environ.items() if not name.endswith("API_KEY")}
        | {"COLUMNS": "200", "EVORANK_HOME": str(place / "home"), "GOOGLE_API_KEY": ""}
        | environment,
        timeout=300,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == check, f"exit {done.returncode}\n{printed}"
    return printed


@pytest.fixture
def langsmith() -> Iterator[tuple[dict[str, str], list[str]]]:
    """A place that LangSmith's client would send to, as variables that users set; and what came there."""
    came: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            came.append(self.path)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(202)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = do_PATCH = _answer

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    variables = {f"{name}_TRACING": "true" for name in ("LANGSMITH", "LANGCHAIN")}
    variables |= {"LANGCHAIN_TRACING_V2": "true", "LANGSMITH_ENDPOINT": url, "LANGSMITH_GATEWAY": url}
    yield variables | {"LANGSMITH_API_KEY": "lsv2-planted-0123456789"}, came
    server.shutdown()
    server.server_close()


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def test_a_run_with_a_budget_stops_goes_on_and_is_replayed_and_no_key_is_left_anywhere(
    place: Path, langsmith: tuple[dict[str, str], list[str]]
) -> None:
    variables, came = langsmith
    environments: list[bytes] = []

    def script(asked: Asked) -> Any:
        for child in descendants(os.getpid()):
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
                if b"evorank" in command and b"cli.py" not in command:
                    environments.append(Path(f"/proc/{child}/environ").read_bytes())
            except OSError:
                continue
        return answers(asked)

    answers = in_turn(
        words=lambda asked: words(asked, "ok", prompt=10, output=1, thoughts=0, cached=0),
        Proposal=proposal(),
        Delta=[learning_rate(0.05), SAME],
        Review=ACCEPT,
    )
    with Wire(script) as wire:
        settings(place, wire.url)
        asked = ("run", "--model", GEMINI, "--steps", "3", "--record", "calls.jsonl", "--max-usd", "0.007")
        printed = cli(place, *asked, "--display", "lines", check=3, **variables)
        assert {each.headers["x-goog-api-key"] for each in wire.asked} == {KEY}
        assert "dollars spent. Go on with: python cli.py run --resume" in printed
        assert re.search(r"linter +google_genai:gemini-2.5-pro +1 +1,000 +800 +140 +40 +0 +\$0.0018", printed)
        (resume,) = re.findall(r"python cli\.py (run --resume .*)", printed)
        assert resume.endswith("--max-usd 0.014")
        printed += cli(place, *shlex.split(resume), "--display", "lines", **variables)
        assert "3/3 steps" in printed
    assert len(environments) > 0
    assert came == [], "LangSmith was asked for by nobody"
    (place / "again").mkdir()
    (place / "again" / "surfaces").symlink_to(place / "home" / "surfaces")
    (place / ".env").unlink()
    printed += cli(place, "run", "--replay", "calls.jsonl", "--home", "again", "--display", "lines")
    assert "replayed: this was paid when it was recorded" in printed
    found = {}
    for home in ("home", "again"):
        journal = Journal.open(place / home, create=False)
        found[home] = journal.attempts()
        journal.close()
    assert [each.outcome for each in found["home"]][1:] == ["duplicate", "duplicate"]
    differences = {home: attempts[0].comparison["difference"] for home, attempts in found.items()}
    assert differences["home"] == differences["again"]
    for home, first in (("again", found["again"][0]),):
        shown = cli(place, "journal", "show", first.id, "--home", home)
        assert (
            "think      google_genai:gemini-2.5-pro: 1,000 in (800 cached), 140 out (40 thinking), $0.0018"
            in shown
        )
        assert "chat models: 3,000 in (2,400 cached), 420 out (120 thinking), $0.0053" in shown
    assert KEY not in printed
    assert not any(KEY.encode() in each or b"planted" in each for each in environments)
    files = [each for each in place.rglob("*") if each.is_file() and not each.is_symlink()]
    assert {"calls.jsonl", "journal.sqlite", "run.json", "checkpoints.sqlite"} <= {
        each.name for each in files
    }
    assert not [each for each in files if b"planted" in each.read_bytes()]


def test_a_wrong_key_is_one_line_and_exit_code_1_before_anything_is_written(place: Path) -> None:
    with Wire(lambda asked: no_such_key()) as wire:
        settings(place, wire.url)
        printed = cli(place, "run", "--model", GEMINI, check=1)
    assert printed.startswith(f"error: chat model: {GEMINI} (refused): ")
    assert "API key not valid" in printed
    assert KEY not in printed
    assert len(wire.asked) == 1
    assert [each.name for each in (place / "home").iterdir()] == ["surfaces"]


def test_a_provider_that_breaks_on_the_way_ends_the_run_with_its_cause_and_no_key_it_quotes(
    place: Path,
) -> None:
    quotes = fault(403, f"the key {KEY} may not use this model", state="PERMISSION_DENIED")
    hello = lambda asked: words(asked, "ok")  # noqa: E731
    with Wire(in_turn(words=hello, Proposal=proposal(), Delta=[SAME, quotes])) as wire:
        settings(place, wire.url)
        asked = ("run", "--steps", "5", "--model", GEMINI, "--record", "calls.jsonl", "--display", "lines")
        printed = cli(place, *asked, check=1)
    assert f"chat model: {GEMINI} (refused): " in printed
    assert "the key *** may not use this model" in printed
    (resume,) = re.findall(r"Go on with: python cli\.py run --resume (\S+)", printed)
    summary = (place / "home" / "runs" / resume / "summary.json").read_text()
    assert json.loads(summary)["finished"] == 1
    files = [each for each in (place / "home").rglob("*") if each.is_file() and not each.is_symlink()]
    assert not [each for each in (*files, place / "calls.jsonl") if b"planted" in each.read_bytes()]
    assert KEY not in printed


def test_an_address_where_nobody_is_ends_the_run_before_it_begins(place: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    settings(place, "http://127.0.0.1:1")
    printed = cli(place, "run", "--model", GEMINI, "--base-url", url, check=1)
    assert printed.startswith(f"error: chat model: {GEMINI} (unreachable): ")
    assert [each.name for each in (place / "home").iterdir()] == ["surfaces"]


@pytest.mark.parametrize(
    ("limit", "told", "more"),
    [
        (("--max-tokens", "4000"), "budget: 4,560 of 4,000 tokens spent", " --max-tokens 8000"),
        (("--max-minutes", "0.000001"), "budget: 0.0 of 0.0 minutes spent", ""),
    ],
)
def test_tokens_and_minutes_end_a_run_between_two_questions(
    place: Path, limit: tuple[str, str], told: str, more: str
) -> None:
    with Wire(in_turn(words=lambda asked: words(asked, "ok"), Proposal=proposal(), Delta=SAME)) as wire:
        settings(place, wire.url)
        printed = cli(place, "run", "--steps", "50", "--model", GEMINI, *limit, "--display", "lines", check=3)
    assert re.search(
        rf"{re.escape(told)}\. Go on with: python cli\.py run --resume \S+ --home \S+{more}\n", printed
    )


def test_a_dry_run_prints_prompts_tokens_and_cost_without_a_key(place: Path) -> None:
    (place / ".env").unlink()
    settings(place, "http://127.0.0.1:1")
    asked = ("run", "--dry-run", "--steps", "5", "--model", GEMINI)
    found = json.loads(cli(place, *asked, "--linter-model", "anthropic:claude-sonnet-4-5", "--json"))
    assert [each["call"] for each in found["prompts"]] == ["think", "code", "review", "insight"]
    assert "## Journal" in found["prompts"][0]["text"]
    assert found["calls"] == {"think": 5, "code": 5, "review": 5}
    assert found["usd"] > 0
    assert [each.name for each in (place / "home").iterdir() if each.name == "runs"] == []
    assert "GOOGLE_API_KEY" in cli(place, "run", "--steps", "1", "--model", GEMINI, check=2)
    asked = ("run", "--dry-run", "--model", "nosuch:model")
    printed = cli(place, *asked, check=2)
    assert printed.startswith("error: `model` must have the form provider:model")
    assert "'nosuch:model'" in printed


def test_langsmith_hears_of_a_run_when_it_is_asked_for(
    place: Path, langsmith: tuple[dict[str, str], list[str]]
) -> None:
    variables, came = langsmith
    with Wire(in_turn(words="ok", Proposal=proposal(), Delta=SAME)) as wire:
        settings(place, wire.url)
        cli(place, "run", "--steps", "1", "--model", GEMINI, "--trace", "--display", "none", **variables)
    assert came


def test_doctor_names_each_model_its_package_its_price_and_whether_its_key_is_there(place: Path) -> None:
    settings(place, "http://127.0.0.1:1", model=GEMINI)
    (place / "evorank.toml").open("a").write('\n[models]\nlinter = "embedded"\n')

    def told(**environment: str) -> dict[str, Any]:
        printed = cli(place, "doctor", "--json", check=0 if not environment else 1, **environment)
        return next(each for each in json.loads(printed) if each["name"] == "chat model")

    message = told()["message"]
    assert f"think, code, strategist, insight: {GEMINI} (langchain-google-genai" in message
    assert "GOOGLE_API_KEY is set), $1.25 in, $10 out a million tokens" in message
    assert "linter: the embedded engineer" in message
    assert KEY not in message
    missing = told(EVORANK_MODEL="nosuch:model")
    assert not missing["passed"]
    assert "nosuch" in missing["message"]
