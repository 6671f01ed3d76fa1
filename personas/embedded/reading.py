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

__all__ = ["Blocks", "Reading", "Tried", "live_verdict", "read"]

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

    @property
    def lost_live(self) -> bool:
        return live_verdict(self.line) == "lost"

    @property
    def imported(self) -> bool:
        """Reported by a file, and not measured here."""
        return "imported" in self.line


class Blocks:
    """The fenced blocks of one prompt, by title. ChatModelError for one that is not there."""

    def __init__(self, messages: Sequence[BaseMessage]) -> None:
        text = "\n".join(message.text for message in messages)
        self._found = {match["title"]: match["body"] for match in BLOCK.finditer(text)}

    def __contains__(self, title: str) -> bool:
        return title in self._found

    def json(self, title: str) -> Any:
        try:
            return json.loads(self._body(title))
        except json.JSONDecodeError as error:
            raise ChatModelError(f"the prompt's block `{title}` is not JSON: {error}.") from None

    def lines(self, title: str) -> list[dict[str, Any]]:
        # Not splitlines(): it would also break lines inside strings, at characters that JSON allows there.
        return [json.loads(line) for line in self._body(title).split("\n") if line.strip()]

    def has_phi(self, title: str) -> bool:
        return any(name.startswith(title + " ") for name in self._found)

    def phi(self, title: str) -> tuple[str, Phi]:
        """The short fingerprint that follows a title, and the Φ."""
        whole = next((name for name in self._found if name.startswith(title + " ")), title)
        return whole.removeprefix(title + " "), dict(self.json(whole))

    def _body(self, title: str) -> str:
        if title not in self._found:
            raise ChatModelError(
                f"the prompt lacks the block `{title}`. Render it with evorank.prompts.render."
            )
        return self._found[title]


class Reading:
    """The facts of one prompt to an engineer, by block title."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        facts = blocks.json("Call")
        self.call: str = facts["call"]
        self.persona: str = facts["persona"]
        self.tools: list[str] = facts["tools"]
        self.step: int = facts["step"]
        self.run: str = facts["run"]
        self.run_seed: int = facts["seed"]
        self.stagnant: int = facts["stagnant"]
        self.patchable: list[str] = blocks.json("Patchable") if "Patchable" in blocks else []
        self.schema: dict[str, Any] = blocks.json("Schema of Φ")
        self.functions: dict[str, str] = blocks.json("Layer functions") if "Layer functions" in blocks else {}
        self.production_name, self.production = blocks.phi("Production Φ")
        # While THINK chooses, there is no base yet but production.
        based = blocks.has_phi("Base Φ")
        self.base_name, self.base = blocks.phi("Base Φ" if based else "Production Φ")
        log = blocks.json("Log")
        self.log = LogSchema(
            tuple(Feature(**f) for f in log["features"]), log["columns"], log["training_rows"]
        )

    @cached_property
    def wanted(self) -> list[str]:
        """The category of each proposal that this answer shall hold."""
        return [name for name, count in self._blocks.json("Wanted").items() for _ in range(count)]

    @cached_property
    def rules(self) -> list[str] | None:
        """What fixed rules found in the delta, where somebody asked them before; None: nobody did."""
        return list(self._blocks.json("Findings of rules")) if "Findings of rules" in self._blocks else None

    @cached_property
    def proposal(self) -> dict[str, Any]:
        return dict(self._blocks.json("Proposal"))

    @cached_property
    def findings(self) -> list[dict[str, Any]]:
        title = "Findings to mend"
        return list(self._blocks.json(title)) if title in self._blocks else []

    @cached_property
    def previous(self) -> dict[str, Any] | None:
        return self._blocks.json("Your previous delta") if "Your previous delta" in self._blocks else None

    @cached_property
    def delta(self) -> dict[str, Any]:
        return dict(self._blocks.json("Delta"))

    @cached_property
    def queries(self) -> list[dict[str, Any]]:
        return self._blocks.lines("Query results") if "Query results" in self._blocks else []

    @cached_property
    def every(self) -> list[Tried]:
        """The journal, best first. Of those against an older production, Φ is not known here."""
        return [self._tried(line) for line in self._attempts]

    @cached_property
    def tried(self) -> list[Tried]:
        """The journal, best first, without those against an older production."""
        return [tried for tried in self.every if "against" not in tried.line]

    @cached_property
    def lost(self) -> list[list[dict[str, Any]]]:
        """Deltas that lost in live traffic, whatever production they were tested against."""
        deltas = [line["delta"] for line in self._attempts if live_verdict(line) == "lost"]
        return [delta for delta in deltas if isinstance(delta, list) and delta]

    @cached_property
    def _attempts(self) -> list[dict[str, Any]]:
        return self._blocks.lines("Attempts")

    def may_patch(self, pointer: str) -> bool:
        return any(pointer == p or pointer.startswith(p.rstrip("/") + "/") for p in self.patchable)

    def _tried(self, line: dict[str, Any]) -> Tried:
        try:
            applies = "against" not in line
            phi = restored(jsonpatch.apply_patch(self.production, line["delta"])) if applies else None
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError):
            phi = None  # refused because it did not apply, or shortened in the prompt
        difference, noise = line.get("difference"), 0.0
        gain = None
        if line["outcome"] in MEASURED and difference is not None:
            gain = -difference if line["better_is"] == "lower" else difference
            low, high = line["interval"]
            noise = (high - low) / 2 if low is not None and high is not None else 0.0
            if live_verdict(line) == "lost":
                gain = min(gain, 0.0)  # people have the last word, whatever the proxy says
        return Tried(line, phi, gain, noise)


def live_verdict(line: Mapping[str, Any]) -> str:
    """`won`, `lost`, `not read` or `under way`; "" for what was never proposed for live traffic."""
    return str((line.get("online") or {}).get("verdict", ""))


def read(messages: Sequence[BaseMessage]) -> Reading:
    """The facts of the rendered messages. Raises ChatModelError naming the block that is missing."""
    return Reading(Blocks(messages))
