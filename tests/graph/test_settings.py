from __future__ import annotations

import pytest

from evorank.graph.context import Context
from evorank.graph.settings import Settings, health, load_settings
from evorank.model.errors import ConfigurationError
from evorank.tools.evaluator import gpu, tier
from evorank.tools.evaluator.tier import TierReport, self_test


def line(settings, name="lock"):
    return next(each for each in health(settings) if each["name"] == name)


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


def test_doctor_says_where_candidates_compute_and_why(tmp_path, monkeypatch):
    home = str(tmp_path)
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    assert "there is no" in line(Settings(home=home), "device")["message"]
    wanted = line(Settings(home=home, device="cuda"), "device")
    assert not wanted["passed"]
    assert "no GPU can be used" in wanted["message"]
    (tmp_path / "nvidia0").touch()
    locked = line(Settings(home=home), "device")
    assert locked["passed"]
    assert locked["message"].startswith("the CPU: the GPU's lock would be degraded")
    monkeypatch.setattr(gpu, "_tried", lambda: ("NVIDIA X", ""))
    assert line(Settings(home=home, allow_degraded=True), "device")["message"].startswith(
        "NVIDIA X; the lock"
    )
    assert "each node" in line(Settings(home=home, executor="ray"), "device")["message"]


def test_the_device_is_a_setting_like_any_other_and_reaches_the_context(monkeypatch):
    assert Context(**load_settings({}).context()).device == "auto"
    monkeypatch.setenv("EVORANK_DEVICE", "cpu")
    assert Context(**load_settings({}).context()).device == "cpu"
    assert load_settings({"device": "cuda"}).device == "cuda"
    with pytest.raises(ConfigurationError, match=r"`device`.*'tpu'"):
        load_settings({"device": "tpu"})
