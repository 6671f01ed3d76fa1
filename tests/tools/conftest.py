"""A small log with a known truth, encoded for real."""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # workers import `linear_system` from here

from small_world import SmallSurface, simulate

from evorank.model.logs.encode import encode
from evorank.model.logs.spec import Categorical, LogSpec, Split
from evorank.tools.workbench import Workbench


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("log")
    columns = simulate()
    connection = duckdb.connect()
    connection.register("columns", columns)
    connection.execute(f"COPY (SELECT * FROM columns) TO '{directory}/log.parquet'")
    spec = LogSpec(
        path=str(directory / "log.parquet"),
        user="user",
        item="item",
        time="ts",
        time_unit="s",
        signals=["click", "like"],
        features=[Categorical(name="user"), Categorical(name="item")],
        split=Split(train=0.6, validation=0.3, snap="day"),
    )
    return encode(spec, directory / "encoded")


@pytest.fixture
def bench(dataset, pool, tmp_path):
    bench = Workbench(SmallSurface(dataset, tmp_path), pool, tmp_path / "cache", seeds=4)
    yield bench
    bench.close()
