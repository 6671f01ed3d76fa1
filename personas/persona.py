"""Personas: expert roles as Markdown files with front matter, so that a team can write its own.

A file `NAME.md` in a folder of your own replaces the built-in persona of that name or adds a new one:

    ---
    title: cost engineer                  what the prompt calls it
    tools: [compute_loss]                 what measures its candidates; run_sql_query: it may look at the log
    patches: [optimizer, /architecture/embedding_dim]    parts of Φ, or JSON Pointers; [] proposes nothing
    metric: training time (lower is better)              what it is judged by
    hypothesis: Half a pass is enough.    an example of what it should think of; optional
    example: |                            and of the delta that it should write for it; optional
      {"patch": [{"op": "replace", "path": "/optimizer/epochs", "value": 0.5}]}
    ---
    You make training cheaper. ...        its prose opens every prompt
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from evorank.model.errors import ConfigurationError
from evorank.prompts.answers import Delta

__all__ = ["PARTS", "Persona", "load_personas", "personas_of"]

TOOLS = ("compute_loss", "compute_eval", "run_sql_query")
MEASURES = ("compute_loss", "compute_eval")
PARTS = ("optimizer", "architecture", "reward")
"""What a system's `patchable()` divides Φ into; which pointers each part holds is the system's to say."""
FIELDS = {"title": str, "tools": list, "patches": list, "metric": str, "hypothesis": str, "example": str}
OPTIONAL = ("hypothesis", "example")
NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
POINTER = re.compile(r"(/([^/~]|~[01])+)+")


@dataclass(frozen=True)
class Persona:
    """An expert role. `prose` is what its prompts open with; `tools` are the names it may call."""

    name: str
    title: str
    prose: str
    tools: tuple[str, ...]
    patches: tuple[str, ...]
    """Where in Φ it may propose changes: names of `PARTS`, or JSON Pointers. Empty: it proposes nothing."""
    metric: str
    """What it is judged by, in words that fit "Your metric is ..."."""
    hypothesis: str = ""
    """One hypothesis as THINK should give it."""
    example: str = ""
    """The delta for it in the form that CODE should answer."""

    @property
    def judges_rewards(self) -> bool:
        """Whether its candidates are measured with compute_eval: losses of different rewards do not
        compare."""
        return "compute_eval" in self.tools

    def patchable(self, parts: Mapping[str, Sequence[str]]) -> list[str]:
        """The JSON Pointer prefixes it may patch on a system whose `patchable()` is `parts`.

        A pointer of its own is narrowed to what the system opens to anybody, and never reaches a reward that
        the persona could not judge.
        """
        open_to = {
            pointer
            for part, pointers in parts.items()
            if part != "reward" or self.judges_rewards
            for pointer in pointers
        }
        found: list[str] = []
        for each in self.patches:
            found += _narrowed(each, open_to) if each.startswith("/") else parts.get(each, ())
        return list(dict.fromkeys(found))


def load_personas(folder: Path | None = None) -> dict[str, Persona]:
    """The built-in personas by name, then those of `folder`, which win. Raises ConfigurationError."""
    personas = {}
    for entry in sorted(resources.files("evorank.personas").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".md"):
            personas[entry.name[:-3]] = _parse(entry.name, entry.read_text(encoding="utf-8"))
    if folder is not None:
        if not folder.is_dir():
            raise ConfigurationError(
                f"`persona_folder` must be a folder, got {str(folder)!r}. Put one NAME.md per persona in it."
            )
        for path in sorted(folder.glob("*.md")):
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise ConfigurationError(f"{path} is not UTF-8 text.") from None
            personas[path.stem] = _parse(str(path), text)
    return personas


def personas_of(home: Path, folder: str | None = None) -> dict[str, Persona]:
    """The personas of a home: its folder `personas` if there is one, or the folder that a setting names."""
    own = Path(folder).expanduser() if folder else home / "personas"
    return load_personas(own if folder or own.is_dir() else None)


def _narrowed(pointer: str, open_to: Iterable[str]) -> list[str]:
    """The pointer where it lies inside of something open, else what is open inside of it."""
    if any((pointer + "/").startswith(prefix.rstrip("/") + "/") for prefix in open_to):
        return [pointer]
    return sorted(prefix for prefix in open_to if prefix.startswith(pointer + "/"))


def _parse(source: str, text: str) -> Persona:
    name = Path(source).stem
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            f"{source}: a persona is called by its file, so the name must be a lower-case letter and then "
            "letters, digits, - or _, 40 at most. Try cost_engineer.md."
        )
    parts = text.split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise ConfigurationError(f"{source} must begin with front matter between two `---` lines, got none.")
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source}: the front matter is not valid YAML: {error}") from None
    if not isinstance(front, dict):
        raise ConfigurationError(f"{source}: the front matter must be `key: value` lines.")
    _check_fields(source, front)
    _check_tools(source, front["tools"], front["patches"])
    _check_example(source, front.get("example", ""))
    prose = parts[2].strip()
    if not prose:
        raise ConfigurationError(f"{source} has no text after its front matter. Say who the persona is.")
    return Persona(
        name=name,
        title=front["title"],
        prose=prose,
        tools=tuple(front["tools"]),
        patches=tuple(front["patches"]),
        metric=front["metric"],
        hypothesis=front.get("hypothesis", "").strip(),
        example=front.get("example", "").strip(),
    )


def _check_fields(source: str, front: Mapping[str, Any]) -> None:
    for key, kind in FIELDS.items():
        if key not in front and key not in OPTIONAL:
            hint = (
                f" Name parts of Φ ({', '.join(PARTS)}), or [] for who proposes nothing."
                if key == "patches"
                else ""
            )
            raise ConfigurationError(f"{source}: the front matter lacks `{key}`.{hint}")
        if key in front and not isinstance(front[key], kind):
            raise ConfigurationError(f"{source}: `{key}` must be a {kind.__name__}, got {front[key]!r}.")
    extra = sorted(str(key) for key in set(front) - set(FIELDS))
    if extra:
        raise ConfigurationError(f"{source}: unknown front matter {extra}. Known: {', '.join(FIELDS)}.")


def _check_tools(source: str, tools: Sequence[Any], patches: Sequence[Any]) -> None:
    unknown = [tool for tool in tools if tool not in TOOLS]
    if unknown:
        raise ConfigurationError(f"{source}: `tools` may name {', '.join(TOOLS)}, got {unknown}.")
    for each in patches:
        if not isinstance(each, str) or (each not in PARTS and not POINTER.fullmatch(each)):
            raise ConfigurationError(
                f"{source}: `patches` must hold parts of Φ ({', '.join(PARTS)}) or JSON Pointers such as "
                f"/optimizer/epochs, got {each!r}."
            )
    measures = [tool for tool in tools if tool in MEASURES]
    if patches and len(measures) != 1:
        raise ConfigurationError(
            f"{source}: `tools` must name one of {' and '.join(MEASURES)} to measure what it proposes, got "
            f"{list(tools)}. compute_loss is for optimizer and architecture, compute_eval for rewards."
        )
    if "reward" in patches and "compute_eval" not in tools:
        raise ConfigurationError(
            f"{source}: `patches` holds reward, whose losses do not compare; `tools` must name compute_eval."
        )


def _check_example(source: str, example: str) -> None:
    if not example.strip():
        return
    try:
        Delta.model_validate(json.loads(example))
    except (ValueError, ValidationError) as error:
        told = str(error).splitlines()[0]
        raise ConfigurationError(
            f"{source}: `example` must be a delta as JSON, "
            f'{{"patch": [{{"op": "replace", "path": "/...", "value": ...}}]}}, got: {told}'
        ) from None
