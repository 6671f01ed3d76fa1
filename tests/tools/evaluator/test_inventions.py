"""What the paper's agents invented goes the whole way: trained, scored, exported, scored elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from evorank.model.logs.encode import encode
from evorank.model.logs.spec import Categorical, LogSpec, Numeric, Split
from evorank.model.system import Objective
from evorank.tools.evaluator.artifact import Artifact
from evorank.tools.evaluator.evaluate import BATCH, _shuffled
from evorank.tools.evaluator.executor import Job
from evorank.tools.evaluator.local import LocalPool

sys.path.append(str(Path(__file__).parents[2] / "model"))

from inventions import INVENTIONS, PHI, WRITTEN, invented

pytestmark = pytest.mark.heavy
NAMES = ["the production they start from", *INVENTIONS, *WRITTEN]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """4,000 impressions with the features that the deltas name, and a click that depends on all three."""
    directory, rng, n = tmp_path_factory.mktemp("log"), np.random.default_rng(0), 4000
    user, item, price = rng.integers(0, 40, n), rng.integers(0, 30, n), rng.normal(size=n)
    logit = rng.normal(0, 1, 40)[user] + rng.normal(0, 1, 30)[item] + price
    columns = {
        "user_id": user,
        "item_id": item,
        "price": price,
        "clicked": (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64),
        "ts": 1_600_000_000 + np.arange(n) * 400,
    }
    with duckdb.connect() as connection:
        connection.register("columns", columns)
        connection.execute(f"COPY (SELECT * FROM columns) TO '{directory}/log.parquet'")
    spec = LogSpec(
        path=str(directory / "log.parquet"),
        user="user_id",
        item="item_id",
        time="ts",
        time_unit="s",
        signals=["clicked"],
        features=[Categorical(name="user_id"), Categorical(name="item_id"), Numeric(name="price")],
        split=Split(train=0.6, validation=0.3, snap="day"),
    )
    return encode(spec, directory / "encoded")


@pytest.fixture(scope="module")
def trained(log, pool, tmp_path_factory):
    """name -> (its artifact, what the evaluation predicted), trained side by side in one pool."""
    train, score = log.bounds["train"], log.bounds["validation"]
    folder, jobs = tmp_path_factory.mktemp("artifacts"), {}
    for number, name in enumerate(NAMES):
        jobs[name] = Job(
            dataset=log.directory,
            system="evorank.model.ranker:NeuralRanker",
            production=PHI,
            phi=phi_of(name),
            label_path=log.label_path(Objective("clicked"), "train"),
            loss="bce",
            seed=3,
            train=(train.start, train.stop),
            score=(score.start, score.stop),
            artifact=folder / str(number),
        )
    ids = {name: pool.submit(job) for name, job in jobs.items()}
    return {name: (jobs[name].artifact, pool.result(id, 300).predictions) for name, id in ids.items()}


@pytest.fixture(scope="module")
def elsewhere():
    """A pool that has trained nothing."""
    with LocalPool(workers=1) as pool:
        yield pool


def phi_of(name):
    phi = PHI if name == NAMES[0] else invented(name)
    return phi | {"optimizer": phi["optimizer"] | {"batch_size": 32, "epochs": 3}}


@pytest.mark.parametrize("name", NAMES)
def test_an_invention_is_exported_and_scored_elsewhere_to_the_last_bit(name, log, trained, elsewhere):
    directory, predictions = trained[name]
    found = Artifact.open(directory)
    assert found.phi == phi_of(name)
    assert set(found.phi["components"]) == set(phi_of(name)["components"])
    # The sums of a row depend on where in a request it lies: the same requests, the same bits.
    order = _shuffled(log.key, (log.bounds["validation"].start, log.bounds["validation"].stop))
    rows = log.rows("validation")[order]
    assert len(rows) <= BATCH
    with elsewhere.scorer(directory, capacity=len(rows)) as scorer:
        assert scorer.score(rows).tobytes() == predictions[order].tobytes()


def test_the_inventions_learn_and_are_not_one_another(log, trained):
    labels = log.labels(Objective("clicked"), upto="validation")[log.bounds["validation"]]
    for name, (_, predictions) in trained.items():
        assert np.corrcoef(predictions, labels)[0, 1] > 0.2, name
    assert len({predictions.tobytes() for _, predictions in trained.values()}) == len(NAMES)
