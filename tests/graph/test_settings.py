from __future__ import annotations

import pytest

from evorank.graph.settings import Settings, health
from evorank.tools.evaluator import tier
from evorank.tools.evaluator.tier import TierReport, self_test


def line(settings):
    return next(each for each in health(settings) if each["name"] == "lock")


def test_doctor_names_the_tier_in_force_and_its_layers(tmp_path):
    report = self_test()
    found = line(Settings(home=str(tmp_path)))
    assert found["message"].startswith(report.tier)
    assert found["passed"] == (report.tier != "degraded")
    assert all(layer in found["message"] for layer in (report.layers if found["passed"] else report.missing))


def test_a_machine_without_a_layer_is_to_be_mended_unless_it_is_allowed(tmp_path, monkeypatch):
    layers = {"privileges": "holds", "landlock": "Function not implemented", "seccomp": "holds"}
    monkeypatch.setattr(tier, "self_test", lambda: TierReport("degraded", layers))
    found = line(Settings(home=str(tmp_path)))
    assert not found["passed"]
    for word in ("degraded", "landlock: Function not implemented", "--allow-degraded"):
        assert word in found["message"]
    allowed = line(Settings(home=str(tmp_path), allow_degraded=True))
    assert allowed["passed"]
    assert "landlock: Function not implemented" in allowed["message"]


@pytest.mark.parametrize("tier_name", ["locked", "contained"])
def test_either_whole_lock_is_well(tmp_path, monkeypatch, tier_name):
    monkeypatch.setattr(tier, "self_test", lambda: TierReport(tier_name, {"limits": "holds"}))
    assert line(Settings(home=str(tmp_path)))["passed"]
