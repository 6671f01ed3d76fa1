"""check finds what is planted in a log, and says nothing of what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evorank.model.config import default_phi
from evorank.model.logs.spec import Categorical, LogSpec, Numeric, Split
from evorank.surfaces.check import MINIMUM_EXPLORED, check, describe
from evorank.surfaces.exploration import Exploration
from evorank.surfaces.surface import NorthStar, Surface, SurfaceSpec, open_surface, save_surface
from evorank.tools.offpolicy import EFFECTIVE

N = 4000


def healthy() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(3)
    price = draw.normal(size=N).round(3)
    return {
        "user": draw.integers(0, 40, N),
        "item": draw.integers(0, 60, N),
        "time": 1_700_006_400 + np.arange(N) * 600,
        "click": (draw.random(N) < 0.3 + 0.1 * (price > 0)).astype(int),
        "watch": draw.exponential(3, N).round(2),
        "price": price,
    }


def surface_of(
    home: Path, columns: dict[str, np.ndarray], label: str = "CAST(click AS DOUBLE)", **changes
) -> Surface:
    path = home / "log.csv"
    lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    features = [
        Categorical(name="user"),
        Categorical(name="item"),
        *(Numeric(name=n) for n in columns if n in ("price", "extra")),
    ]
    fields = {
        "user": "user",
        "item": "item",
        "time": "time",
        "signals": ["click", "watch"],
        "features": features,
    }
    spec = SurfaceSpec(
        name="s",
        log=LogSpec.model_validate({"path": str(path)} | fields | changes.pop("log", {})),
        production=default_phi(label="y", factors={"y": label}),
        **changes,
    )
    return save_surface(home, spec)


def codes(surface: Surface) -> dict[str, str]:
    return {warning.code: warning.severity for warning in check(surface).warnings}


def test_a_healthy_log_has_nothing_but_the_missing_north_star(tmp_path: Path):
    assert codes(surface_of(tmp_path, healthy())) == {"no-north-star": "note"}


def test_a_feature_that_tells_the_label_is_called_leakage(tmp_path: Path):
    columns = healthy()
    columns["extra"] = columns["click"] * 2 + np.random.default_rng(0).normal(size=N) * 0.2
    report = check(surface_of(tmp_path, columns))
    (found,) = [warning for warning in report.warnings if warning.code == "leakage"]
    assert found.severity == "warning"
    assert "'extra' alone tells the label with AUC 1.000" in found.message
    assert "move it from `features` to `signals`" in found.advice


def plant(columns: dict[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
    late = np.arange(N) > 0.7 * N
    draw = np.random.default_rng(1)
    match what:
        case "signal-drift":
            columns["watch"] = np.where(late, columns["watch"] * 3, columns["watch"])
        case "label-drift":
            columns["click"] = np.where(late, draw.random(N) < 0.7, columns["click"]).astype(int)
        case "cold-users":
            columns["user"] = np.where(late, 1000 + np.arange(N), columns["user"])
        case "cold-items":
            columns["item"] = np.where(late, 1000 + np.arange(N), columns["item"])
        case "constant-feature":
            columns["price"] = np.ones(N)
        case "constant-signal":
            columns["watch"] = np.zeros(N)
        case "signal-not-finite":
            columns["watch"] = np.where(np.arange(N) == 3, np.inf, columns["watch"])
        case "feature-not-finite":
            columns["price"] = np.where(np.arange(N) == 3, -np.inf, columns["price"])
        case "out-of-order":
            columns = {name: values[::-1] for name, values in columns.items()}
        case "duplicates":
            columns = {name: np.repeat(values, 2) for name, values in columns.items()}
        case "short-histories":
            columns["user"] = np.arange(N) // 3
        case "dropped-rows":
            columns["item"] = np.where(np.arange(N) % 10 == 0, "", columns["item"].astype(str))
        case "mostly-missing":
            columns["price"] = np.where(np.arange(N) % 10 != 0, "", columns["price"].astype(str))
        case "small-log":
            columns = {name: values[:500] for name, values in columns.items()}
    return columns


PLANTED = [
    "signal-drift", "label-drift", "cold-users", "cold-items", "constant-feature", "constant-signal",
    "signal-not-finite", "feature-not-finite", "out-of-order", "duplicates", "short-histories",
    "dropped-rows", "mostly-missing", "small-log",
]  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_found_and_comes_with_advice(what: str, tmp_path: Path):
    report = check(surface_of(tmp_path, plant(healthy(), what)))
    (first, *_) = [warning for warning in report.warnings if warning.code == what]
    assert first.message.endswith(".")
    assert first.advice


def test_a_label_of_one_class_is_an_error_and_comes_first(tmp_path: Path):
    report = check(surface_of(tmp_path, healthy(), label="CAST(watch < -1 AS DOUBLE)"))
    assert (report.warnings[0].severity, report.warnings[0].code) == ("error", "label")
    assert "one class only" in report.warnings[0].message


@pytest.mark.parametrize(
    ("sql", "horizon", "code"),
    [
        ("SELECT usr, day, 1 FROM log", 1, "north-star-sql"),
        ("SELECT user, day FROM log", 1, "north-star-sql"),
        ("SELECT user, day, 1 FROM log WHERE row < 0", 1, "north-star-sql"),
        ("SELECT user, day, 1 AS value FROM log", 300, "horizon"),
    ],
)
def test_a_north_star_that_cannot_be_measured_is_told(sql: str, horizon: int, code: str, tmp_path: Path):
    star = NorthStar(name="x", description="x", sql=sql, horizon_days=horizon)
    assert code in codes(surface_of(tmp_path, healthy(), north_star=star))


@pytest.mark.parametrize(
    ("changes", "code", "severity"),
    [
        ({}, "little-exploration", "note"),
        ({"where": "chance = 1"}, "exploration", "error"),
        ({"position": "place"}, "exploration", "error"),
        ({"reward": "watch / 0"}, "exploration", "error"),
    ],
)
def test_exploration_that_cannot_be_replayed_is_told(changes: dict, code: str, severity: str, tmp_path: Path):
    shown = Exploration(where="click = 1", candidates=5, reward="watch").model_copy(update=changes)
    surface = surface_of(tmp_path, healthy(), exploration=shown)
    assert codes(surface)[code] == severity


def test_exploration_of_users_enough_for_a_replay_is_nothing_to_tell(tmp_path: Path):
    columns = healthy() | {"user": np.arange(N) % 150}
    shown = Exploration(where="true", candidates=5, reward="watch")
    assert (
        not {"exploration", "little-exploration"}
        & codes(surface_of(tmp_path, columns, exploration=shown)).keys()
    )
    assert MINIMUM_EXPLORED == EFFECTIVE


def test_a_source_that_is_gone_is_told_and_the_encoded_log_still_opens(tmp_path: Path):
    surface = surface_of(tmp_path, healthy())
    surface.dataset()
    (tmp_path / "log.csv").unlink()
    assert codes(open_surface(tmp_path, "s"))["source-missing"] == "note"


def test_describe_is_json_and_its_figures_are_those_of_the_log(tmp_path: Path):
    columns = healthy()
    facts = json.loads(json.dumps(describe(surface_of(tmp_path, columns, log={"split": Split(snap="time")}))))
    assert facts["log"]["rows"] == N
    assert facts["log"]["users"] == 40
    assert facts["log"]["items"] == 60
    assert facts["log"]["duplicate_rows"] == 0
    rows = {period: each["rows"] for period, each in facts["periods"].items()}
    assert rows == {"train": 2800, "validation": 600, "test": 600}
    signals = facts["periods"]["validation"]["signals"]
    assert signals["click"]["mean"] == pytest.approx(columns["click"][2800:3400].mean())
    assert signals["watch"]["deviation"] == pytest.approx(columns["watch"][2800:3400].std())
    assert facts["periods"]["test"]["cold_user_share"] == 0
    assert {feature["name"]: feature["size"] for feature in facts["features"]} == {
        "user": 41,
        "item": 61,
        "price": 0,
    }
    assert len({tuple(feature) for feature in facts["features"]}) == 1, "one table shows all features"
