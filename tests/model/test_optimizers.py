"""Any torch optimizer by name; what it would refuse is found before it is built."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evorank.model.optimizers import build_optimizer, check_optimizer, optimizer_names


@pytest.mark.parametrize("name", optimizer_names())
def test_every_usable_optimizer_is_built_and_lowers_a_loss(name):
    assert check_optimizer(name, {"lr": 0.01}) == []
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 4))
    optimizer = build_optimizer(name, {"lr": 0.01}, [weight])
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "args", "pointer", "said"),
    [
        ("Adagard", {}, "/optimizer/name", "Did you mean Adagrad?"),
        ("adam", {}, "/optimizer/name", "Did you mean Adam?"),
        ("Zzz", {}, "/optimizer/name", "There are ASGD, Adadelta"),
        ("LBFGS", {}, "/optimizer/name", "closure"),
        ("SparseAdam", {}, "/optimizer/name", "sparse gradients"),
        ("RowwiseAdagrad", {}, "/optimizer/name", "embedding tables only"),
        ("Adam", {"learning_rate": 0.1}, "/optimizer/args/learning_rate", "Adam takes lr, betas"),
        ("Adam", {"weight_deca": 0.1}, "/optimizer/args/weight_deca", "Did you mean weight_decay?"),
        ("Adagrad", {"lr": -1}, "/optimizer/args/lr", "must lie in (0, 10), got -1. Try 1e-4 to 1e-1."),
        ("Adagrad", {"lr": 0}, "/optimizer/args/lr", "must lie in (0, 10)"),
        ("Adagrad", {"lr": "0.1"}, "/optimizer/args/lr", "finite number"),
        ("Adagrad", {"lr": True}, "/optimizer/args/lr", "finite number"),
        ("Adagrad", {"lr": float("nan")}, "/optimizer/args/lr", "finite number"),
        ("Adam", {"betas": 0.9}, "/optimizer/args/betas", "list of 2 numbers"),
        ("Adam", {"betas": [0.9, 1.0]}, "/optimizer/args/betas/1", "must lie in [0, 1)"),
        ("Adam", {"amsgrad": 1}, "/optimizer/args/amsgrad", "true or false"),
        ("Adam", {"foreach": True}, "/optimizer/args/foreach", "set by the trainer"),
        ("SGD", {"nesterov": True}, "/optimizer/args", "Nesterov momentum requires a momentum"),
        ("Muon", {"ns_steps": 2.5}, "/optimizer/args/ns_steps", "whole number"),
        ("Muon", {"adjust_lr_fn": "no"}, "/optimizer/args", "Adjust learning rate function"),
    ],
)
def test_a_bad_optimizer_is_told_where_and_why(name, args, pointer, said):
    (finding,) = check_optimizer(name, args)
    assert finding.pointer == pointer
    assert said in str(finding)


def test_tables_take_rowwise_adagrad_and_not_muon():
    where = "/optimizer/embedding"
    assert check_optimizer("RowwiseAdagrad", {"lr": 0.1, "eps": 1e-8}, where, table=True) == []
    (finding,) = check_optimizer("Muon", {}, where, table=True)
    assert finding.pointer == "/optimizer/embedding/name"
    (finding,) = check_optimizer("RowwiseAdagrad", {"momentum": 0.9}, where, table=True)
    assert finding.pointer == "/optimizer/embedding/args/momentum"


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
_arguments = st.sampled_from(["lr", "betas", "eps", "momentum", "nesterov", "weight_decay", "alpha", "x"])


@given(st.sampled_from(optimizer_names()), st.dictionaries(_arguments, _values, max_size=3))
def test_what_passes_the_check_can_be_built_and_nothing_else_is_raised(name, args):
    if not check_optimizer(name, args):
        build_optimizer(name, args, [torch.nn.Parameter(torch.zeros(2, 2))])
