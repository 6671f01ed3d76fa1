"""One exception tree: what can go wrong, told so that the reader can mend it.

`EvorankError` is caught once, in `cli.py`; its text is the whole message a user sees. Write it as
"`field` rule, got value. What to try."
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "ChatModelError",
    "ConfigurationError",
    "EvorankError",
    "Finding",
    "JournalError",
    "LockError",
    "LogError",
    "PlatformError",
    "RefusedDelta",
    "RefusedQuery",
    "Stopped",
    "ToolError",
]


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a Φ or a delta: where, which rule, what was seen, what to try.

    `pointer` is a JSON Pointer (RFC 6901) into Φ, or into the delta where the delta itself is malformed.
    """

    pointer: str
    rule: str
    value: Any = None
    hint: str = ""

    def __str__(self) -> str:
        seen = "" if self.value is None else f", got {_short(self.value)}"
        return f"{self.pointer or '(whole)'} {self.rule}{seen}.{' ' + self.hint if self.hint else ''}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"value": _short(self.value) if self.value is not None else None}


def _short(value: Any, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class EvorankError(Exception):
    """Anything evorank refuses or fails at on purpose. Exit code 1 unless a subclass says otherwise."""

    exit_code = 1
    cpu_seconds = 0.0
    """Of training and scoring, spent until it was raised: what fails has cost something as well."""


class ConfigurationError(EvorankError):
    """A setting, flag, file or name the user gave is wrong. Exit code 2."""

    exit_code = 2


class LogError(ConfigurationError):
    """The interaction log cannot be used: missing, empty, a wrong column, one class only ..."""


class JournalError(EvorankError):
    """The journal file is corrupt, locked for too long, or cannot be written."""


class PlatformError(EvorankError):
    """Who serves a surface timed out, answered nonsense, or was asked for what cannot be."""


class LockError(EvorankError):
    """A process could not lock itself as it must before it runs candidates: a layer is missing here."""


class ChatModelError(EvorankError):
    """The chat model could not be reached or did not answer in the asked form."""


class ToolError(EvorankError):
    """A tool failed on this candidate. A result to learn from: it is journaled, the run goes on."""


class Stopped(ToolError):  # noqa: N818 - a verdict, not a malfunction
    """A training was given up, its curve clearly worse than production's: the verdict is `worse`.

    `curves`: `candidate` until then, and `production`: (rows seen, mean training loss).
    """

    def __init__(self, said: str, curves: Mapping[str, Sequence[tuple[int, float]]] | None = None) -> None:
        self.curves = {arm: list(points) for arm, points in (curves or {}).items()}
        super().__init__(said)


class RefusedQuery(ToolError):  # noqa: N818 - a refusal, not a malfunction
    """An agent's SQL broke a rule, or its time, row or memory limit."""


class RefusedDelta(EvorankError):  # noqa: N818 - a refusal, not a malfunction
    """A delta that cannot become a candidate. `findings` say where and why."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(" ".join(str(finding) for finding in findings))
