"""recording: a run's calls to chat models in a file of JSON lines, and a run from such a file, without a key.

The first line says what was run (`recording`, `steps`, `days`, `context`); every other one is a call: `step`,
`persona`, `role`, `model`, `form`, `messages`, and `answer` or `failure`. A line without `messages`, as one
writes by hand, answers whatever is asked in its step, persona and role (and form, where it names one), in the
order of the lines. Such lines also say whose turn a step is, so that they fit whatever was measured before.

A question is the recorded one if it says the same but for what was measured: clocks and processors differ. No
line holds a key.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.keys import scrub
from evorank.graph.spending import Account
from evorank.graph.state import Usage
from evorank.model.errors import ChatModelError, ConfigurationError, EvorankError

__all__ = [
    "Head",
    "Line",
    "Player",
    "Recorder",
    "answer_of",
    "message_of",
    "read_head",
    "written",
]

FORMAT = 1
MEASURED = (
    "difference", "interval", "effort", "train_cost", "outcome", "reason", "lift", "success", "guardrails",
    "off_policy",
)  # fmt: skip
"""Members of a line of the journal or of the pool that a clock or another processor may change."""
SHOWN = 6
"""Lines of a difference that an error shows."""


class Head(BaseModel):
    """What was run: enough to run it again."""

    model_config = ConfigDict(extra="forbid")
    recording: int = FORMAT
    note: str = ""
    """Who answers, where nobody recorded it."""
    run: str = ""
    steps: int | None = None
    days: int | None = None
    context: dict[str, Any] = Field(default_factory=dict)
    """Fields of evorank.graph.context.Context."""

    def settings(self, known: Collection[str]) -> dict[str, Any]:
        """What of it is a setting. Not how much may be spent: a replay spends nothing."""
        told = self.context | {"steps": self.steps, "days": self.days}
        return {
            name: value
            for name, value in told.items()
            if name in known and value is not None and not name.startswith("max_")
        }


class Line(BaseModel):
    """One call."""

    model_config = ConfigDict(extra="forbid")
    step: int | None = None
    persona: str = ""
    role: str
    model: str = ""
    form: str = ""
    messages: list[dict[str, str]] | None = None
    """{"role", "content"} of each; the run's own name is written <run>. None: not compared."""
    answer: dict[str, Any] | None = None
    """`content`, `tool_calls`, `finish_reason`."""
    failure: str = ""
    """What the provider said, where it did not answer this question."""
    usage: Usage = Field(default_factory=Usage)


class Recorder:
    """Writes a file, a line at a time. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._whole = False

    def begin(self, head: Head) -> None:
        """Start the file. ConfigurationError where there is one already: a recording is of one run."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("x") as file:
                file.write(head.model_dump_json() + "\n")
        except FileExistsError:
            raise ConfigurationError(f"`record` must name a new file, {self.path} exists.") from None

    def add(self, line: Line) -> None:
        text = scrub(line.model_dump_json(exclude_defaults=True)).encode()
        try:
            with self._lock, self.path.open("ab+") as file:
                if not self._whole:
                    self._whole = True
                    _mend(file)
                file.write(text + b"\n")
        except OSError as error:
            raise EvorankError(f"`record`: {self.path} could not be written: {error}.") from error


class Player:
    """Answers from a file. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = _lines(path)[1]
        self._recorded: dict[tuple[Any, ...], Line] = {}
        self._authored: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
        for line in self._lines:
            if line.messages is None:
                self._authored[line.step, line.persona, line.role].append(line)
            else:  # asked twice: it was resumed after a crash, and what came of the second is in the journal
                self._recorded[_key(line.step, line.role, line.form, line.messages)] = line
        self.turns: dict[int, str] = {
            line.step: line.persona
            for line in self._lines
            if line.messages is None and line.step is not None and line.role in ("think", "code")
        }
        """Step -> the persona that answers in it by hand. Other steps are whoever's turn it is."""
        self._given: set[tuple[str | None, int]] = set()
        """Run and line, of lines by hand: each run is given each once."""
        self._lock = threading.Lock()

    def answer(self, account: Account, role: str, form: str, messages: Sequence[BaseMessage]) -> Line:
        """The line that answers a question. ChatModelError, with the difference, where there is none."""
        asked = written(messages, account.run)
        found = self._recorded.get(_key(account.step, role, form, asked))
        if found is not None:
            return found
        with self._lock:
            for line in self._authored[account.step, account.persona, role]:
                if line.form in ("", form) and (account.run, id(line)) not in self._given:
                    self._given.add((account.run, id(line)))
                    return line
        raise ChatModelError(self._difference(account, role, form, asked))

    def _difference(self, account: Account, role: str, form: str, asked: list[dict[str, str]]) -> str:
        where = f"step {account.step}, {account.persona or role}, {role}"
        near = [
            line
            for line in self._lines
            if (line.step, line.role, line.form) == (account.step, role, form) and line.messages is not None
        ]
        if not near:
            return (
                f"{self.path} holds no answer for {where} ({form}). Was it recorded with these settings, and "
                "is this a home where nothing was launched since? A new --home begins afresh."
            )
        new = _compared(asked)
        best = max(
            near,
            key=lambda line: difflib.SequenceMatcher(None, _compared(line.messages), new, False).ratio(),
        )
        both = difflib.unified_diff(_compared(best.messages), new, "recorded", "asked", n=0, lineterm="")
        changed = [line[:300] for line in both if line[:2] not in ("--", "++", "@@")][:SHOWN]
        return f"{self.path} holds another question in {where}. Recorded (-) and asked (+):\n" + "\n".join(
            changed
        )


def read_head(path: Path) -> Head:
    """What a recording is of. ConfigurationError where it is none."""
    return _lines(path, head_only=True)[0]


def written(messages: Sequence[BaseMessage], run: str | None) -> list[dict[str, str]]:
    """Messages as a recording has them. A run's name is not part of a question."""
    shown = [{"role": str(message.type), "content": str(message.text)} for message in messages]
    if run:
        name = re.compile(rf"(?<!\w){re.escape(run)}(?!\w)")
        shown = [each | {"content": name.sub("<run>", each["content"])} for each in shown]
    return shown


def message_of(line: Line) -> AIMessage:
    """The answer of a line as a chat model gave it."""
    answer = line.answer or {}
    content = answer.get("content", "")
    return AIMessage(
        content if isinstance(content, str) else json.dumps(content, ensure_ascii=False),
        tool_calls=[
            {"name": call["name"], "args": call["args"], "id": f"call-{number}", "type": "tool_call"}
            for number, call in enumerate(answer.get("tool_calls", ()))
        ],
        response_metadata={"finish_reason": answer.get("finish_reason", "")},
    )


def answer_of(raw: AIMessage) -> dict[str, Any]:
    """What a line keeps of an answer."""
    reason = raw.response_metadata.get("finish_reason") or raw.response_metadata.get("stop_reason")
    answer: dict[str, Any] = {"content": str(raw.text)}
    if raw.tool_calls:
        answer["tool_calls"] = [{"name": call["name"], "args": call["args"]} for call in raw.tool_calls]
    if raw.invalid_tool_calls:
        answer["content"] += str(raw.invalid_tool_calls[0].get("args") or "")
    return answer | ({"finish_reason": str(reason)} if reason else {})


def _key(step: int | None, role: str, form: str, messages: list[dict[str, str]]) -> tuple[Any, ...]:
    told = "\n".join(_compared(messages))
    return step, role, form, hashlib.sha256(told.encode()).hexdigest()


def _compared(messages: list[dict[str, str]] | None) -> list[str]:
    """What must be the same: all lines, those of the journal sorted and without what was measured."""
    lines: list[str] = []
    for message in messages or ():
        journal: list[str] = []
        lines.append(f"[{message['role']}]")
        for line in message["content"].splitlines():
            entry = _entry(line)
            if entry is None:
                lines += [*sorted(journal), line]
                journal = []
            else:
                journal.append(json.dumps(entry, sort_keys=True, ensure_ascii=False))
        lines += sorted(journal)
    return lines


def _entry(line: str) -> dict[str, Any] | None:
    """A line of a journal or a pool without what was measured; None where it is something else."""
    if not line.lstrip(" [").startswith("{"):
        return None
    try:
        entry = json.loads(line.strip().rstrip(","))
    except json.JSONDecodeError:
        return None
    if not isinstance(entry, dict) or not {"outcome", "now"} & entry.keys():
        return None
    return {name: _without(inner) for name, inner in entry.items() if name not in MEASURED}


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without(inner) for name, inner in value.items() if name not in MEASURED}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


def _mend(file: IO[bytes]) -> None:
    """Cut off what a process that was killed left of a line: its call comes again. A new file gets a head."""
    file.seek(0)
    text = file.read()
    if text and not text.endswith(b"\n"):
        file.truncate(text.rfind(b"\n") + 1)
    if not text:
        file.write(Head().model_dump_json().encode() + b"\n")


def _lines(path: Path, head_only: bool = False) -> tuple[Head, list[Line]]:
    try:
        with path.open() as file:
            first = file.readline()
            rest = [] if head_only else [each for each in file if each.strip()]
    except OSError as error:
        raise ConfigurationError(f"`replay` cannot be read: {path}: {error.strerror}.") from None
    number = 1
    try:
        head = Head.model_validate_json(first)
        lines = []
        for number, each in enumerate(rest, 2):  # noqa: B007 - told in the error
            lines.append(Line.model_validate_json(each))
    except ValueError as error:
        told = " ".join(str(error).split())[:200]
        raise ConfigurationError(
            f"`replay` must be a file that `run --record` wrote; line {number} of {path} is not one: {told}"
        ) from None
    if head.recording != FORMAT:
        raise ConfigurationError(
            f"`replay`: {path} has format {head.recording}, this version reads {FORMAT}."
        )
    return head, lines
