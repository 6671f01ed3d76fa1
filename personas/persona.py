"""Personas: expert roles as Markdown files with front matter, so that a team can write its own.

A file `NAME.md` in a directory of your own replaces the built-in persona of that name or adds a new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from evorank.model.errors import ConfigurationError

__all__ = ["Persona", "load_personas"]

TOOLS = ("compute_loss", "compute_eval", "run_sql_query")
FIELDS = {"title": str, "tools": list, "metric": str, "example": str}


@dataclass(frozen=True)
class Persona:
    """An expert role. `prose` is what its prompts open with; `tools` are the names it may call."""

    name: str
    title: str
    prose: str
    tools: tuple[str, ...]
    metric: str
    """What it is judged by, in words that fit "Your metric is ..."."""
    example: str = ""
    """One delta in the form CODE should answer."""


def load_personas(extra_dir: Path | None = None) -> dict[str, Persona]:
    """The built-in personas by name, then those of `extra_dir`, which win. Raises ConfigurationError."""
    personas = {}
    for entry in sorted(resources.files("evorank.personas").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".md"):
            personas[entry.name[:-3]] = _parse(entry.name, entry.read_text(encoding="utf-8"))
    if extra_dir is not None:
        if not extra_dir.is_dir():
            raise ConfigurationError(
                f"`personas` must be a directory, got {str(extra_dir)!r}. Put one NAME.md per persona in it."
            )
        for path in sorted(extra_dir.glob("*.md")):
            personas[path.stem] = _parse(str(path), path.read_text(encoding="utf-8"))
    return personas


def _parse(source: str, text: str) -> Persona:
    parts = text.split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise ConfigurationError(f"{source} must begin with front matter between two `---` lines, got none.")
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source}: the front matter is not valid YAML: {error}") from None
    if not isinstance(front, dict):
        raise ConfigurationError(f"{source}: the front matter must be `key: value` lines.")
    _check(source, front)
    unknown = [tool for tool in front["tools"] if tool not in TOOLS]
    if unknown:
        raise ConfigurationError(f"{source}: `tools` may name {', '.join(TOOLS)}, got {unknown}.")
    prose = parts[2].strip()
    if not prose:
        raise ConfigurationError(f"{source} has no text after its front matter. Say who the persona is.")
    return Persona(
        name=Path(source).stem,
        title=front["title"],
        prose=prose,
        tools=tuple(front["tools"]),
        metric=front["metric"],
        example=front.get("example", "").strip(),
    )


def _check(source: str, front: dict[str, Any]) -> None:
    for key, kind in FIELDS.items():
        if key not in front and key != "example":
            raise ConfigurationError(f"{source}: the front matter lacks `{key}`.")
        if key in front and not isinstance(front[key], kind):
            raise ConfigurationError(f"{source}: `{key}` must be a {kind.__name__}, got {front[key]!r}.")
    extra = sorted(set(front) - set(FIELDS))
    if extra:
        raise ConfigurationError(f"{source}: unknown front matter {extra}. Known: {', '.join(FIELDS)}.")
