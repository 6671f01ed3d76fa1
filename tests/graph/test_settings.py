from __future__ import annotations

from typing import get_args

import pytest

from evorank.graph.context import Context
from evorank.graph.models import Role
from evorank.graph.recording import Head, Recorder
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


GEMINI = "google_genai:gemini-2.5-pro"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory, and no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVORANK_MODEL", raising=False)
    return tmp_path


def test_models_providers_and_prices_are_settings_and_reach_the_context(place):
    (place / "evorank.toml").write_text(
        f'model = "{GEMINI}"\nmax_usd = 2.5\n[models]\nlinter = "embedded"\n'
        "[providers.google_genai]\ntimeout = 60\noptions = { thinking_budget = 1 }\n"
        '[prices."openai:mine"]\ninput = 1\noutput = 2\n'
    )
    context = Context(**load_settings({}).context())
    assert (context.model, context.models, context.max_usd) == (GEMINI, {"linter": "embedded"}, 2.5)
    assert context.providers["google_genai"].options == {"thinking_budget": 1}
    assert context.prices["openai:mine"].output == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[models]\npainter = "embedded"\n', "`models.painter"),
        ('[providers.google_genai]\napi_key = "x"\n', "`providers.google_genai.api_key`"),
        ('[providers.google_genai]\noptions = { api_key = "x" }\n', "keys"),
        ('[prices."a:b"]\ninput = 1\n', "`prices.a:b.output`"),
        ("max_usd = 0\n", "`max_usd`"),
    ],
)
def test_a_wrong_setting_of_models_is_named(place, text, told):
    (place / "evorank.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        load_settings({})


def test_another_address_is_that_of_the_provider_of_the_model(place):
    (place / "evorank.toml").write_text("[providers.google_genai]\ntimeout = 60\n")
    found = load_settings({"model": f"{GEMINI},google_genai:x"}, base_url="http://localhost:1/v1")
    provider = found.providers["google_genai"]
    assert (provider.base_url, provider.timeout) == ("http://localhost:1/v1", 60)
    for model in (None, f"{GEMINI},openai:x"):
        with pytest.raises(ConfigurationError, match="`--base-url` is the address of one provider"):
            load_settings({"model": model}, base_url="http://localhost:1")
    with pytest.raises(ConfigurationError, match=r"`--base-url`.*without a user"):
        load_settings({"model": GEMINI}, base_url="http://me:secret@localhost:1")


def test_what_a_recording_was_made_with_lies_between_flags_and_environment(place, monkeypatch):
    context = {"seed": 3, "model": GEMINI, "seeds": 4, "max_usd": 1.0}
    Recorder(place / "calls.jsonl").begin(Head(steps=7, days=0, context=context))
    monkeypatch.setenv("EVORANK_SEED", "9")
    monkeypatch.setenv("EVORANK_PARALLEL", "2")
    found = load_settings({"seeds": 5, "replay": str(place / "calls.jsonl")})
    assert (found.seed, found.model, found.seeds, found.steps, found.days) == (3, GEMINI, 5, 7, 0)
    assert (found.parallel, found.max_usd) == (2, None)
    monkeypatch.setenv("EVORANK_REPLAY", "calls.jsonl")
    assert load_settings({}).seeds == 4


def test_doctor_says_what_each_role_is_asked_and_what_is_missing(place, monkeypatch):
    home = str(place)
    assert "embedded engineer" in line(Settings(home=home), "chat model")["message"]
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-secret")
    roles = ", ".join(role for role in get_args(Role) if role != "linter")
    told = line(Settings(home=home, model=GEMINI, models={"linter": "google_genai:new"}), "chat model")
    assert told["passed"]
    assert told["message"].startswith(f"{roles}: {GEMINI} (langchain-google-genai ")
    assert "linter: google_genai:new" in told["message"]
    assert "price not known" in told["message"]
    assert "planted" not in told["message"]
    monkeypatch.delenv("GOOGLE_API_KEY")
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    missing = line(Settings(home=home, model=GEMINI), "chat model")
    assert not missing["passed"]
    assert "GOOGLE_API_KEY or GEMINI_API_KEY" in missing["message"]
    unpriced = line(Settings(home=home, model="embedded", models={"code": "a:b"}, max_usd=1), "chat model")
    assert not unpriced["passed"]
