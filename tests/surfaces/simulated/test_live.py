"""What is served is encoded as what is trained on: codes, numbers and histories, known ids and unknown."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from worlds import active_days, small

from evorank.model.errors import ConfigurationError, ToolError
from evorank.model.logs.encode import encode
from evorank.model.logs.spec import Categorical, History, LogSpec, Split, Tokens
from evorank.surfaces.simulated.live import LiveEncoder
from evorank.surfaces.simulated.logs import LogWriter, replay
from evorank.surfaces.simulated.policies import Counting, Random
from evorank.surfaces.simulated.presets import PRESETS
from evorank.surfaces.simulated.traffic import Sinks
from evorank.surfaces.simulated.world import World, everybody

TRAINING_DAYS, KNOWN_DAYS, LIVE_DAYS = 4, 6, 3


class Serving:
    """Shows at random, and keeps how every candidate was encoded when it was served."""

    exploration = 1.0

    def __init__(self, encoder):
        self.encoder, self.served = encoder, {}

    def score(self, rows):
        encoded = self.encoder.encode(rows)
        keys = zip(*(rows.column(name).tolist() for name in ("user_id", "time_ms", "video_id")), strict=True)
        self.served |= {key: (encoded, row) for row, key in enumerate(keys)}
        return np.zeros(rows.shape, np.float32)


def _spec(preset, folder, **changes) -> LogSpec:
    spec = preset.surface("x").log.based_at(folder)
    disliked = History(name="disliked", of="tag", length=4, where="is_hate = 1 OR survey_score < 4")
    changes = {"features": [*spec.features, disliked]} | changes
    split = Split(validation_from="2026-01-09", test_from="2026-01-10")  # four days of training
    return spec.model_copy(update={"split": split} | changes)


@pytest.mark.parametrize("name", PRESETS)
def test_live_traffic_is_encoded_as_the_log_will_be(name, tmp_path):
    preset = PRESETS[name]
    world = World(
        preset.parameters.changed(
            population={"users": 150, "late_share": 0.3, "arrival_days": 8},
            catalogue={"new_per_day": 200},
            response={"asked": 0.5},
        ),
        5,
    )
    log = LogWriter(tmp_path / "log")
    for _ in range(KNOWN_DAYS):
        world.step_day(everybody(), [Random()], log)
    log.begin_day(world.date, world.users_active(world.day))
    encoder = LiveEncoder(encode(_spec(preset, tmp_path), tmp_path / "data"))
    serving = Serving(encoder)
    for _ in range(LIVE_DAYS):
        world.step_day(everybody(), [serving], Sinks([log, encoder]))
    log.begin_day(world.date, world.users_active(world.day))

    later = encode(_spec(preset, tmp_path), tmp_path / "data")
    live_from = later.bounds["test"].stop - sum(later.days("test") >= later.days("test")[-1] - LIVE_DAYS + 1)
    period = slice(int(live_from), len(later))
    offline = later.rows(period)
    with later.connect("test") as connection:
        found = connection.execute(
            f"SELECT user_id, time_ms, video_id FROM (SELECT *, epoch_ms(time) AS time_ms FROM log) "
            f"WHERE row >= {live_from} ORDER BY row"
        ).fetchall()
    assert len(found) == len(offline) > 200
    pairs = [serving.served[key] for key in found]
    seen = [name for name in (f.name for f in offline.of_kind("categorical")) if name != "position"]
    for feature in seen:
        served = np.array([encoded.column(feature)[row] for encoded, row in pairs])
        assert np.array_equal(served, offline.column(feature)), feature
    for feature in offline.of_kind("numeric"):
        served = np.array([encoded.column(feature.name)[row] for encoded, row in pairs])
        assert np.allclose(served, offline.column(feature.name), rtol=1e-6, atol=1e-6), feature.name
    for feature in offline.of_kind("history"):
        served = np.stack([encoded.column(feature.name)[row] for encoded, row in pairs])
        assert np.array_equal(served, offline.column(feature.name)), feature.name
        assert (served > 0).any()
    # The comparison met what it is about: videos and users that training did not know.
    assert (offline.column("video_id") == 0).any()
    assert (offline.column("user_id") == 0).any()


def test_a_history_longer_than_what_happened_is_padded_and_a_shorter_one_forgets():
    from evorank.surfaces.simulated.live import _Past

    past = _Past(History(name="h", of="video_id", length=3))
    past.push(np.array([1, 0, 1]), np.array([5, 6, 7], np.int32))
    assert past.of(np.array([0, 1, 2])).tolist() == [[6, 0, 0], [7, 5, 0], [0, 0, 0]]
    past.push(np.array([1, 1, 1, 1, 0]), np.array([1, 2, 3, 4, 9], np.int32))
    assert past.of(np.array([1, 0])).tolist() == [[4, 3, 2], [9, 6, 0]]


def _log(folder, preset):
    world, log = World(small(60), 5), LogWriter(folder / "log")
    for _ in range(TRAINING_DAYS + 4):
        world.step_day(everybody(), [Random()], log)


@pytest.mark.parametrize(
    ("feature", "told"),
    [
        (
            Categorical(name="hour_of_day", column="hour(time)"),
            "hour_of_day.*categorical of 'hour\\(time\\)'",
        ),
        (Tokens(name="words", column="CAST(tag AS VARCHAR)"), "words"),
    ],
)
def test_a_feature_that_traffic_cannot_give_is_refused_by_name(feature, told, tmp_path):
    preset = PRESETS["home"]
    _log(tmp_path, preset)
    dataset = encode(
        _spec(preset, tmp_path, features=[Categorical(name="video_id"), feature]), tmp_path / "data"
    )
    with pytest.raises(ConfigurationError, match=told):
        LiveEncoder(dataset)


def test_a_new_process_catches_up_by_replaying_the_files(tmp_path):
    preset = PRESETS["home"]
    world, log = World(preset.parameters.changed(population={"users": 150}), 5), LogWriter(tmp_path / "log")
    for _ in range(KNOWN_DAYS + 1):
        world.step_day(everybody(), [Random()], log)
    dataset = encode(_spec(preset, tmp_path), tmp_path / "data")  # the last day is pending: not in it
    listening, counting = LiveEncoder(dataset), Counting()
    replay(tmp_path / "log", listening, after=datetime.date(2026, 1, 10))
    for _ in range(2):
        world.step_day(everybody(), [Random()], Sinks([log, listening]))
    late, counted = LiveEncoder(dataset), Counting()
    replay(tmp_path / "log", late, after=datetime.date(2026, 1, 10))
    replay(tmp_path / "log", Sinks([counting]))
    replay(tmp_path / "log", Sinks([counted]), after=datetime.date(2026, 1, 10))
    asked = []

    class Asking:
        exploration = 0.0

        def score(self, rows):
            asked.append((listening.encode(rows), late.encode(rows), LiveEncoder(dataset).encode(rows)))
            assert not np.array_equal(counting.score(rows), counted.score(rows))
            return counting.score(rows)

    world.step_day(everybody(), [Asking()])
    for heard, replayed, stale in asked:
        assert np.array_equal(heard.categorical, replayed.categorical)
        for name, values in heard.histories.items():
            assert np.array_equal(values, replayed.histories[name])
            assert not np.array_equal(values, stale.histories[name])


@pytest.mark.heavy
def test_a_ranker_trained_on_the_log_serves_live_traffic_and_wins_clicks(tmp_path):
    from evorank.model.ranker import NeuralRanker

    preset = PRESETS["home"]
    world, log = World(preset.parameters.changed(population={"users": 1200}), 5), LogWriter(tmp_path / "log")
    for _ in range(8):
        world.step_day(everybody(), [Random()], log)
    dataset = encode(preset.surface("x").log.based_at(tmp_path), tmp_path / "data")
    system = NeuralRanker(dataset.schema, preset.production)
    labels = dataset.labels(system.objective(preset.production))[dataset.bounds["train"]]
    weights = system.fit(preset.production, dataset.rows("train"), labels, seed=0)
    encoder = LiveEncoder(dataset)

    class Ranker:
        exploration = 0.0

        def score(self, rows):
            return system.predict(preset.production, weights, encoder.encode(rows)).reshape(rows.shape)

    chance = active_days(world.copy(), Random(), 2)[1]
    assert active_days(world, Ranker(), 2, encoder)[1] > 1.3 * chance


def test_impressions_outside_of_a_day_are_refused(tmp_path):
    _log(tmp_path, PRESETS["home"])
    encoder = LiveEncoder(encode(_spec(PRESETS["home"], tmp_path), tmp_path / "data"))
    with pytest.raises(ToolError, match="between `begin_day` and `end_day`"):
        encoder.write({})
