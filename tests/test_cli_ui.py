"""`evorank ui` as a user starts it: what it prints, who gets an answer, how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from evorank.cli import app
from evorank.graph.journal import Journal

pytest.importorskip("fastapi", reason="the extra `ui` is not installed")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def home(tmp_path):
    Journal.open(tmp_path / "home").close()
    return tmp_path / "home"


def test_it_prints_an_address_with_its_token_and_what_it_reads_and_ends_at_ctrl_c(home):
    command = [sys.executable, str(ROOT / "cli.py"), "ui", "--port", "0", "--home", str(home)]
    # Who starts the tests in the background leaves them a Ctrl-C that is ignored.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heard
    ) as process:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        assert "journal.sqlite" in process.stdout.readline()
        plain = address.split("?")[0]
        assert httpx.get(plain).status_code == 401
        with httpx.Client(follow_redirects=True) as browser:
            assert "simulated" in browser.get(address).text
            with browser.stream("GET", f"{plain}events") as listening:  # an open page holds it up for no time
                assert listening.status_code == 200
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 130
        assert process.stderr.read() == ""


def test_what_cannot_be_served_is_one_error(home, tmp_path):
    def fails(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["ui", *arguments])
        assert done.exit_code == 2, done.output
        assert done.stderr.count("error:") == 1
        return done.stderr

    assert "no journal" in fails("--home", str(tmp_path / "nothing"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "is taken" in fails("--home", str(home), "--port", str(taken.getsockname()[1]))
