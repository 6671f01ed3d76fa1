from __future__ import annotations

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evorank.tools import metrics

ROW = st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), st.booleans())
LOG = st.lists(ROW, min_size=1, max_size=14)


def columns(rows):
    users, predictions, positive = (np.array(column) for column in zip(*rows, strict=True))
    return users, predictions, positive


def slow_auc(predictions, positive):
    ones, zeros = predictions[positive], predictions[~positive]
    if not len(ones) or not len(zeros):
        return math.nan
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in ones for b in zeros]))


@settings(deadline=None)
@given(LOG)
def test_auc_is_the_share_of_ordered_pairs(rows):
    _, predictions, positive = columns(rows)
    assert metrics.auc(predictions, positive) == pytest.approx(slow_auc(predictions, positive), nan_ok=True)


@settings(deadline=None)
@given(LOG)
def test_gauc_is_the_weighted_mean_of_the_users_auc(rows):
    users, predictions, positive = columns(rows)
    each = [(slow_auc(predictions[users == u], positive[users == u]), (users == u).sum()) for u in set(users)]
    each = [(value, weight) for value, weight in each if not math.isnan(value)]
    expected = sum(v * w for v, w in each) / sum(w for _, w in each) if each else math.nan
    assert metrics.gauc(predictions, positive, users) == pytest.approx(expected, nan_ok=True)


@settings(deadline=None, max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=6), st.integers(1, 4))
def test_ndcg_is_the_mean_over_every_order_that_the_predictions_allow(rows, k):
    users, predictions, positive = columns(rows)
    values = []
    for user in set(users):
        p, y = predictions[users == user], positive[users == user].astype(float)

        def dcg(order, gains=y):
            return sum(gains[i] / math.log2(rank + 2) for rank, i in enumerate(order[:k]))

        ideal = max(dcg(order) for order in permutations(range(len(p))))
        if ideal > 0:
            allowed = [o for o in permutations(range(len(p))) if all(p[a] >= p[b] for a, b in pairwise(o))]
            values.append(np.mean([dcg(order) for order in allowed]) / ideal)
    expected = np.mean(values) if values else math.nan
    assert metrics.ndcg(predictions, positive, users, k) == pytest.approx(expected, nan_ok=True)


@settings(deadline=None)
@given(LOG, st.randoms())
def test_no_metric_depends_on_the_order_of_the_rows_or_the_names_of_users(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    for one, other in zip(
        everything(rows), everything([(100 - u, p, y) for u, p, y in shuffled]), strict=True
    ):
        assert one == pytest.approx(other, nan_ok=True)


def everything(rows):
    users, predictions, positive = columns(rows)
    return [
        metrics.auc(predictions, positive),
        metrics.gauc(predictions, positive, users),
        metrics.ndcg(predictions, positive, users),
        metrics.calibration(predictions, positive),
        metrics.log_loss(predictions, positive),
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=20))
def test_losses_are_their_formulas(pairs):
    p, y = (np.array(column) for column in zip(*pairs, strict=True))
    assert metrics.mse(p, y) == pytest.approx(np.mean([(a - b) ** 2 for a, b in pairs]))
    assert metrics.huber(p, y) == pytest.approx(
        np.mean([0.5 * (a - b) ** 2 if abs(a - b) <= 1 else abs(a - b) - 0.5 for a, b in pairs])
    )


def test_log_loss_of_a_coin_is_ln_2_and_a_confident_mistake_is_finite():
    assert metrics.log_loss(np.full(10, 0.5), np.arange(10) % 2) == pytest.approx(math.log(2))
    assert metrics.log_loss(np.array([0.0, 1.0], np.float32), np.array([1, 0])) == pytest.approx(
        -math.log(1e-7), rel=1e-3
    )
    fractional = metrics.log_loss(np.array([0.3]), np.array([0.3]))
    assert fractional == pytest.approx(-0.3 * math.log(0.3) - 0.7 * math.log(0.7))


def test_a_constant_prediction_ranks_like_chance_wherever_the_positives_stand():
    users, constant = np.zeros(30, int), np.full(30, 0.2)
    first = np.arange(30) < 3
    assert metrics.auc(constant, first) == 0.5
    assert metrics.ndcg(constant, first, users) == pytest.approx(metrics.ndcg(constant, first[::-1], users))


def test_calibration_is_predicted_over_observed():
    assert metrics.calibration(np.array([0.5, 0.5]), np.array([1, 0])) == 1.0
    assert math.isnan(metrics.calibration(np.array([0.5]), np.array([0])))


def test_positives_of_real_labels_are_those_above_the_mean():
    assert metrics.positives(np.array([1.0, 2.0, 9.0]), "mse").tolist() == [False, False, True]
    assert metrics.positives(np.array([0.2, 0.6]), "bce").tolist() == [False, True]
