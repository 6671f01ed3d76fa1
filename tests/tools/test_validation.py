from __future__ import annotations

import duckdb
import numpy as np
import pytest

from evorank.model.errors import ToolError
from evorank.model.logs.encode import encode
from evorank.model.logs.spec import Categorical, LogSpec, Numeric, Split
from evorank.model.system import Objective
from evorank.tools.validation import _difference, drift, enough_rows

CLICK = Objective("CAST(click AS DOUBLE)")


def encoded(directory, name: str, first: int, last: int, **changes):
    """Days [first, last) of a log in which nothing changes, but for `changes` from day 20 on."""
    rate, length, spread, lost = 0.3, 30.0, 8.0, 0.0
    columns = []
    for day in range(first, last):
        rng = np.random.default_rng(day)
        if day >= 20:
            rate, length = changes.get("rate", rate), changes.get("length", length)
            spread, lost = changes.get("spread", spread), changes.get("lost", lost)
        user = np.repeat(np.arange(400), 3)
        offset = changes.get("items", 0) * max(0, day - 19)
        own = np.random.default_rng(1).uniform(-0.15, 0.15, 400)[user]
        seconds = rng.normal(length, spread, len(user))
        columns.append(
            {
                "user": user,
                "item": rng.integers(0, 50, len(user)) + offset,
                "ts": 1_767_571_200 + 86_400 * day + rng.integers(0, 86_000, len(user)),
                "seconds": np.where(rng.random(len(user)) < lost, np.nan, seconds),
                "click": (rng.random(len(user)) < rate + own).astype(np.int64),
            }
        )
    table = {key: np.concatenate([each[key] for each in columns]) for key in columns[0]}
    path = directory / f"{name}.parquet"
    with duckdb.connect() as connection:
        connection.register("log", table)
        missing = "* REPLACE (CASE WHEN isnan(seconds) THEN NULL ELSE seconds END AS seconds)"
        connection.execute(f"COPY (SELECT {missing} FROM log) TO '{path}'")
    features = [Categorical(name="user"), Categorical(name="item"), Numeric(name="seconds")]
    spec = LogSpec(
        path=str(path), user="user", item="item", time="ts", time_unit="s", signals=["click"],
        features=features + changes.get("features", []), split=Split(snap="day"),
    )  # fmt: skip
    return encode(spec, directory / "data")


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return encoded(tmp_path_factory.mktemp("before"), "before", 0, 20)


def test_a_log_that_goes_on_as_it_was_has_no_drift(before, tmp_path):
    for first, last in ((0, 27), (14, 34)):  # longer; moved on, overlapping
        assert drift(before, encoded(tmp_path, f"{first}-{last}", first, last), CLICK).findings == ()
    assert drift(before, before, CLICK).findings == ()


@pytest.mark.parametrize(
    ("changes", "check", "serious", "words"),
    [
        ({"rate": 0.35}, "label", False, "from 0.29"),
        ({"rate": 0.5}, "label", True, "(+70%"),
        ({"length": 37.0}, "scale", False, "'seconds' went from 29"),
        ({"length": 90.0}, "scale", True, "'seconds'"),
        ({"spread": 14.0}, "scale", False, "± 7.9"),
        ({"spread": 50.0}, "scale", True, "± 7.9"),
        ({"lost": 0.2}, "missing", False, "was on 0%"),
        ({"lost": 0.6}, "missing", True, "'seconds' is missing on"),
        ({"items": 1}, "unknown", False, "values of 'item'"),
        ({"items": 9}, "unknown", True, "values of 'item'"),
    ],
)
def test_what_changed_is_told_and_what_is_too_much_is_serious(
    before, tmp_path, changes, check, serious, words
):
    # The last eight days are all that is left of the old log's world, or all of them are new.
    first, last = (18, 28) if check in ("label", "unknown") else (19, 31)
    now = encoded(tmp_path, "now", first, last, **changes)
    found = {each.check: each for each in drift(before, now, CLICK).findings}
    assert check in found
    assert words in found[check].said
    assert found[check].serious == serious
    assert drift(before, now, CLICK).serious == any(each.serious for each in found.values())
    assert set(found) <= {check, "new_items"}


def test_new_items_are_told_but_never_serious_by_themselves(before, tmp_path):
    now = encoded(tmp_path, "now", 21, 41, items=5)
    found = {each.check: each for each in drift(before, now, CLICK).findings}
    assert not found["new_items"].serious
    assert "did not have" in str(found["new_items"])


def test_other_features_are_serious_and_all_that_is_said(before, tmp_path):
    now = encoded(tmp_path, "now", 10, 30, rate=0.6, features=[Numeric(name="longer", column="seconds * 2")])
    (found,) = drift(before, now, CLICK).findings
    assert found.check == "schema"
    assert found.serious
    assert "'longer'" in found.said


def test_a_label_that_the_new_log_cannot_give_is_an_error_not_a_drift(before, tmp_path):
    now = encoded(tmp_path, "now", 10, 30, lost=0.1)
    with pytest.raises(ToolError, match="NULL"):
        drift(before, now, Objective("seconds / 100", {}, "mse"))


def test_the_difference_of_means_is_judged_by_people_not_by_rows():
    rng = np.random.default_rng(0)
    people, scores = 300, []
    for _ in range(2_000):
        level = rng.normal(0.0, 1.0, people)
        who = [rng.permutation(people)[:200] for _ in range(2)]  # at least 100 of them are in both
        counts = [rng.geometric(0.1, 200).astype(float) for _ in range(2)]
        sums = [level[w] * n + rng.normal(0.0, np.sqrt(n)) for w, n in zip(who, counts, strict=True)]
        scores.append(_difference(who, counts, sums)[1])
    assert np.std(scores) == pytest.approx(1.0, abs=0.07)
    assert np.mean(np.abs(scores) > 1.96) == pytest.approx(0.05, abs=0.02)


def test_rows_are_enough_or_not(before):
    rows = before.schema.training_rows
    assert not enough_rows(before, rows).serious
    found = enough_rows(before, rows + 1)
    assert found.serious
    assert f"{rows:,} rows" in str(found.findings[0])
