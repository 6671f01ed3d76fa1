"""Review without a language model: what would waste a training run, found by rules. Silent about taste."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonpatch

from evorank.model.system import Phi
from evorank.personas.embedded.inventions import COMPONENTS, uses
from evorank.personas.embedded.knobs import get, same
from evorank.personas.embedded.optimization import SCALES
from evorank.personas.embedded.playbook import builtin
from evorank.personas.embedded.reading import Reading
from evorank.personas.embedded.rewards import NEGATIVE, OUTCOME, label_of
from evorank.personas.embedded.towers import dropout_rates

__all__ = ["lint"]

FACTOR = 200.0
"""A learning rate this many times the usual one, either way, learns nothing."""
DROPOUT = 0.6
VAGUE = {
    *("a", "f", "x", "y", "my", "own", "new", "custom", "test", "tmp", "thing", "code", "class", "function"),
    *(
        "component",
        "module",
        "model",
        "main",
        "layer",
        "block",
        "unit",
        "activation",
        "optimizer",
        "schedule",
    ),
}
"""Words that a component's name may hold, but not consist of."""
NAME = re.compile(r"[A-Za-z_]\w*")
STATED = re.compile(r"`(/[^`]*)` := `([^`]*)`")


def lint(reading: Reading) -> list[str]:
    """Findings on the delta in the prompt, one sentence each; [] accepts it."""
    try:
        phi = jsonpatch.apply_patch(reading.base, reading.delta["patch"])
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        return [f"The patch does not apply to the base: {error}. Use paths that exist."]
    if same(phi, reading.base):
        return ["The patch changes nothing: every value is already in the base. Change at least one."]
    findings = []
    for tried in reading.tried:
        if tried.phi is None or tried.outcome == "duplicate" or tried.imported:
            continue
        if same(phi, tried.phi):
            who = f"{tried.line['id']} by {tried.line['persona']}"
            findings.append(f"{who} already was this Φ ({tried.outcome}). Change something else.")
            break
    if same(phi, reading.production):
        findings.append("The result is production itself. Change something that production does not have.")
    findings += _contradictions(reading, phi)
    if builtin(phi):
        findings += [
            *_optimizer(phi),
            *_layers(reading.base, phi),
            *_components(reading.base, phi),
            *_label(reading, phi),
        ]
    return findings


def _contradictions(reading: Reading, phi: Phi) -> Iterator[str]:
    for pointer, text in STATED.findall(reading.proposal["hypothesis"]):
        try:
            wanted = json.loads(text)
        except json.JSONDecodeError:
            continue  # words in backticks, not a value
        seen = get(phi, pointer)
        if not same(seen, wanted) and not same(seen, get(reading.base, pointer)):
            yield f"{pointer} is {seen!r}, but the hypothesis says {wanted!r}. Write what it says."


def _optimizer(phi: Phi) -> Iterator[str]:
    for pointer in ("/optimizer", "/optimizer/embedding"):
        name, rate = get(phi, f"{pointer}/name"), get(phi, f"{pointer}/args/lr")
        if name not in SCALES or not isinstance(rate, int | float):
            continue
        usual = SCALES[name]["lr"]
        if not usual / FACTOR <= rate <= usual * FACTOR:
            yield f"{pointer}/args/lr is {rate:g}, far from what {name} needs. Try about {usual:g}."


def _layers(base: Phi, phi: Phi) -> Iterator[str]:
    layers: dict[str, Any] = get(phi, "/architecture/layers") or {}
    if layers == get(base, "/architecture/layers"):
        return
    used, waiting = set(), ["output"]
    while waiting:
        name = waiting.pop()
        if name in layers and name not in used:
            used.add(name)
            waiting += NAME.findall(str(layers[name]))
    for name in layers:
        if name not in used:
            yield f"/architecture/layers/{name} is never used by output. Use it or leave it out."
    for name, text in layers.items():
        for rate in dropout_rates(str(text)):
            if rate > DROPOUT:
                yield f"/architecture/layers/{name} drops {rate:.0%} of its units. Try 0.05 to 0.3."
        if re.search(r"\* *0(\.0*)?(?![\d.])|(?<![\d.\w])0(\.0*)? *\*", str(text)):
            yield f"/architecture/layers/{name} multiplies by zero, so nothing passes. Leave that path out."
    output = str(layers.get("output", "")).strip()
    if re.match(r"dropout\(", output):
        yield "/architecture/layers/output ends in dropout, which only adds noise. Drop out earlier."
    if re.match(
        r"(sigmoid|softmax|tanh)\(dense\([^()]*, *1\)\)$", output.replace(" ", "").replace(",", ", ")
    ):
        yield "/architecture/layers/output saturates the logit. Leave out the outer function."


def _components(base: Phi, phi: Phi) -> Iterator[str]:
    """Code that nothing uses, twice the same code, and names that tell a reader of the journal nothing."""
    before, after, used = get(base, COMPONENTS) or {}, get(phi, COMPONENTS) or {}, uses(phi)
    for name, code in after.items():
        if same(code, before.get(name)):
            continue
        where = f"{COMPONENTS}/{name}"
        if name not in used:
            yield f"{where} is used by no layer, optimizer or schedule. Use it by its name or leave it out."
        twins = [other for other in after if other != name and _source(after[other]) == _source(code)]
        if twins:
            yield f"{where} has the source of {COMPONENTS}/{twins[0]}. Use that one."
        if all(word in {"", *VAGUE} for word in re.split(r"_|\d+", name.lower())):
            yield f"{where} has a name that says nothing. Call it by what it computes, as in `gated_path`."


def _source(code: Any) -> str:
    return str(get(code, "/source") or "").strip()


def _label(reading: Reading, phi: Phi) -> Iterator[str]:
    if get(phi, "/reward") == get(reading.base, "/reward"):
        return
    names = set(NAME.findall(label_of(phi)))
    columns = [column for column in reading.log.columns if column in names]
    if not columns:
        yield "/reward/label uses no column of the log, so there is nothing to learn. Build it from signals."
    elif all(NEGATIVE.search(column.lower()) for column in columns):
        yield "/reward/label uses no positive signal: the model would learn what people dislike. Add one."
    for column in columns:
        if OUTCOME.search(column.lower()):
            yield f"/reward uses {column}, the outcome the label should predict. Use signals of the moment."
