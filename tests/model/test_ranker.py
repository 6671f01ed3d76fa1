"""The built-in system keeps every promise of the protocol, and can express what the paper found."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest

from evorank.model.config import default_phi
from evorank.model.conformance import conformance
from evorank.model.conformance.planted import EXAMPLE_LOG, loss_of, planted
from evorank.model.delta import apply_delta
from evorank.model.errors import ConfigurationError, ToolError
from evorank.model.ranker import NeuralRanker
from evorank.model.system import LogSchema, RankingSystem

PHI = default_phi(label="clicked", factors={}, batch_size=256)


@pytest.fixture
def ranker():
    return NeuralRanker(EXAMPLE_LOG, PHI)


def patched(*changes):
    return apply_delta(PHI, [{"op": "add", "path": path, "value": value} for path, value in changes])


@pytest.mark.heavy
def test_the_ranker_keeps_every_promise_of_the_protocol():
    assert isinstance(NeuralRanker(EXAMPLE_LOG), RankingSystem)
    assert [result for result in conformance(NeuralRanker, EXAMPLE_LOG) if not result.passed] == []


def test_a_ranker_is_held_without_importing_torch():
    code = (
        "import sys; from evorank.model.conformance.planted import EXAMPLE_LOG\n"
        "from evorank.model.ranker import NeuralRanker\n"
        "ranker = NeuralRanker(EXAMPLE_LOG); ranker.schema(); ranker.cost(ranker.production())\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LAYERS = "/architecture/layers"
DISCOVERIES = {
    "RMSprop": [("/optimizer/name", "RMSprop"), ("/optimizer/args", {"lr": 0.002})],
    "training four times less": [("/optimizer/epochs", 0.25), ("/optimizer/args/lr", 0.05)],
    "gated path": [
        (f"{LAYERS}/value_path", "dense(h1, 32)"),
        (f"{LAYERS}/gate_path", "sigmoid(dense(h1, 32))"),
        (f"{LAYERS}/output", "value_path * gate_path"),
    ],
    "GELU and layer norm gates": [
        (f"{LAYERS}/gate", "sigmoid(dense(layer_norm(gelu(dense(inputs, 64))), 128))"),
        (f"{LAYERS}/output", "layer_norm(h2 * gate)"),
    ],
    "wide and deep": [(f"{LAYERS}/output", "dense(h2, 1) + wide(user_id, item_id)")],
    "active engagement": [
        ("/reward/factors/active", "LEAST(rating / 5.0, 1.0)"),
        ("/reward/label", "clicked * active"),
    ],
}


@pytest.mark.parametrize("changes", DISCOVERIES.values(), ids=DISCOVERIES)
def test_what_the_paper_found_is_a_small_delta_that_trains(ranker, changes):
    phi = patched(*changes)
    assert ranker.check(phi) == []
    rows, labels = planted(EXAMPLE_LOG, 12_000, 0)
    weights = ranker.fit(phi, rows, labels, 0)
    assert sum(array.size for array in weights.values()) == ranker.cost(phi).parameters
    predictions = ranker.predict(phi, weights, rows)
    assert predictions.shape == (12_000,)
    assert loss_of(predictions, labels, "bce") < np.log(2) - 0.05


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        (("/optimizer/args/lr", -1), "/optimizer/args/lr", "must lie in (0, 10), got -1"),
        (("/optimizer/name", "RMSProp"), "/optimizer/name", "Did you mean RMSprop?"),
        (
            ("/optimizer/embedding", {"name": "RowwiseAdagrad", "args": {"lr": 11}}),
            "/optimizer/embedding/args/lr",
            "must lie in (0, 10)",
        ),
        (
            ("/optimizer/schedule", {"name": "cosine", "args": {"warmup": 2}}),
            "/optimizer/schedule/args/warmup",
            "must lie in [0, 1)",
        ),
        ((f"{LAYERS}/output", "relu(h3)"), f"{LAYERS}/output", "h3"),
    ],
)
def test_check_tells_what_is_wrong_in_every_part(ranker, change, pointer, said):
    (finding,) = ranker.check(patched(change))
    assert finding.pointer == pointer
    assert said in str(finding)


def test_check_tells_several_faults_at_once(ranker):
    phi = patched(("/optimizer/args/lr", 99), (f"{LAYERS}/output", "nothing"), ("/reward/label", "nowhere"))
    roots = {finding.pointer.split("/")[1] for finding in ranker.check(phi)}
    assert roots == {"optimizer", "architecture", "reward"}


def test_production_cannot_be_changed_from_outside(ranker):
    ranker.production()["optimizer"]["name"] = "SGD"
    mine = copy.deepcopy(PHI)
    other = NeuralRanker(EXAMPLE_LOG, mine)
    mine["optimizer"]["name"] = "SGD"
    assert ranker.production() == other.production() == PHI


def test_predict_follows_the_weights_it_is_given(ranker):
    rows, labels = planted(EXAMPLE_LOG, 1000, 0)
    first, second = (ranker.fit(PHI, rows, labels, seed) for seed in (0, 1))
    one, two = (ranker.predict(PHI, weights, rows) for weights in (first, second))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(ranker.predict(PHI, dict(first), rows), one)
    with pytest.raises(ToolError, match="of another Φ"):
        ranker.predict(patched((f"{LAYERS}/output", "h1")), first, rows)


def test_a_log_with_nothing_to_predict_says_so():
    with pytest.raises(ConfigurationError, match="nothing to predict"):
        NeuralRanker(LogSchema(EXAMPLE_LOG.features, {"name": "VARCHAR"}))
