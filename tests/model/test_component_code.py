"""Components run only where a process permits it, act like built-in functions, and are reproducible."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from evorank.model import component_code, train
from evorank.model.component_code import allowed, load, permitted
from evorank.model.component_interface import EXAMPLES
from evorank.model.config import Component, default_phi
from evorank.model.conformance.planted import EXAMPLE_LOG, planted
from evorank.model.delta import apply_delta
from evorank.model.errors import RefusedDelta, ToolError
from evorank.model.expression import plan
from evorank.model.network import Batch, RankingNetwork
from evorank.model.ranker import NeuralRanker
from evorank.model.system import Feature, LogSchema

FEATURES = (
    Feature("user", "categorical", 7),
    Feature("item", "categorical", 11),
    Feature("age", "numeric"),
    Feature("past", "history", length=4, of="item"),
)
LOG = LogSchema(FEATURES, {}, 100)
PHI = default_phi(label="clicked", factors={}, batch_size=256)
LAYERS = "/architecture/layers"

SHIFT = """
class Shift(nn.Module):
    def __init__(self, width, by=0.0):
        super().__init__()
        self.by = nn.Parameter(torch.full((width,), float(by)))

    def forward(self, x):
        return x + self.by
"""


@pytest.fixture
def running() -> Iterator[None]:
    with allowed():
        yield


def network(layers: dict[str, str], seed: int = 0, **sources: str | tuple[str, str]) -> RankingNetwork:
    """`sources`: name -> source of a layer, or (kind, source)."""
    pairs = {name: ("layer", given) if isinstance(given, str) else given for name, given in sources.items()}
    code = load({name: Component(kind=kind, source=source) for name, (kind, source) in pairs.items()})  # type: ignore[arg-type]
    return train.build(plan(layers, LOG, 3, code.signatures), FEATURES, seed, code)


def batch(rows: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    past = torch.randint(1, 11, (rows, 4), generator=generator)
    past[0], past[1, 2:] = 0, 0
    codes = torch.stack([torch.randint(0, n, (rows,), generator=generator) for n in (7, 11)], 1)
    return Batch(codes, torch.randn(rows, 1, generator=generator), {"past": past})


def value(made: RankingNetwork, name: str = "output") -> Any:
    rows = batch()
    scope = made._embedded(rows)
    for binding, step in made._steps:
        scope[binding] = step(rows, scope)
    return scope[name].data.detach().numpy()


def patched(*changes: tuple[str, Any]) -> dict[str, Any]:
    return apply_delta(PHI, [{"op": "add", "path": path, "value": value} for path, value in changes])


# ------------------------------------------------------------------ permission


def test_nothing_runs_without_permission_and_permission_for_a_while_ends():
    assert not permitted()
    source = {"own": Component(kind="activation", source="raise ValueError('it ran')\ndef f(x): ...")}
    with pytest.raises(RefusedDelta, match="Components run only inside the evaluator"):
        load(source)
    with allowed(), pytest.raises(RefusedDelta, match="ValueError: it ran"):
        load(source)
    assert not permitted()


def test_permission_given_for_good_stays_and_asking_for_it_needs_no_torch():
    code = (
        "import sys\nfrom evorank.model import component_code as c\n"
        "before = c.permitted()\nc.allow()\n"
        "with c.allowed(): pass\n"
        "sys.exit(before or not c.permitted() or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_component_that_nothing_uses_is_never_run():
    phi = patched(("/components/own", {"kind": "activation", "source": "x = 1 / 0\ndef f(x): return x"}))
    ranker = NeuralRanker(EXAMPLE_LOG, PHI)
    with allowed():
        assert ranker.check(phi) == []
        assert ranker.cost(phi) == ranker.cost(PHI)
        weights = ranker.fit(phi, *planted(EXAMPLE_LOG, 300, 0), 0)
    ranker.predict(phi, weights, planted(EXAMPLE_LOG, 30, 0)[0])  # nor is it needed to


def test_the_cost_of_a_layer_is_known_only_where_it_runs():
    source = {"kind": "layer", "source": SHIFT}
    phi = patched(("/components/shift", source), (f"{LAYERS}/output", "shift(h2)"))
    ranker = NeuralRanker(EXAMPLE_LOG, PHI)
    with pytest.raises(RefusedDelta, match="Components run only inside the evaluator"):
        ranker.cost(phi)
    with allowed():
        assert ranker.cost(phi).parameters == ranker.cost(PHI).parameters - 2 * 128 + 128


# ------------------------------------------------------------------ layers


@pytest.mark.usefixtures("running")
def test_a_layer_is_called_with_the_widths_of_its_operands_and_the_numbers_of_the_call():
    made = network({"h": "shift(age, by=2)", "output": "concat(shift(h, -1), shift(age), age)"}, shift=SHIFT)
    ages = batch().numeric.numpy()
    np.testing.assert_allclose(value(made), np.hstack([ages + 1, ages, ages]), rtol=1e-6)


@pytest.mark.usefixtures("running")
def test_a_layer_may_take_any_number_of_operands_by_name_or_in_order():
    mix = """
class Mix(nn.Module):
    def __init__(self, *widths, units=2):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(width, units) for width in widths)
    def forward(self, *xs):
        return sum(m(x) for m, x in zip(self.maps, xs))
"""
    apart = """
class Apart(nn.Module):
    def __init__(self, one, other):
        super().__init__()
        self.sign = nn.Parameter(torch.ones(1))
    def forward(self, a, b):
        return (a - b) * self.sign
"""
    made = network({"output": "mix(user, item, age, units=5)"}, mix=mix)
    assert value(made).shape == (6, 5)
    assert [m.in_features for m in made.functions["output:mix"].code.maps] == [3, 3, 1]
    one, two = (
        network({"output": text}, apart=apart) for text in ("apart(b=user, a=item)", "apart(item, user)")
    )
    np.testing.assert_array_equal(value(one), value(two))


@pytest.mark.usefixtures("running")
def test_a_sequence_reaches_a_layer_with_zeros_where_no_position_exists_and_keeps_its_mask():
    made = network(
        {"h": "shift(past, 100)", "mean": "mean(h)", "output": "concat(mean, sum(h))"}, shift=SHIFT
    )
    with torch.no_grad():
        made.table.weight.fill_(1.0)
    total = value(made)
    assert not total[0].any()  # a user without a past
    np.testing.assert_allclose(value(made, "h")[1, :, 0], [101, 101, 100, 100])
    np.testing.assert_allclose(total[1], [101] * 3 + [202] * 3)


@pytest.mark.usefixtures("running")
def test_a_layer_may_pool_a_sequence_and_an_activation_may_act_on_one():
    last = """
class Last(nn.Module):
    def __init__(self, width):
        super().__init__()
    def forward(self, x):
        return x[:, 0]
"""
    soft = ("activation", EXAMPLES["activation"])
    made = network({"output": "last(soft(past))"}, last=last, soft=soft)
    past = made._embedded(batch())["past"].data.detach().numpy()
    expected = past[:, 0] / (1 + abs(past[:, 0]))
    expected[0] = 0.0
    np.testing.assert_allclose(value(made), expected, rtol=1e-6)


@pytest.mark.usefixtures("running")
def test_an_activation_may_be_a_module_with_weights_of_its_own():
    slope = (
        "activation",
        "class Slope(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n        self.a = nn.Parameter(torch.tensor(0.5))\n"
        "    def forward(self, x):\n        return torch.where(x > 0, x, self.a * x)",
    )
    made = network({"output": "slope(age) + slope(age)"}, slope=slope)
    assert sum(p.numel() for p in made.parameters()) == 2  # one for each call; no table, no head
    ages = batch().numeric.numpy()
    np.testing.assert_allclose(value(made), 2 * np.where(ages > 0, ages, ages / 2), rtol=1e-6)


# ------------------------------------------------------------------ reproducible


def weights_of(made: RankingNetwork) -> dict[str, Any]:
    return {name: tensor.detach().numpy().copy() for name, tensor in made.state_dict().items()}


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("greedy", ["torch.manual_seed(7)", "torch.randn(1000)", "pass"])
def test_what_a_component_does_with_the_generator_does_not_reach_the_layers_after_it(greedy, monkeypatch):
    def built(line: str, seed: int = 0) -> dict[str, Any]:
        source = SHIFT.replace("super().__init__()", f"super().__init__(); {line}")
        return weights_of(network({"h": "shift(user)", "output": "dense(h, 4)"}, seed, shift=source))

    one, two = built(greedy), built("torch.rand(3)")
    assert all(np.array_equal(one[name], two[name]) for name in one)
    other = built(greedy, seed=1)
    assert not np.array_equal(one["functions.output:dense.weight"], other["functions.output:dense.weight"])


@pytest.mark.usefixtures("running")
def test_two_calls_of_a_layer_start_from_weights_of_their_own():
    kept = weights_of(network({"output": "gate(user, 3) + gate(user, 3)"}, gate=EXAMPLES["layer"]))
    one, two = (array for name, array in kept.items() if name.endswith("both.weight"))
    assert not np.array_equal(one, two)


NOISY = """
class Noisy(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(width), nn.Dropout(0.3)
        self.register_buffer("projection", torch.randn(width, width) / width**0.5)

    def forward(self, x):
        return self.drop(self.norm(x @ self.projection))
"""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.usefixtures("running")
def test_buffers_batch_statistics_and_dropout_train_reproducibly_and_score_elsewhere(precision):
    phi = patched(
        ("/components/noisy", {"kind": "layer", "source": NOISY}),
        (f"{LAYERS}/h2", "relu(dense(noisy(h1), 32))"),
        ("/optimizer/precision", precision),
    )
    ranker, (rows, labels) = NeuralRanker(EXAMPLE_LOG, PHI), planted(EXAMPLE_LOG, 2_000, 0)
    weights = ranker.fit(phi, rows, labels, 0)
    torch.manual_seed(99)
    again = ranker.fit(phi, rows, labels, 0)
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    assert not np.array_equal(
        weights["functions.h2_0_0:noisy.code.projection"],
        ranker.fit(phi, rows, labels, 1)["functions.h2_0_0:noisy.code.projection"],
    )
    whole = ranker.predict(phi, weights, rows)
    state = torch.get_rng_state()
    copied = {name: array.copy() for name, array in weights.items()}
    there = NeuralRanker(EXAMPLE_LOG, PHI).predict(phi, copied, rows)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(whole, there)
    np.testing.assert_allclose(ranker.predict(phi, weights, rows[3:8]), whole[3:8], rtol=1e-4)


@pytest.mark.usefixtures("running")
def test_weights_of_another_type_than_the_layer_keeps_are_refused():
    phi = patched(
        ("/components/noisy", {"kind": "layer", "source": NOISY}), (f"{LAYERS}/output", "noisy(h2)")
    )
    ranker, (rows, labels) = NeuralRanker(EXAMPLE_LOG, PHI), planted(EXAMPLE_LOG, 300, 0)
    weights = dict(ranker.fit(phi, rows, labels, 0))
    (counted,) = [name for name in weights if name.endswith("num_batches_tracked")]
    weights[counted] = weights[counted].astype(np.float32)
    with pytest.raises(ToolError, match="must be int64"):
        ranker.predict(phi, weights, rows)


# ------------------------------------------------------------------ whose fault


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("kind", "source", "use", "said"),
    [
        (
            "layer",
            SHIFT.replace("return x + self.by", "return x + (self.by if len(x) < 20 else self.by[:3])"),
            (f"{LAYERS}/output", "own(h2)"),
            "component 'own' failed in line 8 of its source: RuntimeError",
        ),
        (
            "optimizer",
            EXAMPLES["optimizer"].replace("p.grad.sign()", "p.grad.sign() / (1 if p.numel() < 99 else None)"),
            ("/optimizer/name", "own"),
            "component 'own' failed in line 9 of its source: TypeError",
        ),
        (
            "schedule",
            "def own(step, steps):\n    return 1.0 if steps in (100, 7, 2, 1) else math.inf",
            ("/optimizer/schedule", {"name": "own"}),
            "schedule 'own' returns inf for step 0 of 8",
        ),
    ],
)
def test_a_component_that_fails_in_training_is_named_with_its_line(kind, source, use, said):
    phi = patched(("/components/own", {"kind": kind, "source": source}), use)
    ranker = NeuralRanker(EXAMPLE_LOG, PHI)
    assert ranker.check(phi) == []
    with pytest.raises(ToolError, match=said):
        ranker.fit(phi, *planted(EXAMPLE_LOG, 2_000, 0), 0)


def test_an_error_that_is_not_a_components_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError), component_code.blaming():
        raise ZeroDivisionError


# ------------------------------------------------------------------ optimizers


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("embedding", [None, {"name": "Adagrad", "args": {"lr": 0.1}}])
def test_an_optimizer_written_out_trains_to_the_weights_of_torchs_own(embedding):
    """Plain gradient descent, tables included: their gradients are dense for a component."""
    sgd = EXAMPLES["optimizer"].replace("p.grad.sign()", "p.grad").replace("lr=0.001", "lr=0.05")
    ranker, (rows, labels) = NeuralRanker(EXAMPLE_LOG, PHI), planted(EXAMPLE_LOG, 2_000, 0)
    schedule = ("/optimizer/schedule", {"name": "linear", "args": {"final": 0.1}})
    tables = ("/optimizer/embedding", embedding)
    own = patched(
        ("/components/Descent", {"kind": "optimizer", "source": sgd}),
        ("/optimizer/name", "Descent"),
        ("/optimizer/args", {}),
        schedule,
        tables,
    )
    torchs = patched(("/optimizer/name", "SGD"), ("/optimizer/args", {"lr": 0.05}), schedule, tables)
    mine, its = ranker.fit(own, rows, labels, 0), ranker.fit(torchs, rows, labels, 0)
    for name in its:
        np.testing.assert_allclose(mine[name], its[name], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("running")
def test_a_schedule_written_out_trains_to_the_weights_of_the_built_in_one():
    ranker, (rows, labels) = NeuralRanker(EXAMPLE_LOG, PHI), planted(EXAMPLE_LOG, 2_000, 0)
    source = "def line(step, steps, final):\n    return 1 + (final - 1) * step / max(1, steps - 1)"
    own = patched(
        ("/components/line", {"kind": "schedule", "source": source}),
        ("/optimizer/schedule", {"name": "line", "args": {"final": 0.1}}),
    )
    built_in = patched(("/optimizer/schedule", {"name": "linear", "args": {"final": 0.1}}))
    mine, its = ranker.fit(own, rows, labels, 0), ranker.fit(built_in, rows, labels, 0)
    assert all(np.array_equal(mine[name], its[name]) for name in its)


@pytest.mark.usefixtures("running")
def test_a_component_cannot_hide_an_optimizer_of_torch():
    phi = patched(
        ("/components/SGD", {"kind": "optimizer", "source": EXAMPLES["optimizer"]}),
        ("/optimizer/name", "SGD"),
    )
    (finding,) = NeuralRanker(EXAMPLE_LOG, PHI).check(phi)
    assert "as well as of a component" in finding.rule
