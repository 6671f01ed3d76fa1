"""What the paper's agents invented, as code that a candidate brings along: small deltas that train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from evorank.model.component_code import allowed
from evorank.model.config import default_phi
from evorank.model.conformance.planted import EXAMPLE_LOG, loss_of, planted
from evorank.model.delta import apply_delta, diff
from evorank.model.errors import RefusedDelta
from evorank.model.ranker import NeuralRanker

PHI = default_phi(label="clicked", factors={}, batch_size=256)
OPTIMIZER, ARCHITECTURE = ["/optimizer", "/components"], ["/architecture", "/components"]
LAYERS = "/architecture/layers"

FTRL = '''
class FTRL(torch.optim.Optimizer):
    """FTRL-Proximal (McMahan et al. 2013), centred where training starts.

    With l1 = l2 = 0 it is Adagrad; l1 makes weights exactly zero. Rates may follow a schedule: what is summed
    are the differences of the inverse rate.
    """

    def __init__(self, params, lr=0.1, l1=0.0, l2=0.0, beta=1.0):
        super().__init__(params, dict(lr=lr, l1=l1, l2=l2, beta=beta))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or group["lr"] == 0:
                    continue
                state = self.state[p]
                if not state:
                    state["z"], state["n"], state["inverse"] = (torch.zeros_like(p) for _ in range(3))
                z, n = state["z"], state["n"]
                n.addcmul_(p.grad, p.grad)
                inverse = (group["beta"] + n.sqrt()) / group["lr"]
                z.add_(p.grad - (inverse - state["inverse"]) * p)
                state["inverse"] = inverse
                shrunk = (z.sign() * group["l1"] - z) / (inverse + group["l2"])
                p.copy_(torch.where(z.abs() > group["l1"], shrunk, 0.0))
'''

GATED_PATH = """
class GatedPath(nn.Module):
    def __init__(self, width, units):
        super().__init__()
        self.value, self.gate = nn.Linear(width, units), nn.Linear(width, units)

    def forward(self, x):
        return self.value(x) * torch.sigmoid(self.gate(x))
"""

GELU_GATE = """
class GeluGate(nn.Module):
    def __init__(self, width, other, hidden=32):
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(other, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, width), nn.Sigmoid()
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x, context):
        return self.norm(x + x * self.gate(context))
"""

WIDE_AND_DEEP = """
class WideAndDeep(nn.Module):
    def __init__(self, deep, wide):
        super().__init__()
        self.deep, self.bias = nn.Linear(deep, 1), nn.Parameter(torch.zeros(1))

    def forward(self, deep, wide):
        return self.deep(deep) + wide.sum(-1, keepdim=True) + self.bias
"""


def brought(name: str, kind: str, source: str) -> tuple[str, Any]:
    return f"/components/{name}", {"kind": kind, "source": source}


INVENTIONS: dict[str, tuple[list[str], list[tuple[str, Any]]]] = {
    "FTRL": (
        OPTIMIZER,
        [
            brought("FTRL", "optimizer", FTRL),
            ("/optimizer/name", "FTRL"),
            ("/optimizer/args", {"lr": 0.1, "l1": 0.01}),
        ],
    ),
    "FTRL for the embedding tables, under a schedule": (
        OPTIMIZER,
        [
            brought("FTRL", "optimizer", FTRL),
            ("/optimizer/embedding", {"name": "FTRL", "args": {"lr": 0.3}}),
            ("/optimizer/schedule", {"name": "cosine", "args": {}}),
        ],
    ),
    "Gated Path": (
        ARCHITECTURE,
        [brought("gated_path", "layer", GATED_PATH), (f"{LAYERS}/output", "gated_path(layer_norm(h2), 32)")],
    ),
    "GELU gate with layer norm": (
        ARCHITECTURE,
        [brought("gelu_gate", "layer", GELU_GATE), (f"{LAYERS}/output", "gelu_gate(h2, inputs, hidden=16)")],
    ),
    "Wide & Deep": (
        ARCHITECTURE,
        [
            brought("wide_and_deep", "layer", WIDE_AND_DEEP),
            (f"{LAYERS}/output", "wide_and_deep(h2, concat(wide(user_id, item_id), price))"),
        ],
    ),
}


def invented(name: str) -> dict[str, Any]:
    allowed_paths, changes = INVENTIONS[name]
    phi = apply_delta(
        PHI, [{"op": "add", "path": path, "value": value} for path, value in changes], allowed_paths
    )
    assert len(diff(PHI, phi)) <= 5
    return phi


@pytest.fixture
def ranker() -> NeuralRanker:
    return NeuralRanker(EXAMPLE_LOG, PHI)


@pytest.fixture
def running() -> Iterator[None]:
    with allowed():
        yield


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("name", INVENTIONS)
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
