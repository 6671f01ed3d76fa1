"""A log grows by a file a day, complete with what only the next day tells, and survives a stop."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from worlds import Recorder, small

from evorank.model.errors import LogError
from evorank.model.logs.encode import encode
from evorank.surfaces.simulated.logs import LogWriter
from evorank.surfaces.simulated.policies import Counting, Greedy, Random
from evorank.surfaces.simulated.presets import PRESETS
from evorank.surfaces.simulated.traffic import CONTEXT, SIGNALS, Sinks
from evorank.surfaces.simulated.world import World, everybody


def _read(folder, columns="*"):
    return duckdb.sql(f"SELECT {columns} FROM read_parquet('{folder}/day=*.parquet')").fetchnumpy()


def test_a_day_is_complete_when_the_next_begins(tmp_path):
    world, log, heard = World(small(), 5), LogWriter(tmp_path), Recorder()
    for day in range(3):
        world.step_day(everybody(), [Random()], Sinks([log, heard]))
        assert len(list(tmp_path.glob("day=*.parquet"))) == day
    files = sorted(file.name for file in tmp_path.glob("day=*.parquet"))
    assert files == ["day=2026-01-05.parquet", "day=2026-01-06.parquet"]
    found = duckdb.sql(f"SELECT * FROM read_parquet('{tmp_path / files[0]}')").fetchnumpy()
    assert {*CONTEXT, *SIGNALS} <= set(found)
    came = np.isin(found["user_id"], heard.days[1][1])
    assert np.array_equal(found["returned_next_day"] == 1, came)
    assert 0 < came.mean() < 1
    assert (np.diff(found["time_ms"]) >= 0).all()


def test_a_survey_that_nobody_answered_is_null(tmp_path):
    world = World(small(1500, response={"asked": 1.0}), 5)
    for _ in range(2):
        world.step_day(everybody(), [Random()], LogWriter(tmp_path))
    scores = _read(tmp_path, "survey_score")["survey_score"]
    assert 0 < (~scores.mask).mean() < 0.2
    assert set(np.unique(scores.compressed())) == {1, 2, 3, 4, 5}


def test_the_same_day_is_written_after_a_stop(tmp_path):
    straight, stopped = World(small(), 5), World(small(), 5)
    log = LogWriter(tmp_path / "a")
    for _ in range(3):
        straight.step_day(everybody(), [Random()], log)
    stopped.step_day(everybody(), [Random()], LogWriter(tmp_path / "b"))
    stopped.save(tmp_path / "world.npz")
    stopped.step_day(everybody(), [Random()], LogWriter(tmp_path / "b"))  # this day is lost, and done again
    again = World.open(tmp_path / "world.npz")
    for _ in range(2):
        again.step_day(everybody(), [Random()], LogWriter(tmp_path / "b"))
    a, b = _read(tmp_path / "a"), _read(tmp_path / "b")
    assert all(np.array_equal(np.ma.getdata(a[name]), np.ma.getdata(b[name])) for name in a)


def test_a_surface_reads_the_daily_files_and_production_is_valid(tmp_path):
    from evorank.model.ranker import NeuralRanker

    for name, preset in PRESETS.items():
        world, counting = World(preset.parameters.changed(population={"users": 60}), 5), Counting()
        sink = Sinks([LogWriter(tmp_path / name / "log"), counting])
        for _ in range(8):
            world.step_day(everybody(), [Greedy(counting, 0.2)], sink)
        spec = preset.surface(name)
        dataset = encode(spec.log.based_at(tmp_path / name), tmp_path / name / "data")
        assert NeuralRanker(dataset.schema, spec.production).check(spec.production) == []
        labels = dataset.labels(NeuralRanker(dataset.schema).objective(spec.production))
        assert 0 < labels.mean() < 1


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    world, log = World(small(), 5), LogWriter(tmp_path)

    def full(connection, query, target):
        raise duckdb.IOException("No space left on device")

    monkeypatch.setattr(LogWriter, "_copy", staticmethod(full))
    with pytest.raises(LogError, match="disk"):
        world.step_day(everybody(), [Random()], log)
    assert not list(tmp_path.rglob("*.parquet"))
