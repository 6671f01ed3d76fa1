"""The embedded engineer: a chat model that needs no key, because it is a search algorithm and not a language
model.

It reads the messages that any chat model would get, and nothing else, and answers in the form asked. Every
hypothesis names the search that made it. The same seed and messages give the same answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from pydantic import BaseModel

from evorank.model.errors import ChatModelError
from evorank.model.system import Phi
from evorank.personas.embedded.inventions import brought, with_library
from evorank.personas.embedded.knobs import changes, get, put
from evorank.personas.embedded.library import LIBRARY
from evorank.personas.embedded.lint import lint
from evorank.personas.embedded.note import note
from evorank.personas.embedded.reading import Blocks, Reading
from evorank.personas.embedded.rewards import rates_found, rates_query
from evorank.personas.embedded.search import Move, Search
from evorank.personas.embedded.strategist import ranking

__all__ = ["EmbeddedEngineer"]

SETTING = re.compile(r"`(/[^`]*)` := `([^`]*)`")
BRINGS = re.compile(r"brings `/components/(\w+)`")
REMOVAL = re.compile(r"without `(/[^`]*)`")
LIMIT = 1950
"""Characters of a hypothesis; the form allows 2000."""


class EmbeddedEngineer(BaseChatModel):
    """Thompson sampling, local refinement and a playbook behind the interface of a chat model."""

    seed: int = 0

    @property
    def _llm_type(self) -> str:
        return "evorank-embedded-engineer"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self._llm_type, "seed": self.seed}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self._answer(Blocks(messages))
        message = AIMessage(
            json.dumps(answer, ensure_ascii=False),
            usage_metadata={"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
            response_metadata={"model_name": self._llm_type},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answers as `schema` (a pydantic class, or a JSON Schema for plain dicts).

        With `include_raw`, a dict of `raw`, `parsed` and `parsing_error`, like every LangChain chat model.
        """
        parser: Runnable[Any, Any] = (
            PydanticOutputParser(pydantic_object=schema)
            if isinstance(schema, type) and issubclass(schema, BaseModel)
            else JsonOutputParser()
        )
        if not include_raw:
            return self | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        with_raw: Runnable[Any, Any] = RunnableMap({"raw": self})
        return with_raw | parsed.with_fallbacks([failed], exception_key="parsing_error")

    def _answer(self, blocks: Blocks) -> dict[str, Any]:
        if blocks.json("Call")["call"] == "rank":
            return ranking(blocks)
        reading = Reading(blocks)
        answers: dict[str, Callable[[Reading], dict[str, Any]]] = {
            "explore": _explored,
            "think": self._think,
            "code": self._code,
            "review": _reviewed,
            "insight": note,
        }
        if reading.call not in answers:
            raise ChatModelError(
                f"the embedded engineer answers {', '.join(answers)} and rank, got {reading.call!r}."
            )
        return answers[reading.call](reading)

    def _think(self, reading: Reading) -> dict[str, Any]:
        search = Search(reading, self.seed)
        proposals: list[dict[str, Any]] = []
        for category in reading.wanted:
            try:
                move = search.propose(category)
            except ChatModelError:
                if not proposals:
                    raise
                break  # fewer than were wanted: there is nothing else to turn
            base = reading.production if move.base is None else move.base.phi
            proposals.append(
                {
                    "category": move.category,
                    "hypothesis": hypothesis(reading, move, base or reading.production),
                    "base": "production" if move.base is None else move.base.fingerprint,
                }
            )
        return proposals[0] if len(reading.wanted) == 1 else {"proposals": proposals}

    def _code(self, reading: Reading) -> dict[str, Any]:
        if reading.findings and reading.previous:
            return self._repaired(reading)
        target = stated(reading.base, reading.proposal["hypothesis"])
        patch = changes(reading.base, target)
        if not patch:  # another engineer's proposal, in words only: choose a delta for its base
            move = Search(reading, self.seed).propose_from_base()
            patch = changes(reading.base, move.phi)
            return {"patch": patch, "explanation": f"Search step: {_words(move.turned)}."}
        return {"patch": patch, "explanation": f"Sets {_listed([op['path'] for op in patch])}."}

    def _repaired(self, reading: Reading) -> dict[str, Any]:
        """Leave out what was found where the rest stands alone; otherwise turn other knobs of the base."""
        previous = (reading.previous or {})["patch"]
        wrong = [str(finding["pointer"]) for finding in reading.findings]
        kept = [op for op in previous if not any(_related(op["path"], pointer) for pointer in wrong)]
        alone = all(
            not re.match(r"/(architecture/layers|reward|components)\b", op["path"]) for op in previous
        )
        if alone and 0 < len(kept) < len(previous):
            return {"patch": kept, "explanation": f"Leaves out {_listed(sorted(set(wrong)))}."}
        search = Search(reading, self.seed, stream=1 + len(json.dumps(previous)))
        avoid = search.touching([op["path"] for op in previous])
        try:
            move = search.propose_from_base(avoid)
        except ChatModelError:  # the finding concerns every knob of this persona: another setting, then
            move = search.propose_from_base()
        return {"patch": changes(reading.base, move.phi), "explanation": f"Instead: {_words(move.turned)}."}


def _explored(reading: Reading) -> dict[str, Any]:
    """Rates of the signals, once: what the reward playbook needs to know of a log."""
    return {"query": rates_query(reading), "finding": rates_found(reading)}


def _reviewed(reading: Reading) -> dict[str, Any]:
    findings = lint(reading) if reading.rules is None else reading.rules
    return {"verdict": "revise" if findings else "accept", "findings": findings}


def hypothesis(reading: Reading, move: Move, base: Phi) -> str:
    """What the search will change and on what evidence; its values are stated so that CODE can write them."""
    code = brought(base, move.phi)
    # A source is too long for a sentence and need not stand in one: CODE knows the library by name.
    statements = [f"brings `/components/{name}` ({LIBRARY[name].description.rstrip('.')})" for name in code]
    for operation in changes(with_library(base, code), move.phi):
        if operation["op"] == "remove":
            statements.append(f"without `{operation['path']}`")
        else:
            value = json.dumps(operation["value"], ensure_ascii=False).replace("`", "\\u0060")
            statements.append(f"`{operation['path']}` := `{value}`")
    exact = f" Exactly: {'; '.join(statements)}."
    words = f"Search step ({move.category}): {_words(move.turned)}. {_evidence(reading, move)}"
    room = LIMIT - len(exact)
    if room < 0:
        raise ChatModelError(
            f"the embedded engineer cannot state a change of {len(exact)} characters in one hypothesis."
        )
    return (words if len(words) <= room else words[: room - 1] + "…") + exact


def stated(base: Phi, text: str) -> Phi:
    """Base with every value that a hypothesis states; base itself where it states none."""
    target = with_library(base, BRINGS.findall(text))
    for pointer in REMOVAL.findall(text):
        target = _without(target, pointer)
    for pointer, value in SETTING.findall(text):
        target = put(target, pointer, json.loads(value))
    return target


def _evidence(reading: Reading, move: Move) -> str:
    if move.told:
        return f"{move.told} reports that this won elsewhere; nobody has measured it here."
    if move.base is not None and move.base.imported:
        return f"Starts from {move.base.fingerprint}, of which an imported record says: {move.base.outcome}."
    if move.recipe:
        return (
            f"The playbook recommends {move.recipe} for logs like this one, and the journal has not tried it."
        )
    if move.base is None:
        return f"Starts from production; {len(reading.tried)} attempts are journaled and none is this one."
    gain = f"{move.base.gain:+.4g}" if move.base.gain is not None else "unknown"
    return (
        f"Starts from {move.base.fingerprint}, whose gain over production was {gain}; by the surrogate of "
        f"{len(reading.tried)} attempts this variant is the most promising."
    )


def _words(turned: Sequence[tuple[str, Any, Any]]) -> str:
    return _listed([f"{name} from {_value(before)} to {_value(after)}" for name, before, after in turned])


def _value(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:-1]) + (" and " if len(items) > 1 else "") + items[-1] if items else "nothing"


def _related(path: str, pointer: str) -> bool:
    return (path + "/").startswith(pointer + "/") or (pointer + "/").startswith(path + "/")


def _without(phi: Phi, pointer: str) -> Phi:
    parent, _, last = pointer.rpartition("/")
    members = get(phi, parent)
    name = last.replace("~1", "/").replace("~0", "~")
    if not isinstance(members, dict):
        return phi
    kept = {key: value for key, value in members.items() if key != name}
    return put(phi, parent, kept) if parent else kept
