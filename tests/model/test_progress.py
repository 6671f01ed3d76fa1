from __future__ import annotations

import itertools

import numpy as np
import pytest

from evorank.model import train
from evorank.model.config import SystemConfig, default_phi
from evorank.model.errors import ToolError
from evorank.model.expression import plan
from evorank.model.progress import REPORTS, install, report
from evorank.model.system import Feature, LogSchema, Rows

FEATURES = (Feature("user", "categorical", size=50), Feature("x", "numeric"))
LOG = LogSchema(FEATURES, {"click": "BIGINT"}, 1000)


def fitted(rows=1600, scale=1.0, **optimizer):
    phi = default_phi(label="click", factors={}, embedding_dim=4)
    phi["optimizer"] |= {"batch_size": 16} | optimizer
    config = SystemConfig.model_validate(phi)
    rng = np.random.default_rng(0)
    data = Rows(
        FEATURES,
        rng.integers(0, 50, (rows, 1)).astype(np.int32),
        (scale * rng.normal(size=(rows, 1))).astype(np.float32),
    )
    labels = (data.numeric[:, 0] > 0).astype(np.float32)
    network = train.build(plan(config.architecture.layers, LOG, 4, {}), FEATURES, seed=0)
    train.fit(network, config.optimizer, "bce", data, labels, seed=0)
    return train.to_weights(network)


def test_a_training_reports_its_losses_as_they_fall_and_trains_the_same_weights():
    heard = []
    with install(lambda *said: heard.append(said)):
        loud = fitted(epochs=3.0)
    quiet = fitted(epochs=3.0)
    assert all(np.array_equal(loud[name], quiet[name]) for name in loud)
    rows = [seen for seen, _, _ in heard]
    assert len(heard) == REPORTS
    assert rows == sorted(set(rows))
    assert rows[-1] == 4800
    assert {of for _, of, _ in heard} == {4800}
    losses = [loss for _, _, loss in heard]
    assert np.mean(losses[-16:]) < np.mean(losses[:16])
    gaps = [b - a for a, b in itertools.pairwise(rows)]
    assert max(gaps) - min(gaps) <= 16  # one batch


@pytest.mark.parametrize(("epochs", "reports", "rows"), [(0.05, 5, 80), (0.5, 50, 800)])
def test_a_short_training_reports_every_step(epochs, reports, rows):
    heard = []
    with install(lambda *said: heard.append(said)):
        fitted(epochs=epochs)
    assert len(heard) == reports
    assert heard[-1][:2] == (rows, rows)


def test_a_loss_that_is_not_finite_is_reported_before_the_training_stops():
    heard = []
    with install(lambda *said: heard.append(said)), pytest.raises(ToolError, match="diverged"):
        fitted(scale=1e38)
    assert not np.isfinite(heard[-1][2])


def test_without_a_listener_a_report_is_nothing_and_a_listener_is_gone_after_its_context():
    heard = []
    report(1, 2, 0.5)
    with install(lambda *said: heard.append(said)):
        report(1, 2, 0.5)
    report(2, 2, 0.4)
    assert heard == [(1, 2, 0.5)]
