"""`surface.toml` as people read it: a comment on every section, one feature a line, no machine noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tomli_w

if TYPE_CHECKING:
    from evorank.surfaces.surface import SurfaceSpec

__all__ = ["to_toml"]

_COMMENTS = {
    "log": "Where the log is and what its columns mean. `signals` are known only after the impression:\n"
    "# rewards are SQL over them, features never see them. [log.columns]: new column = SQL over the source's "
    "columns.",
    "log.split": "Shares of rows in time order; the rest is the test period, which no agent ever queries.",
    "log.sides": "User and item tables, joined by key.",
    "log.features": "What the ranker sees: categorical (ids), numeric, history (the user's last values of a\n"
    "# categorical, before the impression), tokens (words such as genres).",
    "north_star": "What the surface exists for: (user, day, value over the following `horizon_days`).",
    "guardrails": "Bounds on every candidate: parameters, latency_ms (500 candidates), train_cpu_seconds,\n"
    "# train_cost (training CPU over production's).",
    "exploration": "Impressions shown at random: they can be replayed for another ranking, so that a clear\n"
    "# loser takes no live traffic. `reward`: what one is worth to the surface, more is better.",
    "online": "Live tests: who serves, how traffic is divided. Each [[online.metrics]] is SQL over the\n"
    "# platform's tables: success = true: a reason to launch; a margin (harm that is accepted): a guardrail.",
    "production": "Φ, the configuration that serves today; every delta is against it. A launch rewrites it.",
}


def to_toml(spec: SurfaceSpec) -> str:
    """`surface.toml` with a comment on every section; `tomllib` reads it back to an equal spec."""
    data = _without_null(spec.model_dump(mode="json", exclude_defaults=True))
    log = data.pop("log")
    log["features"] = [
        _without_null({"name": f.name, "kind": f.kind} | f.model_dump(exclude_defaults=True))
        for f in spec.log.features
    ]
    tables = {key: log.pop(key) for key in ("reader", "columns", "split") if key in log}
    sides = log.pop("sides", [])
    online = data.pop("online", {})
    metrics = online.pop("metrics", [])
    production = tomli_w.dumps({"production": data["production"]}, multiline_strings=True)
    features = "".join(f"    {_inline(feature)},\n" for feature in log.pop("features"))
    sections = [
        f"# Surface {spec.name!r}. After an edit: evorank surface check {spec.name}\n",
        _lines({key: data[key] for key in ("name", "description", "system") if key in data}),
        _section("log", _lines(log)) + f"# {_COMMENTS['log.features']}\nfeatures = [\n{features}]\n",
        *(_section(f"log.{key}", _lines(table)) for key, table in tables.items()),
        *(_section("log.sides", _lines(side), array=True) for side in sides),
        *(_section(key, _lines(data[key])) for key in ("north_star",) if key in data),
        *(_section("guardrails", _lines(each), array=True) for each in data.get("guardrails", [])),
        *(_section(key, _lines(data[key])) for key in ("exploration",) if key in data),
        *([_section("online", _lines(online))] if metrics else []),
        *(_section("online.metrics", _lines(each), array=True) for each in metrics),
        f"# {_COMMENTS['production']}\n{production}",
    ]
    return "\n".join(sections)


def _section(name: str, lines: str, array: bool = False) -> str:
    comment = f"# {_COMMENTS[name]}\n" if name in _COMMENTS else ""
    return f"{comment}{f'[[{name}]]' if array else f'[{name}]'}\n{lines}"


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_inline(value)}\n" for key, value in table.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return tomli_w.dumps({"x": value}, multiline_strings=True)[len("x = ") :].rstrip("\n")


def _key(key: str) -> str:
    return tomli_w.dumps({key: 0})[: -len(" = 0\n")]


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value
