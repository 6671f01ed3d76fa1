"""The optimizer playbook: what a practitioner knows about training sparse ranking models, as knobs.

A learning rate means something only beside its optimizer, so the knob is *relative* to each family's usual
scale: changing Adagrad to Adam keeps "twice the usual rate" and not "0.1". An optimizer or schedule of the
library of code (`inventions`) lies over the listed one, which is that of production as long as it does.
"""

from __future__ import annotations

from typing import Any

from evorank.model.system import Phi
from evorank.personas.embedded.inventions import has_components, listed, named, own_knob
from evorank.personas.embedded.knobs import Knob, get, put
from evorank.personas.embedded.library import LIBRARY
from evorank.personas.embedded.reading import Reading

__all__ = ["SCALES", "optimizer_knobs"]

SCALES: dict[str, dict[str, Any]] = {
    "Adagrad": {"lr": 0.03},
    "Adam": {"lr": 0.001},
    "AdamW": {"lr": 0.001},
    "RMSprop": {"lr": 0.001},
    "NAdam": {"lr": 0.001},
    "Adamax": {"lr": 0.002},
    "SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
}
"""Families and arguments that usually work for click models with batches of a few thousand rows."""

TABLE_SCALES: dict[str, dict[str, Any]] = {
    "RowwiseAdagrad": {"lr": 0.05},
    "Adagrad": {"lr": 0.05},
    "Adam": {"lr": 0.001},
    "AdamW": {"lr": 0.001},
}
"""For embedding tables: rules that keep a rare id's step large."""

OWN_TABLES: dict[str, dict[str, Any]] = {
    "ftrl_proximal": {"lr": 0.05, "beta": 0.01, "l1": 1e-4},
}
"""Of the library: a larger beta, because the gradients of a rare id are tiny."""

RATES = tuple(float(f"{2.0**k:.3g}") for k in range(-6, 7))
"""Multiples of the usual learning rate."""


def optimizer_knobs(reading: Reading) -> list[Knob]:
    """Knobs on `/optimizer`. Values follow the built-in ranker's schema."""
    production = reading.production
    largest = max(256, reading.log.training_rows // 8)
    batches = tuple(size for size in (128, 256, 512, 1024, 2048, 4096, 8192, 16384) if size <= largest) or (
        256,
    )
    knobs = [
        Knob("optimizer", "optimizer", tuple(SCALES), False, listed(_name, production), _with_name,
             ("/optimizer/name",)),
        Knob("learning rate (times the usual)", "learning rate", RATES, True, _rate, _with_rate,
             ("/optimizer/args/lr",)),
        Knob("weight decay", "weight decay", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2), True, _decay, _with_decay,
             ("/optimizer/args/weight_decay",)),
        _plain("batch size", "batch size", batches, True, "/optimizer/batch_size"),
        _plain("epochs", "epochs", (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4), True, "/optimizer/epochs"),
        Knob("schedule", "schedule", ("constant", "linear", "cosine", "exponential"), False,
             listed(_schedule, production), _with_schedule, ("/optimizer/schedule",)),
        Knob("warm-up", "schedule", (0.0, 0.02, 0.05, 0.1, 0.2), True, _warmup, _with_warmup,
             ("/optimizer/schedule",)),
        _plain("gradient clip", "gradient clip", (None, 10.0, 3.0, 1.0, 0.3), True, "/optimizer/grad_clip"),
        Knob("embedding optimizer", "embedding optimizer", (None, *TABLE_SCALES), False,
             listed(_table, production), _with_table, ("/optimizer/embedding",), structural=True),
        Knob("embedding learning rate (times the usual)", "embedding optimizer", RATES, True, _table_rate,
             _with_table_rate, ("/optimizer/embedding",)),
    ]  # fmt: skip
    if has_components(reading):
        of = "/optimizer"
        knobs += [
            own_knob("own optimizer", named("optimizer"), _name, _with_name, production,
                     (f"{of}/name", f"{of}/args")),
            own_knob("own embedding optimizer", tuple(OWN_TABLES), _table, _with_table, production,
                     (f"{of}/embedding",)),
            own_knob("own schedule", named("schedule"), _schedule, _with_schedule, production,
                     (f"{of}/schedule",)),
        ]  # fmt: skip
    return knobs


def _plain(name: str, family: str, settings: tuple[Any, ...], ordered: bool, pointer: str) -> Knob:
    return Knob(name, family, settings, ordered, lambda phi: get(phi, pointer),
                lambda phi, value: put(phi, pointer, value), (pointer,))  # fmt: skip


def _usual(name: Any) -> dict[str, Any]:
    """The arguments that usually work, {} for what nobody here knows."""
    return dict(LIBRARY[name].args if name in LIBRARY else SCALES.get(name, {}))


def _usual_table(name: Any) -> dict[str, Any]:
    return dict(OWN_TABLES.get(name) or TABLE_SCALES.get(name, {}))


def _name(phi: Phi) -> Any:
    return get(phi, "/optimizer/name")


def _with_name(phi: Phi, name: str) -> Phi:
    relative = _rate(phi) or 1.0
    args = _usual(name)
    decay = get(phi, "/optimizer/args/weight_decay")
    if decay:
        args["weight_decay"] = decay
    return _with_rate(put(put(phi, "/optimizer/name", name), "/optimizer/args", args), relative)


def _rate(phi: Phi) -> float | None:
    rate = get(phi, "/optimizer/args/lr")
    return None if rate is None else float(f"{rate / _usual(_name(phi)).get('lr', rate):.3g}")


def _with_rate(phi: Phi, relative: float) -> Phi:
    usual = _usual(_name(phi)).get("lr", 0.001)
    return put(phi, "/optimizer/args/lr", float(f"{usual * relative:.3g}"))


def _decay(phi: Phi) -> float:
    return float(get(phi, "/optimizer/args/weight_decay") or 0.0)


def _with_decay(phi: Phi, value: float) -> Phi:
    if value:
        return put(phi, "/optimizer/args/weight_decay", value)
    args = {k: v for k, v in (get(phi, "/optimizer/args") or {}).items() if k != "weight_decay"}
    return put(phi, "/optimizer/args", args)


def _schedule(phi: Phi) -> Any:
    return get(phi, "/optimizer/schedule/name") or "constant"


def _with_schedule(phi: Phi, name: str) -> Phi:
    warmup = _warmup(phi)
    return put(phi, "/optimizer/schedule", {"name": name, "args": {"warmup": warmup} if warmup else {}})


def _warmup(phi: Phi) -> float:
    return float(get(phi, "/optimizer/schedule/args/warmup") or 0.0)


def _with_warmup(phi: Phi, share: float) -> Phi:
    args = {k: v for k, v in (get(phi, "/optimizer/schedule/args") or {}).items() if k != "warmup"}
    return put(phi, "/optimizer/schedule",
               {"name": _schedule(phi), "args": args | ({"warmup": share} if share else {})})  # fmt: skip


def _table(phi: Phi) -> Any:
    return get(phi, "/optimizer/embedding/name")


def _with_table(phi: Phi, name: str | None) -> Phi:
    value = None if name is None else {"name": name, "args": _usual_table(name)}
    return put(phi, "/optimizer/embedding", value)


def _table_rate(phi: Phi) -> float | None:
    rate, name = get(phi, "/optimizer/embedding/args/lr"), _table(phi)
    return None if rate is None else float(f"{rate / _usual_table(name).get('lr', rate):.3g}")


def _with_table_rate(phi: Phi, relative: float) -> Phi:
    usual = _usual_table(_table(phi))
    if not usual:
        return phi
    return put(phi, "/optimizer/embedding/args/lr", float(f"{usual['lr'] * relative:.3g}"))
