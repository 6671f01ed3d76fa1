"""Reading a prompt back: the embedded engineer knows what the rendered messages say, and nothing else.

Every fact in a prompt stands in a fenced block under its own `###` heading (see `prompts/`); this module
finds the blocks and gives them types. A prompt that lacks a block it needs is a `ChatModelError`, never a
guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonpatch
from langchain_core.messages import BaseMessage

from evorank.model.errors import ChatModelError
from evorank.model.system import Feature, LogSchema, Phi
from evorank.personas.embedded.inventions import restored

__all__ = ["Reading", "Tried", "read"]

BLOCK = re.compile(
    r"^### (?P<title>[^\n]+)\n(?:(?!```|#)[^\n]*\n)*```(?:json|jsonl)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
MEASURED = ("better", "cheaper", "inconclusive", "equal", "worse")


@dataclass(frozen=True)
class Tried:
    """One journaled attempt: its Φ where it can be rebuilt, and how much better than production it was."""

    line: Mapping[str, Any]
    phi: Phi | None
    gain: float | None
    """Improvement of the metric over production, positive is better; None if never measured."""
    noise: float
    """Half width of the 95% interval of the gain."""

    @property
    def fingerprint(self) -> str:
        return str(self.line.get("phi") or "")

    @property
    def outcome(self) -> str:
        return str(self.line["outcome"])


class Reading:
    """The facts of one prompt, by block title."""

    def __init__(self, blocks: Mapping[str, str]) -> None:
        self._blocks = blocks
        facts = self._json("Call")
        self.call: str = facts["call"]
        self.persona: str = facts["persona"]
        self.tools: list[str] = facts["tools"]
        self.step: int = facts["step"]
        self.run: str = facts["run"]
        self.run_seed: int = facts["seed"]
        self.quotas: dict[str, dict[str, float]] = self._json("Quotas")
        self.patchable: list[str] = self._json("Patchable")
        self.schema: dict[str, Any] = self._json("Schema of Φ")
        self.functions: dict[str, str] = self._json("Layer functions") if "Layer functions" in blocks else {}
        self.production_name, self.production = self._phi("Production Φ")
        self.base_name, self.base = self._phi("Base Φ")
        log = self._json("Log")
        self.log = LogSchema(
            tuple(Feature(**f) for f in log["features"]), log["columns"], log["training_rows"]
        )

    @cached_property
    def proposal(self) -> dict[str, Any]:
        return dict(self._json("Proposal"))

    @cached_property
    def findings(self) -> list[dict[str, Any]]:
        for title in ("Findings to mend", "Findings so far"):
            if title in self._blocks:
                return list(self._json(title))
        return []

    @cached_property
    def previous(self) -> dict[str, Any] | None:
        return self._json("Your previous delta") if "Your previous delta" in self._blocks else None

    @cached_property
    def delta(self) -> dict[str, Any]:
        return dict(self._json("Delta"))

    @cached_property
    def queries(self) -> list[dict[str, Any]]:
        return self._lines("Query results") if "Query results" in self._blocks else []

    @cached_property
    def tried(self) -> list[Tried]:
        """The journal, best first, without those against an older production: their Φ is not known here."""
        return [self._tried(line) for line in self._lines("Attempts") if "against" not in line]

    def may_patch(self, pointer: str) -> bool:
        return any(pointer == p or pointer.startswith(p.rstrip("/") + "/") for p in self.patchable)

    def _tried(self, line: dict[str, Any]) -> Tried:
        try:
            phi = restored(jsonpatch.apply_patch(self.production, line["delta"]))
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError):
            phi = None  # refused because it did not apply, or shortened in the prompt
        difference, noise = line.get("difference"), 0.0
        gain = None
        if line["outcome"] in MEASURED and difference is not None:
            gain = -difference if line["better_is"] == "lower" else difference
            low, high = line["interval"]
            noise = (high - low) / 2 if low is not None and high is not None else 0.0
        return Tried(line, phi, gain, noise)

    def _phi(self, title: str) -> tuple[str, Phi]:
        for name in self._blocks:
            if name.startswith(title + " "):
                return name.removeprefix(title + " "), dict(self._json(name))
        raise ChatModelError(f"the prompt lacks the block `{title}`. Render it with evorank.prompts.render.")

    def _json(self, title: str) -> Any:
        if title not in self._blocks:
            raise ChatModelError(
                f"the prompt lacks the block `{title}`. Render it with evorank.prompts.render."
            )
        try:
            return json.loads(self._blocks[title])
        except json.JSONDecodeError as error:
            raise ChatModelError(f"the prompt's block `{title}` is not JSON: {error}.") from None

    def _lines(self, title: str) -> list[dict[str, Any]]:
        if title not in self._blocks:
            raise ChatModelError(
                f"the prompt lacks the block `{title}`. Render it with evorank.prompts.render."
            )
        return [json.loads(line) for line in self._blocks[title].splitlines() if line.strip()]


def read(messages: Sequence[BaseMessage]) -> Reading:
    """The facts of the rendered messages. Raises ChatModelError naming the block that is missing."""
    text = "\n".join(message.text for message in messages)
    return Reading({match["title"]: match["body"] for match in BLOCK.finditer(text)})
