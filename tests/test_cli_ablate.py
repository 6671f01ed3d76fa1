"""`ablate` as a user types it: a table, a picture, JSON; one clear error; Ctrl-C, and it goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands import command, one_error, trained_by, typed

sys.path.insert(0, str(Path(__file__).parent / "graph"))

from tiny import make_surface

ASKED = ("ablate", "--study", "sorting", "--runs", "2", "--ideas", "2", "--seeds", "2", "--surface", "tiny")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("ablation") / "home"
    make_surface(home)
    return home


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_ends_with_a_table_a_picture_and_the_same_as_json(home: Path, pool) -> None:
    with trained_by(pool):
        said = typed(*ASKED, home=home).stdout
        (told,) = [json.loads(typed(*ASKED, "--json", home=home).stdout)]
    assert "sorting on tiny: 2 runs of 2 ideas, by embedded" in said
    assert [line.split()[0] for line in said.splitlines() if line.startswith(("sorted  ", "unsorted  "))][
        -2:
    ] == [
        "sorted",
        "unsorted",
    ]
    assert [line["variant"] for line in told["lines"]] == ["sorted", "unsorted"]
    folder = Path(told["folder"])
    assert json.loads((folder / "results.json").read_text()) == told
    drawn = ElementTree.fromstring((folder / "best.svg").read_text())
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert any(text.startswith("unsorted") for text in texts if text)
    assert str(folder / "best.svg") in said


def test_a_study_that_cannot_be_made_is_one_error(home: Path) -> None:
    assert "--model A --model B" in one_error("ablate", "--study", "model", home=home)
    assert "Try --model" in one_error("ablate", "--study", "generation", home=home)
    assert "no such" not in one_error("ablate", "--surface", "nowhere", home=home)
    assert "'history', 'persona'" in one_error("ablate", "--study", "colour", home=home)


def test_ctrl_c_ends_it_with_130_and_the_same_command_goes_on(home: Path, pool) -> None:
    words = [word if word != "2" else "3" for word in ASKED[:-2]] + ["--surface", "tiny", "--seed", "7"]
    running = subprocess.Popen(
        command(*words, home=home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home.parent,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(home.glob("ablations/sorting-*/*/7/journal.sqlite")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "interrupted. The same command goes on" in said
    with trained_by(pool):
        assert "sorting on tiny: 3 runs of 3 ideas" in typed(*words, home=home).stdout
