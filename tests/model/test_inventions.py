"""What the paper's agents invented, as code that a candidate brings along: small deltas that train."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from evorank.model.component_code import allowed
from evorank.model.conformance.planted import EXAMPLE_LOG, loss_of, planted
from evorank.model.errors import RefusedDelta
from evorank.model.ranker import NeuralRanker

sys.path.append(str(Path(__file__).parent))  # `inventions` is a helper of these tests

from inventions import FTRL, INVENTIONS, PHI, WRITTEN, invented


@pytest.fixture
def ranker() -> NeuralRanker:
    return NeuralRanker(EXAMPLE_LOG, PHI)


@pytest.fixture
def running() -> Iterator[None]:
    with allowed():
        yield


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("name", [*INVENTIONS, *WRITTEN])
def test_an_invention_is_a_small_delta_that_trains_and_scores(ranker, name):
    phi = invented(name)
    assert ranker.check(phi) == []
    rows, labels = planted(EXAMPLE_LOG, 12_000, 0)
    weights = ranker.fit(phi, rows, labels, 0)
    assert sum(array.size for array in weights.values()) == ranker.cost(phi).parameters
    predictions = NeuralRanker(EXAMPLE_LOG, PHI).predict(phi, weights, rows)
    assert loss_of(predictions, labels, "bce") < np.log(2) - 0.05
    again = ranker.fit(phi, rows, labels, 0)
    assert all(np.array_equal(weights[key], again[key]) for key in weights)


@pytest.mark.parametrize("name", INVENTIONS)
def test_where_code_may_not_run_an_invention_is_valid_and_neither_trains_nor_scores(ranker, name):
    phi = invented(name)
    assert ranker.check(phi) == []
    rows, labels = planted(EXAMPLE_LOG, 100, 0)
    with pytest.raises(RefusedDelta, match="Components run only inside the evaluator"):
        ranker.fit(phi, rows, labels, 0)
    with pytest.raises(RefusedDelta, match="Components run only inside the evaluator"):
        ranker.predict(phi, {}, rows)


def ftrl(parameters, **args):
    with allowed():
        from evorank.model.component_code import load
        from evorank.model.config import Component

        return load({"FTRL": Component(kind="optimizer", source=FTRL)}).optimizers["FTRL"](parameters, **args)


def walked(make, steps=30):
    torch.manual_seed(0)
    weight, target = torch.nn.Parameter(torch.randn(5, 3)), torch.randn(5, 3)
    optimizer = make([weight])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * (1 - step / steps)
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    return weight.detach()


def test_ftrl_without_penalties_is_adagrad_whatever_the_schedule():
    mine = walked(lambda p: ftrl(p, lr=0.5))
    torchs = walked(lambda p: torch.optim.Adagrad(p, lr=0.5, eps=1.0))
    torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-5)


def test_the_l1_penalty_of_ftrl_makes_weights_exactly_zero():
    weights = walked(lambda p: ftrl(p, lr=0.5, l1=2.0))
    assert 0 < int((weights == 0).sum()) < weights.numel()
