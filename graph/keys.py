"""keys: what must not leave this process. They come from the environment or `.env`, and stay out of texts.

Also whether LangSmith, which LangChain talks to when an environment variable says so, hears of a run.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from dotenv import dotenv_values

__all__ = ["load_keys", "scrub", "trace"]

SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)S?(_\d+)?$", re.IGNORECASE)
SHORTEST = 8
"""Shorter values are no keys, and removing them would spoil ordinary words."""
SWITCHES = ("LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING", "LANGCHAIN_TRACING")


def load_keys() -> None:
    """Read `.env` of the working directory into this process's environment; what is set to something wins.

    Helper processes never see it: each gets an environment of its own, made of named variables.
    """
    for name, value in dotenv_values(Path.cwd() / ".env").items():
        if value and not os.environ.get(name):
            os.environ[name] = value


def scrub(text: str) -> str:
    """The text without the value of any variable of the environment that is named like a key.

    Providers quote what they were sent in their errors, and errors are journaled, shown and recorded.
    """
    values = {
        value for name, value in os.environ.items() if SECRET.search(name) and len(value.strip()) >= SHORTEST
    }
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value.strip(), "***")
    return text


def trace(on: bool) -> None:
    """Let LangSmith hear of everything from here on, or of nothing: neither as tracer nor as gateway.

    Its variables are often set for other work, and prompts hold what a surface's owner may not give away.
    """
    for name in SWITCHES:
        os.environ[name] = "true" if on else "false"
    if not on:
        os.environ.pop("LANGSMITH_GATEWAY", None)
    if "langsmith.utils" in sys.modules:  # it remembers what it read
        sys.modules["langsmith.utils"].get_env_var.cache_clear()
