"""Whatever a candidate's code does where it runs: it gets its true loss or a refusal, and harms nobody."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hostile_system import ATTACKS
from linear_system import LinearSystem

from evorank.model.config import default_phi
from evorank.model.errors import ToolError
from evorank.model.system import Objective
from evorank.tools.evaluator.executor import Job
from evorank.tools.evaluator.local import LocalPool

pytestmark = pytest.mark.heavy
TRUE = {
    "PatchesTheLoss",
    "ReturnsConstantsFromItem",
    "HuntsLabels",
    "HuntsLabelsOfLaterRows",
    "PrefillsThePage",
    "FakesClocks",
    "FloodsItsOutput",
}
EITHER = {"OverrunsThePage"}
"""What lies behind the page is a matter of luck: a fault, or memory of its own."""
REFUSED = {
    "OverwritesLabels": "read-only",
    "OverwritesLabelsInMemory": "died of SIGSEGV",
    "PeeksAtTheBatch": "scores depend on other rows",
    "KeepsState": "scores depend on other rows",
    "CountsItsCalls": "scores depend on other rows",
    "AnswersBeforeItScores": "scores depend on other rows|not finite",
    "AnswersNonsense": "answered what makes no sense",
    "LeavesEarlyInTraining": "ended with exit code 0 before its work was done",
    "LeavesEarlyInScoring": "ended with exit code 0 before its work was done",
    "ForgesSuccess": "ended without weights",
    "ForgesAStatusThatIsNoJson": "ended with exit code 0 before its work was done",
    "ForgesATerminal": "Training failed: ValueError",
    "ForgesWeights": "cannot be read",
    "ReturnsTooMany": r"must return float32 \[\d+\]",
    "WritesTooMuch": "more than 0.5 GB|File too large",
    "AllocatesTooMuch": "needed more than 0.5 GB of memory",
    "ComputesForEver": "used more than 4 CPU-seconds",
}


@pytest.fixture(scope="module")
def pool():
    with LocalPool(workers=1, limit=120.0, cpu_limit=4.0, memory=512 << 20) as pool:
        yield pool


def job(dataset, attack=None, **phi):
    train, score = dataset.bounds["train"], dataset.bounds["validation"]
    files = [dataset.label_path(Objective("click"), upto) for upto in ("validation", "train")]
    return Job(
        dataset=dataset.directory,
        system="hostile_system:HostileSystem",
        production={"lr": 0.5},
        phi={"lr": 0.5, "steps": 3, "attack": attack, "files": [str(file) for file in files]} | phi,
        label_path=dataset.label_path(Objective("click"), "train"),
        loss="bce",
        seed=3,
        train=(train.start, train.stop),
        score=(score.start, score.stop),
    )


@pytest.fixture(scope="module")
def honest(dataset):
    """What the same model predicts in this process, and what production gets before any attack."""
    system, wanted = LinearSystem(dataset.schema), job(dataset)
    labels = np.load(wanted.label_path)
    weights = system.fit(wanted.phi, dataset.rows("train"), labels, wanted.seed)
    return system.predict(wanted.phi, weights, dataset.rows("validation"))


def test_every_attack_is_in_one_of_the_lists():
    assert set(ATTACKS) == TRUE | EITHER | set(REFUSED)
    assert not TRUE & set(REFUSED)


@pytest.mark.parametrize("attack", sorted(TRUE))
def test_an_attack_gets_the_true_loss(pool, dataset, honest, attack):
    found = pool.result(pool.submit(job(dataset, attack)), 120)
    assert np.array_equal(found.predictions, honest)
    if attack == "FakesClocks":
        assert found.train_cpu_seconds >= 0.3
        assert found.train_wall_seconds >= 0.3
        assert found.latency_ms >= 20
        assert found.score_cpu_seconds >= 8 * 0.02
    assert np.array_equal(pool.result(pool.submit(job(dataset)), 120).predictions, honest)


@pytest.mark.parametrize("attack", sorted(EITHER))
def test_an_attack_gets_the_true_loss_or_a_refusal(pool, dataset, honest, attack):
    try:
        found = pool.result(pool.submit(job(dataset, attack)), 120)
    except ToolError as refused:
        assert "died of SIG" in str(refused)  # noqa: PT017 - one of two ends
    else:
        assert np.array_equal(found.predictions, honest)
    assert np.array_equal(pool.result(pool.submit(job(dataset)), 120).predictions, honest)


def test_what_was_trained_is_counted_whatever_a_candidate_says_of_its_size(pool, dataset):
    found = pool.result(pool.submit(job(dataset, parameters=1)), 120)
    assert found.parameters == sum(feature.size for feature in dataset.schema.features) + 1


@pytest.mark.parametrize("attack", sorted(REFUSED))
def test_an_attack_is_refused_with_a_reason(pool, dataset, honest, attack):
    with pytest.raises(ToolError, match=REFUSED[attack]) as refused:
        pool.result(pool.submit(job(dataset, attack)), 120)
    assert len(str(refused.value)) < 1200
    assert str(refused.value).isprintable()
    assert np.array_equal(pool.result(pool.submit(job(dataset)), 120).predictions, honest)


def test_the_attacks_that_get_the_true_loss_do_reach_what_they_are_after_where_nothing_holds_them(
    dataset, honest
):
    """Without the evaluator: the control that shows that the attacks are real."""
    labels = np.asarray(dataset.labels(Objective("click"))[dataset.bounds["validation"]])
    phi = job(dataset).phi
    stolen = ATTACKS["HuntsLabels"].score(honest, None, {}, phi)
    assert np.array_equal(stolen, labels)
    stolen = ATTACKS["HuntsLabels"].score(honest, None, {}, phi | {"files": []})
    assert set(np.unique(stolen)) == {0.0, 1.0}
    changed = ATTACKS["PeeksAtTheBatch"].score(honest, None, {}, phi)
    assert not np.allclose(changed, honest)


BEHAVES_WHILE_TRIED = """
import torch
from torch import nn


class Peeking(nn.Module):
    def __init__(self, width, units):
        super().__init__()
        self.inner = nn.Linear(width, units)

    def forward(self, x):
        found = self.inner(x)
        if x.shape[0] > 50 and not self.training:
            found = found - 3.0 * found.mean(0)
        return found
"""
HONEST = BEHAVES_WHILE_TRIED.replace("Peeking", "Honest").replace("> 50", "> 1e9")


def component(dataset, name, source):
    phi = default_phi(label="click", factors={}, batch_size=512, embedding_dim=4)
    phi["components"] = {name: {"kind": "layer", "source": source}}
    phi["architecture"]["layers"] = {"h": f"relu({name}(inputs, 8))", "output": "layer_norm(h)"}
    wanted = job(dataset)
    return replace(wanted, system="evorank.model.ranker:NeuralRanker", production=phi, phi=phi)


def test_a_component_that_behaves_while_it_is_tried_is_found_out_by_the_probe(pool, dataset):
    wanted = component(dataset, "honest", HONEST)
    found = pool.check(wanted.dataset, wanted.system, wanted.production, wanted.phi)
    assert found.findings == []
    assert found.parameters
    first = pool.result(pool.submit(wanted), 120)
    assert first.parameters == found.parameters
    with pytest.raises(ToolError, match="scores depend on other rows"):
        pool.result(pool.submit(component(dataset, "peeking", BEHAVES_WHILE_TRIED)), 120)
    assert np.array_equal(pool.result(pool.submit(wanted), 120).predictions, first.predictions)
