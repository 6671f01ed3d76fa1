"""models: from a name, provider:model, to a chat model within its limits, or to what is missing for it.

The model itself never retries: `caller.py` does, since the SDKs' own retries ignore how long a provider asks
to wait, and multiply.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from evorank.graph.keys import load_keys, scrub
from evorank.model.errors import ConfigurationError

if TYPE_CHECKING:  # settings are read by every command, and most of them ask no model
    from langchain_core.language_models import BaseChatModel

__all__ = [
    "EMBEDDED",
    "ROLES",
    "NotReady",
    "Provider",
    "Role",
    "chat_model",
    "describe",
    "names",
    "provider_of",
]

Role = Literal["think", "code", "linter", "strategist", "insight"]
"""What a chat model is asked for. Each may have a model of its own."""
ROLES: tuple[Role, ...] = get_args(Role)
EMBEDDED = "embedded"
"""The name of the embedded engineer, where one must be given."""
CONNECT_SECONDS = 5.0
"""Who is not there is named soon; who is there may think for long."""
KEYS: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "azure_openai": ("AZURE_OPENAI_API_KEY",),
    "cohere": ("COHERE_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks": ("FIREWORKS_API_KEY",),
    "google_genai": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistralai": ("MISTRAL_API_KEY",),
    "nvidia": ("NVIDIA_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "perplexity": ("PPLX_API_KEY",),
    "together": ("TOGETHER_API_KEY",),
    "xai": ("XAI_API_KEY",),
}
"""Provider -> the variables any of which holds its key. Others may need one too: their packages say so."""
UNKNOWN = re.compile(r"Unable to infer model provider|Unsupported provider")
"""How init_chat_model begins where it does not know a provider."""
FORBIDDEN = re.compile(r"key|token$|secret|password|credential|authorization|headers", re.IGNORECASE)


class NotReady(ConfigurationError):  # noqa: N818 - a state, and `require_models` may put up with it
    """A model of a known provider that cannot be asked here yet: its package or key is missing, or an option
    is wrong."""


class Provider(BaseModel):
    """How a provider is reached. Keys are not among it: they come from the environment."""

    model_config = ConfigDict(extra="forbid")
    base_url: str | None = Field(default=None, description="Another address than the provider's own")
    timeout: float = Field(default=300, gt=0, description="Seconds an answer may take")
    retries: int = Field(
        default=5, ge=0, le=20, description="Times a question is asked again when the provider fails"
    )
    backoff: float = Field(
        default=2,
        gt=0,
        le=60,
        description="Seconds before the first retry, doubled each time, unless the provider says how long",
    )
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="Most requests a minute; empty: as many as come"
    )
    concurrency: int = Field(default=8, ge=1, le=256, description="Most requests at once")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="More for the chat model's class, e.g. temperature or thinking_budget",
    )

    @field_validator("base_url")
    @classmethod
    def _holds_no_key(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^/@?#\s]+[^@?#\s]*", url):
            raise ValueError(
                "must be http(s)://HOST[:PORT]/PATH without a user or a query: keys come from the environment"
            )
        return url

    @field_validator("options")
    @classmethod
    def _are_no_keys(cls, options: dict[str, Any]) -> dict[str, Any]:
        if wrong := sorted(name for name in options if FORBIDDEN.search(name)):
            raise ValueError(
                f"must hold no keys ({', '.join(wrong)}): they come from the environment or .env"
            )
        return options


def names(given: str | None) -> tuple[str, ...]:
    """The models of `a:b, c:d`, each once; () for None."""
    return tuple(dict.fromkeys(each.strip() for each in (given or "").split(",") if each.strip()))


def provider_of(name: str, providers: Mapping[str, Provider]) -> Provider:
    """How a model is reached: what is set for it by its whole name, or for its provider, or the defaults."""
    return providers.get(name) or providers.get(name.partition(":")[0]) or Provider()


def chat_model(name: str | None, seed: int, provider: Provider | None = None) -> BaseChatModel:
    """The chat model named as `provider:model`; for None or `embedded` the embedded engineer.

    It asks once, within `provider.timeout`, and gives up on an address that does not answer within 5 seconds
    where its package lets one say so.

    Raises ConfigurationError for a name that is not understood; NotReady for a package that is not installed,
    a key that is missing, or an option that its class refuses.
    """
    if name in (None, EMBEDDED):
        from evorank.personas.embedded.engineer import EmbeddedEngineer

        return EmbeddedEngineer(seed=seed)
    first, _, rest = name.partition(":")
    if not first or not rest:
        raise ConfigurationError(
            f"`model` must have the form provider:model, got {name!r}. Try google_genai:gemini-2.5-pro "
            "(package langchain-google-genai), or leave it out for the embedded engineer, which needs no key."
        )
    load_keys()
    given = provider or Provider()
    chosen = given.options | ({"base_url": given.base_url} if given.base_url else {})
    made = _made(name, chosen)
    return _made(name, chosen | _limits(made, given))


def describe(name: str) -> str:
    """What `doctor` says of a model: its package and whether its key is there. It sends nothing."""
    provider = name.partition(":")[0]
    keys = KEYS.get(provider, ())
    held = next((key for key in keys if os.environ.get(key)), None)
    if held:
        key = f"{held} is set"
    elif keys:
        key = f"{' or '.join(keys)} is not set"
    else:
        key = "no key that evorank knows of"
    return f"{name} ({_installed(provider)}; {key})"


def _installed(provider: str) -> str:
    package = f"langchain-{provider.replace('_', '-')}"
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"by another package than {package}"


def _made(name: str, options: Mapping[str, Any]) -> BaseChatModel:
    from langchain.chat_models import init_chat_model
    from langchain_core.language_models import BaseChatModel

    provider = name.partition(":")[0]
    package = f"langchain-{provider.replace('_', '-')}"
    try:
        made = init_chat_model(name, **options)
    except ImportError as error:
        told = re.search(r"pip install (?:-U )?([\w-]+)", str(error))
        raise NotReady(
            f"`model` {name!r} needs a package that is not installed. "
            f"Try: pip install {told.group(1) if told else package}"
        ) from error
    except Exception as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        if UNKNOWN.match(said):
            raise ConfigurationError(
                "`model` must have the form provider:model, of a provider that LangChain's init_chat_model "
                f"knows, got {name!r}. Try google_genai:gemini-2.5-pro (package langchain-google-genai)."
            ) from None
        keys = " or ".join(KEYS.get(provider, ())) or "the provider's key"
        raise NotReady(
            f"`model` {name!r} cannot be asked: {scrub(' '.join(said.split())[:300])} Is its API key set "
            f"({keys}, in the environment or .env), and are its options those of {package}?"
        ) from None
    if not isinstance(made, BaseChatModel):
        raise ConfigurationError(f"`model` must name one chat model, got {name!r}.")
    return made


def _limits(made: BaseChatModel, given: Provider) -> dict[str, Any]:
    """Timeouts, no retries and the rate, in the words that this class understands."""
    from langchain_core.rate_limiters import InMemoryRateLimiter

    known = set(_arguments(type(made)))
    limits: dict[str, Any] = {}
    if given.requests_per_minute:
        limits["rate_limiter"] = InMemoryRateLimiter(
            requests_per_second=given.requests_per_minute / 60, check_every_n_seconds=0.05
        )
    google = "client_args" in known
    if "max_retries" in known:
        limits["max_retries"] = 1 if google else 0  # Google's SDK takes 0 for its own default
    if google:
        limits["timeout"] = given.timeout
        limits["client_args"] = {"event_hooks": {"request": [_connect_soon]}}
    elif "client_kwargs" in known:  # Ollama
        limits["client_kwargs"] = {"timeout": _timeout(given)}
    elif any(base.__name__ == "BaseChatOpenAI" for base in type(made).__mro__):
        limits["timeout"] = _timeout(given)
    elif "timeout" in known:
        limits["timeout"] = given.timeout
    return limits


def _arguments(kind: type[BaseChatModel]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield name
        if field.alias:
            yield field.alias


def _timeout(given: Provider) -> Any:
    import httpx

    return httpx.Timeout(given.timeout, connect=CONNECT_SECONDS)


class _Nothing:
    """What an asynchronous client may await, and a synchronous one may ignore."""

    def __await__(self) -> Iterator[None]:
        return iter(())


def _connect_soon(request: Any) -> _Nothing:
    """An httpx hook: ChatGoogleGenerativeAI has one timeout, for connecting as for reading."""
    limits = request.extensions.get("timeout")
    if limits:
        limits["connect"] = CONNECT_SECONDS
    return _Nothing()
