from __future__ import annotations

import duckdb
import numpy as np
import pytest

from evorank.model.errors import LogError
from evorank.model.logs.encode import encode
from evorank.model.logs.spec import Categorical, History, LogSpec, Numeric, Split, Tokens
from evorank.tools.random_traffic import RandomTraffic

ITEMS, USERS, DAYS = 30, 200, 10


def log(directory, slate: int):
    """Sessions of `slate` random items; `suits` is a property of user and item together."""
    rng = np.random.default_rng(0)
    sessions = USERS * DAYS
    user = np.repeat(np.tile(np.arange(USERS), DAYS), slate)
    day = np.repeat(np.repeat(np.arange(DAYS), USERS), slate)
    item = np.argsort(rng.random((sessions, ITEMS)), axis=1)[:, :slate].reshape(-1)
    second = np.repeat(rng.integers(0, 86_000, sessions), slate)
    table = {
        "user": user,
        "item": item,
        "ts": 1_767_571_200 + 86_400 * day + second,
        "place": np.tile(np.arange(1, slate + 1), sessions),
        "age": item + day,
        "genre": np.array([f"g{i % 3} g{i % 5}" for i in range(ITEMS)])[item],
        "suits": (user * 7 + item * 3) % 11,
        "click": rng.integers(0, 2, len(user)),
    }
    with duckdb.connect() as connection:
        connection.register("log", table)
        connection.execute(f"COPY (SELECT * FROM log) TO '{directory}/log.parquet'")
    return LogSpec(
        path=str(directory / "log.parquet"),
        user="user",
        item="item",
        time="ts",
        time_unit="s",
        signals=["click"],
        keep=["place"],
        features=[
            Categorical(name="user"),
            Categorical(name="item"),
            Categorical(name="slot", column="place"),
            Numeric(name="age"),
            Tokens(name="genre", length=2),
            History(name="clicked", of="item", length=5, where="click = 1"),
        ],
        split=Split(train=0.6, validation=0.3, snap="day"),
    )


WANTED = {
    "user": "session",
    "item": "item",
    "slot": "position",
    "age": "item",
    "genre": "item",
    "clicked": "session",
}


@pytest.mark.parametrize("slate", [4, 1])
def test_whose_a_feature_is_is_read_off_the_log(tmp_path, slate):
    dataset = encode(log(tmp_path, slate), tmp_path / "data")
    traffic = RandomTraffic.read(dataset, "validation", "true", "place")
    assert dict(traffic.owner) == WANTED
    assert traffic.obstacle is None
    assert traffic.place.min() == 0
    assert traffic.place.max() == slate - 1
    assert traffic.people == USERS


def test_other_candidates_have_the_session_and_a_whole_item_of_that_day(tmp_path):
    dataset = encode(log(tmp_path, 4), tmp_path / "data")
    traffic = RandomTraffic.read(dataset, "validation", "true", "place")
    some = np.flatnonzero(traffic.place == 2)[:300]
    made, shown = traffic.others(some, 20, np.random.default_rng(0)), traffic.shown(some)
    for name in ("user", "clicked"):
        assert np.array_equal(made.column(name), np.repeat(traffic.encoded[some].column(name), 20, axis=0))
    first = traffic.encoded[np.flatnonzero(traffic.place == 0)].column("slot")
    assert set(made.column("slot")) == set(shown.column("slot")) == set(first)
    # age = item + day: an item of another day would have another age.
    known = {}
    for item, genre, age, day in zip(
        traffic.encoded.column("item"),
        traffic.encoded.column("genre").tolist(),
        traffic.encoded.column("age"),
        traffic.days,
        strict=True,
    ):
        known[int(day), int(item)] = (genre, float(age))
    for row in range(len(made)):
        key = int(traffic.days[some[row // 20]]), int(made.column("item")[row])
        assert known[key] == (made.column("genre")[row].tolist(), float(made.column("age")[row]))
    # Items are drawn as often as that day showed them. Chi-square with 29 degrees, 1 in 10,000.
    day = traffic.days[some[0]]
    drawn = made.column("item")[np.repeat(traffic.days[some] == day, 20)]
    counts, wanted = (
        np.bincount(items, minlength=ITEMS + 1)[1:]
        for items in (drawn, traffic.encoded.column("item")[traffic.days == day])
    )
    wanted = wanted * counts.sum() / wanted.sum()
    assert ((counts - wanted) ** 2 / wanted).sum() < 68


def test_a_feature_of_user_and_item_together_is_an_obstacle(tmp_path):
    spec = log(tmp_path, 4)
    spec = spec.model_copy(update={"features": [*spec.features, Categorical(name="suits")]})
    traffic = RandomTraffic.read(encode(spec, tmp_path / "data"), "validation", "true", "place")
    assert traffic.owner["suits"] == "both"
    assert traffic.obstacle is not None
    assert "'suits'" in traffic.obstacle


def test_without_a_column_of_positions_every_impression_is_a_first_one(tmp_path):
    dataset = encode(log(tmp_path, 4), tmp_path / "data")
    traffic = RandomTraffic.read(dataset, "validation", "click = 1", None)
    assert set(traffic.place) == {0}
    assert len(traffic.rows) < 0.6 * USERS * 3 * 4
    with pytest.raises(LogError, match="Did you mean 'place'"):
        RandomTraffic.read(dataset, "validation", "click = 1", "plaice")
