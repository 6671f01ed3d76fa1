from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evorank.model.config import default_phi
from evorank.model.errors import ConfigurationError, ToolError
from evorank.model.system import Feature, Objective, Rows
from evorank.tools.evaluator.artifact import Artifact
from evorank.tools.evaluator.executor import Job
from evorank.tools.evaluator.local import LocalPool

RANKER = "evorank.model.ranker:NeuralRanker"


def job(dataset, artifact, system=RANKER, phi=None):
    train, score = dataset.bounds["train"], dataset.bounds["validation"]
    phi = phi or default_phi(label="click", factors={}, batch_size=512, embedding_dim=4)
    return Job(
        dataset=dataset.directory,
        system=system,
        production=phi,
        phi=phi,
        label_path=dataset.label_path(Objective("click"), "train"),
        loss="bce",
        seed=1,
        train=(train.start, train.stop),
        score=(score.start, score.stop),
        artifact=artifact,
    )


@pytest.fixture(scope="module")
def exported(dataset, pool, tmp_path_factory):
    """An artifact of the network, and what the evaluation predicted."""
    directory = tmp_path_factory.mktemp("artifacts") / "deep" / "network"
    return directory, pool.result(pool.submit(job(dataset, directory)), 120).predictions


@pytest.fixture
def copy(exported, tmp_path):
    """An artifact that a test may harm."""
    for file in exported[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_an_artifact_scores_what_its_evaluation_predicted_in_any_number_of_requests(dataset, pool, exported):
    directory, predictions = exported
    rows = dataset.rows("validation")
    for capacity in (len(rows), 500, 77):
        with pool.scorer(directory, capacity) as scorer:
            assert np.allclose(scorer.score(rows), predictions, rtol=1e-5, atol=1e-6)
            assert np.allclose(scorer.score(rows[:1]), predictions[:1], rtol=1e-5, atol=1e-6)
            assert scorer.score(rows[:0]).shape == (0,)
            assert scorer.score(rows[np.array([5, 3])]).shape == (2,)


def test_several_scorers_and_threads_do_not_disturb_each_other(dataset, pool, exported):
    directory, predictions = exported
    rows = dataset.rows("validation")
    with pool.scorer(directory, 300) as one, pool.scorer(directory, 400) as two:
        found = {}

        def score(scorer, part):
            found[part.start] = scorer.score(rows[part])

        parts = [slice(start, start + 350) for start in range(0, len(rows) - 350, 350)]
        threads = [threading.Thread(target=score, args=[(one, two)[i % 2], p]) for i, p in enumerate(parts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for part in parts:
            assert np.allclose(found[part.start], predictions[part], rtol=1e-5, atol=1e-6)


def test_a_scorer_goes_on_after_rows_that_its_model_cannot_score(dataset, pool, exported):
    directory, predictions = exported
    rows = dataset.rows("validation")[:100]
    wrong = replace(rows, categorical=np.full_like(rows.categorical, 10**6))
    with pool.scorer(directory) as scorer:
        with pytest.raises(ToolError, match="has code 1000000 outside"):
            scorer.score(wrong)
        assert np.allclose(scorer.score(rows), predictions[:100], rtol=1e-5, atol=1e-6)
        foreign = Rows((Feature("x", "numeric"),), np.zeros((1, 0), np.int32), np.zeros((1, 1), np.float32))
        with pytest.raises(ToolError, match="must have the features"):
            scorer.score(foreign)


def test_a_scorer_whose_process_is_killed_says_so_and_another_can_be_opened(dataset, pool, exported):
    rows = dataset.rows("validation")[:10]
    with pool.scorer(exported[0]) as scorer:
        scorer.score(rows)
        pool._supervisors[RANKER].kill(scorer.child.id)
        scorer.child.ended.result(60)
        with pytest.raises(ToolError, match=r"died.*another scorer"):
            scorer.score(rows)
        with pytest.raises(ToolError, match="closed"):
            scorer.score(rows)
    with pool.scorer(exported[0]) as scorer:
        assert len(scorer.score(rows)) == 10


def test_a_scorer_that_takes_too_long_is_stopped(dataset, tmp_path):
    phi = {"lr": 0.5, "slow": 30.0}
    with LocalPool(workers=1) as fresh:
        wanted = job(dataset, tmp_path / "slow", "linear_system:LinearSystem", phi | {"slow": 0.0})
        fresh.result(fresh.submit(wanted), 60)
    for name, content in (("phi.json", phi),):
        (tmp_path / "slow" / name).write_text(json.dumps(content))
    resign(tmp_path / "slow")
    rows = dataset.rows("validation")[:10]
    with (
        LocalPool(workers=1, check_limit=1.0) as strict,
        strict.scorer(tmp_path / "slow") as scorer,
        pytest.raises(ToolError, match="longer than 1 seconds"),
    ):
        scorer.score(rows)


def resign(directory):
    import hashlib

    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(manifest))


def test_a_closed_pool_closes_its_scorers(dataset, exported):
    with LocalPool(workers=1) as fresh:
        scorer = fresh.scorer(exported[0])
        scorer.score(dataset.rows("validation")[:10])
        child = scorer.child
    assert child.ended.done()
    with pytest.raises(ToolError, match="closed"):
        scorer.score(dataset.rows("validation")[:10])
    with pytest.raises(ToolError, match="closed"):
        fresh.scorer(exported[0])


def test_an_artifact_says_whose_it_is(dataset, exported):
    found = Artifact.open(exported[0])
    assert (found.system, found.data, found.seed, found.loss) == (RANKER, dataset.key, 1, "bce")
    assert found.schema == dataset.schema
    assert found.phi["reward"]["label"] == "click"
    weights = found.weights()
    assert sum(array.size for array in weights.values()) > 1000
    assert all(array.dtype == np.float32 for array in weights.values())
    assert {path.name for path in exported[0].iterdir()} == {*found.files, "manifest.json"}
    assert [path.name for path in exported[0].parent.iterdir()] == [exported[0].name]


@pytest.mark.parametrize("name", ["phi.json", "schema.json", "weights.safetensors"])
def test_a_changed_or_missing_file_is_named(pool, copy, name):
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"{name} is not the file that was exported"):
        pool.scorer(copy)
    (copy / name).unlink()
    with pytest.raises(ConfigurationError, match=rf"{name} cannot be read"):
        Artifact.open(copy)


def test_weights_that_change_after_they_were_verified_are_not_loaded(copy):
    found = Artifact.open(copy)
    path = copy / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ConfigurationError, match="changed since"):
        found.weights_file()


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "files": {}}', '{"format": 1, "files": 7}']
)
def test_a_folder_that_is_no_artifact_is_a_clear_error(copy, manifest):
    (copy / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigurationError, match=str(copy)):
        Artifact.open(copy)


def test_an_export_replaces_an_artifact_and_nothing_else(dataset, pool, copy, tmp_path_factory):
    before = Artifact.open(copy).files
    wanted = replace(job(dataset, copy), seed=2)
    pool.result(pool.submit(wanted), 120)
    assert Artifact.open(copy).seed == 2
    assert Artifact.open(copy).files != before
    other = tmp_path_factory.mktemp("precious")
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="no artifact"):
        pool.result(pool.submit(replace(wanted, artifact=other)), 120)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    assert Path(other / "thesis.txt").read_text() == "years of work"
