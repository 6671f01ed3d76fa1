"""The comparison with other libraries asks for what it needs, measures evorank, and names who failed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    return peers


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "peers.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_other_libraries_need_an_interpreter_of_their_own(peers, capsys):
    with pytest.raises(SystemExit):
        peers.parse([])
    assert "--peers-python is needed" in capsys.readouterr().err
    assert peers.parse(["--library", "evorank"]).rows == 1_000_000
    assert peers.parse(["--peers-python", "python"]).group == ["46k", "1M"]


@pytest.mark.parametrize("wrong", [["--rows", "0"], ["--repeats", "0"], ["--group", "2M"]])
def test_arguments_that_make_no_sense_are_refused(peers, wrong):
    with pytest.raises(SystemExit):
        peers.parse(["--library", "evorank", *wrong])


@pytest.mark.heavy
def test_the_evorank_arm_trains_what_the_ranker_trains(peers, monkeypatch, capsys):
    plain, _, unlike = (arm for arm in peers.ARMS if arm.library == "evorank")
    monkeypatch.setattr(peers, "ARMS", [plain, unlike])
    asked = ["--rows", "5000", "--repeats", "1", "--group", "46k", "--library", "evorank", "--json"]
    monkeypatch.setattr(sys, "argv", ["peers.py", *asked])
    peers.main()
    report = json.loads(capsys.readouterr().out)
    results = {result["arm"]: result for result in report["groups"]["46k"]}
    assert set(results) == {plain.name, unlike.name}
    assert all(r["samples_per_cpu_second"] > 0 and r["ratio"] is None for r in results.values())

    import training

    _, loss = training.ours(training.generate(5000, 46_000), 0)
    assert results["evorank, as the peers"]["log_loss"] == pytest.approx(loss, abs=1e-4)


def test_a_library_that_is_not_there_is_named_with_its_error():
    where = ("--peers-python", sys.executable, "--library", "recbole")
    done = start("--rows", "1000", "--repeats", "1", "--group", "46k", *where)
    assert done.returncode == 1
    assert "RecBole failed" in done.stderr
    assert "ModuleNotFoundError" in done.stderr


def test_ratios_are_against_the_fastest_peer_used_as_it_is(peers):
    arms = [
        peers.Arm("ours", "evorank"),
        peers.Arm("slow", "recbole"),
        peers.Arm("fast, bf16", "recbole", bf16=True),
        peers.Arm("by hand", "fuxictr", stock=False),
    ]
    cpu = {"ours": [1.0, 9.0, 2.0], "slow": [4.0], "fast, bf16": [1.0], "by hand": [0.5]}
    runs = {
        name: [{"cpu": value, "wall": 2 * value, "loss": 0.5 + value / 10} for value in values]
        for name, values in cpu.items()
    }
    ours, _, _, by_hand = peers.summarize(arms, runs, 100)
    assert (ours.samples_per_cpu_second, ours.samples_per_second) == (50, 25)
    assert (ours.ratio, ours.ratio_same_precision) == (0.5, 2.0)
    assert (ours.log_loss, ours.log_loss_spread) == (0.9, 0.4359)
    assert by_hand.ratio == 2.0


def test_the_peers_are_pinned():
    lines = (BENCHMARKS / "requirements-peers.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert {"recbole", "fuxictr", "deepctr-torch", "torch"} <= {pin.split("==")[0] for pin in pins}
