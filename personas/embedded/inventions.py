"""Code moves: how a Φ that the engineer proposes comes to carry components of its own library.

Knobs only write the use, a name in a layer or beside `optimizer`; `carrying` then adds the code that Φ uses
and drops what it uses no longer. Components that somebody else brought are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evorank.model.system import Phi
from evorank.personas.embedded.knobs import Knob, get, put
from evorank.personas.embedded.library import LIBRARY

if TYPE_CHECKING:  # reading needs this module to restore what a prompt shows in part
    from evorank.personas.embedded.reading import Reading

__all__ = [
    "COMPONENTS",
    "brought",
    "carrying",
    "carrying_knobs",
    "has_components",
    "listed",
    "named",
    "own_knob",
    "restored",
    "uses",
    "with_library",
]

COMPONENTS = "/components"
CUT = "…"
"""What ends a text that a prompt shows in part."""


def uses(phi: Phi) -> set[str]:
    """Names of whatever the optimizer, its schedule and the layers of Φ call, built-in names included."""
    named = {str(get(phi, f"/optimizer/{place}name")) for place in ("", "embedding/", "schedule/")}
    layers = " ".join(str(text) for text in (get(phi, "/architecture/layers") or {}).values())
    return named | set(re.findall(r"([A-Za-z_]\w*)\s*\(", layers))


def carrying(phi: Phi) -> Phi:
    """Φ with the code of the library that it uses, and without the code of the library that it does not."""
    used, own = uses(phi), get(phi, COMPONENTS) or {}
    wanted = {name: code for name, code in own.items() if name in used or not _ours(name, code)}
    wanted |= {name: LIBRARY[name].component for name in LIBRARY if name in used and name not in own}
    return phi if wanted.keys() == own.keys() else put(phi, COMPONENTS, wanted)


def brought(base: Phi, target: Phi) -> list[str]:
    """Components of the library that target has and base has not."""
    before, after = get(base, COMPONENTS) or {}, get(target, COMPONENTS) or {}
    return [name for name, code in after.items() if _ours(name, code) and before.get(name) != code]


def with_library(phi: Phi, names: Sequence[str]) -> Phi:
    """Φ with these components of the library, under their names; unknown names are left out."""
    for name in names:
        if name in LIBRARY:
            phi = put(phi, f"{COMPONENTS}/{name}", LIBRARY[name].component)
    return phi


def restored(phi: Phi) -> Phi:
    """Φ with sources in full that a prompt showed in part, where they begin like those of the library."""
    for name, code in (get(phi, COMPONENTS) or {}).items():
        shown = str(get(code, "/source") or "")
        if name in LIBRARY and shown.endswith(CUT) and LIBRARY[name].source.startswith(shown[: -len(CUT)]):
            phi = put(phi, f"{COMPONENTS}/{name}/source", LIBRARY[name].source)
    return phi


def named(kind: str) -> tuple[str, ...]:
    """The library's components of one kind."""
    return tuple(name for name, invention in LIBRARY.items() if invention.kind == kind)


def has_components(reading: Reading) -> bool:
    """Whether the Φ of this prompt can carry code."""
    held = reading.schema.get("properties", {}).get(COMPONENTS[1:])
    return held is not None


def carrying_knobs(knobs: Sequence[Knob], reading: Reading) -> list[Knob]:
    """The same knobs; whatever they write carries the code that it uses, where this persona may bring any."""
    if not has_components(reading) or not reading.may_patch(COMPONENTS):
        return list(knobs)

    def carried(write: Callable[[Phi, Any], Phi]) -> Callable[[Phi, Any], Phi]:
        return lambda phi, value: carrying(write(phi, value))

    return [replace(knob, write=carried(knob.write)) for knob in knobs]


def own_knob(
    name: str,
    settings: Sequence[str],
    read: Callable[[Phi], Any],
    write: Callable[[Phi, Any], Phi],
    production: Phi,
    pointers: Sequence[str],
) -> Knob:
    """A knob that lays code of the library over what `read` and `write` turn; None is as production has it.

    `pointers`: all that production says of it.
    """

    def own(phi: Phi) -> Any:
        return value if (value := read(phi)) in LIBRARY else None

    def with_own(phi: Phi, value: Any) -> Phi:
        if value == own(phi):
            return phi
        if value is None:
            phi = write(phi, read(production))
            for pointer in pointers:
                if get(production, pointer) is not None:
                    phi = put(phi, pointer, get(production, pointer))
            return phi
        return write(phi, value)

    where = (pointers[0], COMPONENTS)
    return Knob(name, name, (None, *settings), False, own, with_own, where, structural=True, code=True)


def listed(read: Callable[[Phi], Any], production: Phi) -> Callable[[Phi], Any]:
    """What `read` gives, or gives of production where code of the library lies over it.

    So the journal's verdict on a component is no verdict on the listed setting that it replaces.
    """
    return lambda phi: read(production) if read(phi) in LIBRARY else read(phi)


def _ours(name: str, code: Any) -> bool:
    return name in LIBRARY and get(code, "/source") == LIBRARY[name].source
