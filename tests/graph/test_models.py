from __future__ import annotations

import sys

import pytest
from pydantic import ValidationError

from evorank.graph.context import Context, open_session
from evorank.graph.models import NotReady, Provider, chat_model, describe, names, provider_of
from evorank.model.errors import ConfigurationError


@pytest.mark.parametrize("name", ["gemini", "google_genai:", ":gemini", "nobody:model"])
def test_an_unknown_model_string_says_which_form_it_must_have(name):
    with pytest.raises(ConfigurationError, match=r"`model`.*provider:model.*package") as refused:
        chat_model(name, 0)
    assert not isinstance(refused.value, NotReady)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("anthropic:claude-sonnet-4-5", "langchain_anthropic", "langchain-anthropic"),
        ("bedrock:x", "langchain_aws", "langchain-aws"),
        ("ollama:qwen3", "langchain_ollama", "langchain-ollama"),
    ],
)
def test_a_provider_whose_package_is_missing_says_what_to_install(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=f"pip install {package}$"):
        chat_model(name, 0)


def test_a_model_without_its_key_is_told_before_anything_is_opened(tmp_path, monkeypatch):
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for fields in ({"model": "google_genai:gemini-2.5-pro"}, {"models": {"linter": "google_genai:x"}}):
        with pytest.raises(NotReady, match=r"API key.*GOOGLE_API_KEY or GEMINI_API_KEY.*\.env"):
            open_session(Context(home=str(tmp_path), **fields))
    assert not list(tmp_path.iterdir())


def test_a_key_is_read_from_the_file_env_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "")  # and is restored, whatever is loaded
    monkeypatch.setenv("GOOGLE_API_KEY", "")
    monkeypatch.delenv("GOOGLE_API_KEY")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("GOOGLE_API_KEY=from-the-file\n")
    assert chat_model("google_genai:gemini-2.5-pro", 0).google_api_key.get_secret_value() == "from-the-file"
    monkeypatch.setenv("GOOGLE_API_KEY", "from-the-shell")
    assert chat_model("google_genai:gemini-2.5-pro", 0).google_api_key.get_secret_value() == "from-the-shell"


def test_a_model_never_retries_by_itself(monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert chat_model("google_genai:gemini-2.5-pro", 0).max_retries == 1, "one try, in Google's words"
    assert chat_model("openai:gpt-5", 0).max_retries == 0


def test_options_reach_the_class_of_the_model(monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "k")
    given = Provider(timeout=30, options={"temperature": 0.25, "thinking_budget": 512})
    made = chat_model("google_genai:gemini-2.5-pro", 0, given)
    assert (made.temperature, made.thinking_budget, made.timeout) == (0.25, 512, 30)
    with pytest.raises(ConfigurationError, match="temperature"):
        chat_model("google_genai:gemini-2.5-pro", 0, Provider(options={"temperature": 7}))


@pytest.mark.parametrize(
    "fields",
    [
        {"options": {"api_key": "x"}},
        {"options": {"google_api_key": "x"}},
        {"options": {"additional_headers": {"authorization": "x"}}},
        {"base_url": "https://me:secret@host/v1"},
        {"base_url": "https://host/v1?key=secret"},
        {"base_url": "host"},
    ],
)
def test_settings_hold_no_keys(fields):
    with pytest.raises(ValidationError, match="keys"):
        Provider(**fields)
    with pytest.raises(ValidationError):
        Context(providers={"google_genai": fields})


def test_several_models_have_commas_between_them():
    assert names("a:b, c:d,a:b") == ("a:b", "c:d")
    assert names(None) == names("") == ()


def test_a_model_is_reached_as_is_set_for_it_or_else_for_its_provider():
    known = {"p:big": Provider(timeout=1), "p": Provider(timeout=2)}
    assert [provider_of(name, known).timeout for name in ("p:big", "p:small", "q:x")] == [1, 2, 300]


def test_what_doctor_says_of_a_model_names_its_package_and_whether_its_key_is_there(monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-secret")
    told = describe("google_genai:gemini-2.5-pro")
    assert "langchain-google-genai 4" in told
    assert "GOOGLE_API_KEY is set" in told
    assert "planted-secret" not in told
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert "ANTHROPIC_API_KEY is not set" in describe("anthropic:claude-sonnet-4-5")
