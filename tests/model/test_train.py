"""Training: the same arguments give the same weights, every row counts, and what goes wrong is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evorank.model import train
from evorank.model.config import Optimizer
from evorank.model.errors import ToolError
from evorank.model.expression import plan
from evorank.model.system import Feature, LogSchema, Rows

FEATURES = (
    Feature("user", "categorical", 40),
    Feature("item", "categorical", 30),
    Feature("age", "numeric"),
    Feature("past", "history", length=3, of="item"),
)
LOG = LogSchema(FEATURES, {}, 2000)
LAYERS = {"h": "dropout(relu(dense(inputs, 16)), 0.1)", "output": "dense(h, 1) + fm(fields) + wide(user)"}


def planted(n=3000, seed=0):
    """Rows, labels, and the true probability of each."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, f.size, n) for f in FEATURES[:2]], 1).astype(np.int32)
    numeric = rng.normal(size=(n, 1)).astype(np.float32)
    past = rng.integers(0, 30, (n, 3)).astype(np.int32)
    effect = np.random.default_rng(7).normal(0, 1.5, 40)
    truth = 1 / (1 + np.exp(-(effect[codes[:, 0]] + numeric[:, 0])))
    return Rows(FEATURES, codes, numeric, {"past": past}), (rng.random(n) < truth).astype(np.float32), truth


def log_loss(p, y):
    p = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def optimizer(**changes):
    usual = {"name": "Adam", "args": {"lr": 0.01}, "batch_size": 256, "epochs": 2.0}
    return Optimizer.model_validate(usual | changes)


def fitted(rows, labels, seed=0, loss="bce", layers=LAYERS, **changes):
    network = train.build(plan(layers, LOG, 4), FEATURES, seed)
    train.fit(network, optimizer(**changes), loss, rows, labels, seed)
    return network


def weights(network):
    return {name: array.copy() for name, array in train.to_weights(network).items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_weights_whatever_the_global_generators_do():
    rows, labels, _ = planted()
    torch.manual_seed(1)
    np.random.seed(1)
    first = weights(fitted(rows, labels))
    torch.manual_seed(2)
    np.random.seed(2)
    assert same(first, weights(fitted(rows, labels)))
    assert not same(first, weights(fitted(rows, labels, seed=1)))


def test_training_leaves_the_process_as_it_was():
    rows, labels, _ = planted(500)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    copies = rows.categorical.copy(), rows.numeric.copy(), labels.copy()
    train.predict(fitted(rows, labels), "bce", rows)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    for kept, now in zip(copies, (rows.categorical, rows.numeric, labels), strict=True):
        np.testing.assert_array_equal(kept, now)


@given(st.integers(1, 500), st.integers(1, 120), st.integers(0, 3), st.integers(1, 3))
def test_a_pass_visits_every_row_once_in_batches_of_nearly_one_size(rows, batch_size, seed, epochs):
    steps = train.steps_of(rows, batch_size, epochs)
    made = list(train.batches(rows, batch_size, steps, seed))
    assert len(made) == steps
    sizes = [len(batch) for batch in made]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    counts = np.bincount(np.concatenate(made), minlength=rows)
    np.testing.assert_array_equal(counts, np.full(rows, epochs))


def test_the_order_depends_on_seed_and_row_count_only():
    def order(size, seed=0, rows=1000):
        return np.concatenate(list(train.batches(rows, size, -(-rows // size), seed)))

    np.testing.assert_array_equal(order(10), order(64))
    assert not np.array_equal(order(10), order(10, seed=1))
    assert not np.array_equal(order(10), np.sort(order(10)))


def test_a_log_beyond_the_window_is_shuffled_in_blocks_and_visited_once(monkeypatch):
    monkeypatch.setattr(train, "WINDOW", 256)
    monkeypatch.setattr(train, "BLOCK", 16)
    made = list(train.batches(1003, 64, 16, 0))
    order = np.concatenate(made)
    np.testing.assert_array_equal(np.sort(order), np.arange(1003))
    first_window = np.unique(order[:256] // 16)
    assert len(first_window) <= 21  # whole blocks (one is short), so few pages ...
    assert np.ptp(first_window) > 30  # ... from all over the log
    assert (np.diff(order[:256]) == 1).mean() < 0.1


@pytest.mark.parametrize(("epochs", "steps"), [(1, 10), (0.25, 2), (0.01, 1), (2.5, 25)])
def test_epochs_may_be_a_fraction(epochs, steps):
    assert train.steps_of(1000, 100, epochs) == steps


def test_memory_mapped_rows_give_the_same_weights(tmp_path):
    rows, labels, _ = planted(1000)

    def mapped(name, array):
        np.save(tmp_path / name, array)
        return np.load(tmp_path / f"{name}.npy", mmap_mode="r")

    past = {"past": mapped("past", rows.histories["past"])}
    on_disk = Rows(FEATURES, mapped("codes", rows.categorical), mapped("numeric", rows.numeric), past)
    network = fitted(on_disk, mapped("labels", labels))
    assert same(weights(fitted(rows, labels)), weights(network))
    np.testing.assert_array_equal(train.predict(network, "bce", on_disk), train.predict(network, "bce", rows))


ROWWISE = {"name": "RowwiseAdagrad", "args": {"lr": 0.1}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bfloat16"},
        {"name": "Adagrad", "args": {"lr": 0.1}},
        {
            "name": "RMSprop",
            "args": {"lr": 0.01},
            "embedding": ROWWISE,
        },
        {"name": "Muon", "args": {"lr": 0.01}},
        {"grad_clip": 1.0, "schedule": {"name": "cosine", "args": {"warmup": 0.1}}},
    ],
    ids=str,
)
def test_it_learns_most_of_what_can_be_learned(changes):
    rows, labels, _ = planted(6000)
    test_rows, test_labels, truth = planted(4000, seed=1)
    predictions = train.predict(fitted(rows, labels, epochs=5.0, **changes), "bce", test_rows)
    constant, best = log_loss(np.full(4000, labels.mean()), test_labels), log_loss(truth, test_labels)
    assert log_loss(predictions, test_labels) < best + 0.35 * (constant - best)


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_other_losses_predict_values_and_not_probabilities(loss):
    rows, _, _ = planted()
    labels = (5 + 2 * rows.numeric[:, 0]).astype(np.float32)
    predictions = train.predict(fitted(rows, labels, loss=loss, epochs=10.0), loss, rows)
    assert predictions.max() > 6
    assert np.corrcoef(predictions, labels)[0, 1] > 0.9


def test_predictions_do_not_depend_on_the_rows_scored_with_them(monkeypatch):
    rows, labels, _ = planted(500)
    network = fitted(rows, labels)
    whole = train.predict(network, "bce", rows)
    assert whole.dtype == np.float32
    monkeypatch.setattr(train, "SCORED_AT_ONCE", 7)
    np.testing.assert_allclose(train.predict(network, "bce", rows), whole, rtol=1e-5)
    np.testing.assert_allclose(train.predict(network, "bce", rows[::-1][:3]), whole[::-1][:3], rtol=1e-5)
    assert train.predict(network, "bce", rows[:0]).shape == (0,)


def test_weights_make_the_same_network_again_even_when_read_only():
    rows, labels, _ = planted(500)
    network = fitted(rows, labels)
    kept = weights(network)
    for array in kept.values():
        array.flags.writeable = False
    again = train.load(plan(LAYERS, LOG, 4), FEATURES, kept)
    np.testing.assert_array_equal(train.predict(again, "bce", rows), train.predict(network, "bce", rows))


def test_weights_of_another_network_are_refused_by_name():
    kept = weights(train.build(plan(LAYERS, LOG, 4), FEATURES, 0))
    with pytest.raises(ToolError, match=r"another Φ: missing .*'functions.output:dense.bias'"):
        train.load(plan({"output": "dense(inputs, 3)"}, LOG, 4), FEATURES, kept)
    kept["table.weight"] = kept["table.weight"].astype(np.float64)
    with pytest.raises(ToolError, match=r"weights 'table.weight' must be float32 .* got float64"):
        train.load(plan(LAYERS, LOG, 4), FEATURES, kept)


def test_scores_do_not_depend_on_where_in_memory_the_weights_lie():
    rows, labels, _ = planted(6425)
    wide = {"h": "relu(dense(inputs, 200))", "output": "dense(h, 1)"}
    kept = weights(fitted(rows, labels, layers=wide))

    def scores(offset, writeable):
        moved = {}
        for name, array in kept.items():
            memory = np.empty(array.nbytes + 128, np.uint8)
            start = -memory.ctypes.data % 64 + offset
            moved[name] = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            moved[name][...] = array
            moved[name].flags.writeable = writeable
        return train.predict(train.load(plan(wide, LOG, 4), FEATURES, moved), "bce", rows)

    expected = scores(0, True)
    for offset in range(0, 64, 4):
        assert np.array_equal(scores(offset, True), expected)
    assert np.array_equal(scores(36, False), expected)


def test_a_training_that_diverges_says_at_which_step_and_what_to_try():
    rows, labels, _ = planted(2000)
    diverging = {"h": "square(square(dense(inputs, 8)))", "output": "dense(square(h), 1)"}
    with pytest.raises(
        ToolError, match=r"diverged: .* at step \d+ of \d+\. Try a smaller optimizer\.args\.lr"
    ):
        fitted(rows, labels, loss="mse", layers=diverging, name="SGD", args={"lr": 9.0}, epochs=10.0)


@pytest.mark.parametrize(
    ("labels", "loss", "said"),
    [
        (np.array([0, np.nan], np.float32), "bce", "labels must be finite"),
        (np.array([0, np.inf], np.float32), "mse", "labels must be finite"),
        (np.array([0, 1.5], np.float32), "bce", r"must lie in \[0, 1\] for reward.loss bce, got \[0, 1.5\]"),
        (np.zeros(3, np.float32), "bce", "2 rows with 3 labels"),
    ],
)
def test_labels_that_do_not_fit_are_told(labels, loss, said):
    rows, _, _ = planted(2)
    with pytest.raises(ToolError, match=said):
        fitted(rows, labels, loss=loss)


@pytest.mark.parametrize("code", [40, -1])
def test_a_code_outside_its_vocabulary_is_refused_and_not_read_from_a_neighbour(code):
    rows, labels, _ = planted(100)
    rows.categorical[17, 0] = code
    with pytest.raises(ToolError, match=rf"feature 'user' has code {code} outside \[0, 40\)"):
        fitted(rows, labels)
    rows.categorical[17, 0] = 0
    rows.histories["past"][3, 1] = 30
    with pytest.raises(ToolError, match=r"feature 'past' has code 30 outside \[0, 30\)"):
        fitted(rows, labels)
