"""The network computes what the layer language says, and is exactly as large as planned."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from evorank.model.expression import FUNCTIONS, plan
from evorank.model.network import BUILDERS, Batch, RankingNetwork
from evorank.model.system import Feature, LogSchema

FEATURES = (
    Feature("user", "categorical", 7),
    Feature("item", "categorical", 11),
    Feature("age", "numeric"),
    Feature("price", "numeric"),
    Feature("past", "history", length=4, of="item"),
)
LOG = LogSchema(FEATURES, {}, 100)
DIM = 3

EVERY_FUNCTION = {
    "dense": "dense(inputs, 5)",
    "dense without bias": "sum(dense(past, 5, bias=False))",
    "layer_norm": "layer_norm(inputs)",
    "rms_norm": "rms_norm(inputs)",
    "relu": "relu(dense(inputs, 4))",
    "relu of a binding": "relu(user)",
    "gelu": "gelu(inputs)",
    "silu": "silu(inputs)",
    "sigmoid": "sigmoid(inputs)",
    "tanh": "tanh(inputs)",
    "softplus": "softplus(inputs)",
    "leaky_relu": "leaky_relu(inputs)",
    "square": "square(inputs)",
    "softmax": "softmax(inputs)",
    "dropout": "dropout(inputs, 0.5)",
    "concat": "concat(user, age, dense(inputs, 2))",
    "cross": "cross(inputs, inputs)",
    "cross of low rank": "cross(inputs, inputs, rank=2)",
    "wide": "wide(item, price)",
    "wide of numerics": "wide(price, age)",
    "dot": "dot(user, item)",
    "fm": "fm(fields)",
    "attention": "attention(item, past)",
    "attention with a projection": "attention(inputs, past)",
    "mean": "mean(past)",
    "sum": "sum(past * 2 - 1)",
    "residual": "residual(inputs, dense(inputs, 5))",
    "residual of equal widths": "residual(user, item)",
    "glu": "glu(inputs, 6)",
    "embed": "embed(item, 5)",
    "add": "1 + user",
    "subtract": "user - age",
    "multiply": "mean(past * user)",
}


def network(output, seed=0, **others):
    torch.manual_seed(seed)
    planned = plan({**others, "output": output}, LOG, DIM)
    made = RankingNetwork(planned, FEATURES)
    for table in made.modules():  # vectors large enough for differences to show
        if hasattr(table, "touched"):
            torch.nn.init.normal_(table.weight)
    return planned, made


def batch(rows=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    past = torch.randint(0, 11, (rows, 4), generator=generator)
    past[0] = 0  # a user without a past
    past[1, 2:] = 0
    return Batch(
        torch.stack([torch.randint(0, n, (rows,), generator=generator) for n in (7, 11)], 1),
        torch.randn(rows, 2, generator=generator),
        {"past": past},
    )


def value(made, name="output", of=None):
    """A binding's value, before the head."""
    rows = of or batch()
    scope = made._embedded(rows)
    for binding, step in made._steps:
        scope[binding] = step(rows, scope)
    return scope[name].data.detach().numpy()


def test_the_network_implements_exactly_the_functions_of_the_language():
    assert set(BUILDERS) == set(FUNCTIONS)
    assert {text.split()[0] for text in EVERY_FUNCTION} == set(FUNCTIONS)


@pytest.mark.parametrize("output", EVERY_FUNCTION.values(), ids=EVERY_FUNCTION)
def test_every_function_has_the_planned_shape_and_size_and_a_finite_gradient(output):
    planned, made = network(output)
    assert sum(p.numel() for p in made.parameters()) == planned.parameters
    assert value(made).shape == (6, planned.output.shape.width)
    logits = made(batch())
    assert logits.shape == (6,)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_fm_is_the_sum_over_all_pairs():
    _, made = network("fm(fields)", both="sum(fields)")
    fields = made._embedded(batch())["fields"].data.detach().numpy()
    pairs = itertools.combinations(range(fields.shape[1]), 2)
    expected = sum((fields[:, i] * fields[:, j]).sum(1) for i, j in pairs)
    np.testing.assert_allclose(value(made)[:, 0], expected, rtol=1e-5)


def test_attention_averages_the_positions_that_exist_and_is_zero_without_any():
    _, made = network("attention(item, past)")
    rows = batch()
    past, query = (made._embedded(rows)[name].data.detach().numpy() for name in ("past", "item"))
    mask = rows.histories["past"].numpy() != 0
    expected = np.zeros((6, DIM))
    for row in range(6):
        if mask[row].any():
            scores = np.exp(past[row][mask[row]] @ query[row] / np.sqrt(DIM))
            expected[row] = (scores / scores.sum()) @ past[row][mask[row]]
    np.testing.assert_allclose(value(made), expected, rtol=1e-4, atol=1e-6)
    assert not value(made)[0].any()


@pytest.mark.parametrize(
    "output", ["mean(past)", "sum(past)", "attention(user, past)", "fm(past)", "mean(dense(past, 3))"]
)
def test_padding_has_no_say(output):
    _, made = network(output)
    rows = batch()
    before = value(made, of=rows)
    with torch.no_grad():  # row 0 of item's vocabulary is what padding looks up
        made.table.weight[made._histories["past"]] += 100.0
    np.testing.assert_array_equal(value(made, of=rows), before)


def test_a_history_shares_the_table_of_its_feature():
    planned, made = network("dot(item, mean(past))")
    assert planned.tables == {"item": 11}
    rows = Batch(torch.tensor([[0, 5]]), torch.zeros(1, 2), {"past": torch.tensor([[5, 0, 0, 0]])})
    vector = made.table.weight[5].detach()
    np.testing.assert_allclose(value(made, of=rows)[0, 0], float(vector @ vector), rtol=1e-6)


def test_each_feature_reads_its_own_part_of_the_packed_table():
    _, made = network("concat(item, user)", both="sum(fields)")
    weight, rows = made.table.weight.detach().numpy(), batch()
    offsets = dict(zip(made._ids, made._offsets.tolist(), strict=True))
    user, item = (rows.codes[:, i].numpy() for i in (0, 1))
    expected = np.hstack([weight[item + offsets["item"]], weight[user + offsets["user"]]])
    np.testing.assert_array_equal(value(made), expected)


def test_inputs_are_embeddings_then_numerics_then_mean_histories():
    _, made = network("inputs", mean_past="mean(past)")
    rows = batch()
    scope = {name: v.data.detach().numpy() for name, v in made._embedded(rows).items()}
    mask = (rows.histories["past"] != 0).numpy()[..., None]
    pooled = (scope["past"] * mask).sum(1) / np.maximum(mask.sum(1), 1)
    expected = np.hstack([scope["user"], scope["item"], rows.numeric.numpy(), pooled])
    np.testing.assert_allclose(value(made), expected, rtol=1e-6)


def test_wide_is_one_weight_per_id_and_linear_in_numerics():
    _, made = network("wide(item, price)")
    wide = made.functions["output:wide"]
    with torch.no_grad():
        wide.table.weight.copy_(torch.arange(11.0)[:, None])
        wide.linear.fill_(2.0)
        wide.bias.fill_(0.5)
    rows = batch()
    expected = rows.codes[:, 1].numpy() + 2.0 * rows.numeric[:, 1].numpy() + 0.5
    np.testing.assert_allclose(value(made)[:, 0], expected, rtol=1e-6)


def test_cross_is_dcn_v2():
    _, made = network("cross(inputs, tanh(inputs))")
    up, x0 = made.functions["output:cross"].up, made._embedded(batch())["inputs"].data
    x = torch.tanh(x0)
    expected = x0 * (x @ up.weight.T + up.bias) + x
    np.testing.assert_allclose(value(made), expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only():
    _, made = network("dropout(inputs, 0.5)")
    made.train()
    assert (value(made) == 0).mean() > 0.2
    made.eval()
    np.testing.assert_array_equal(value(made), made._embedded(batch())["inputs"].data.detach().numpy())


def test_relu_leaves_a_value_that_others_use_as_it_was():
    _, made = network("concat(relu(h), h)", h="dense(inputs, 8)")
    both = value(made)
    assert (both[:, 8:] < 0).any()
    np.testing.assert_array_equal(both[:, :8], np.maximum(both[:, 8:], 0))


def test_a_binding_shares_its_weights_and_equal_text_does_not():
    shared = network("h + h", h="dense(inputs, 4)")[0]
    apart = network("dense(inputs, 4) + dense(inputs, 4)")[0]
    assert apart.dense_parameters - shared.dense_parameters == shared.bindings[0].parameters


@pytest.mark.parametrize("output", EVERY_FUNCTION.values(), ids=EVERY_FUNCTION)
def test_a_network_that_moves_to_another_device_leaves_nothing_behind(output):
    """`meta` plays the other device: it computes shapes, and needs no GPU."""
    _, made = network(output)
    names, here = set(made.state_dict()), made(batch())
    made.to("meta")
    held = [value for module in made.modules() for value in vars(module).values()]
    assert not any(isinstance(value, torch.Tensor) for value in held)
    assert {each.device.type for each in (*made.parameters(), *made.buffers())} <= {"meta"}
    assert set(made.state_dict()) == names
    there = batch().on("meta")
    assert {each.device.type for each in (there.codes, there.numeric, *there.histories.values())} == {"meta"}
    logits = made(there)
    assert (logits.device.type, logits.shape) == ("meta", here.shape)
