"""Row-by-row updates are the dense optimizers', and touch nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evorank.model.embedding import RowAdagrad, RowwiseAdagrad, Table
from evorank.model.updates import Updates

ROWS, WIDTH = 30, 4


class Scorer(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.table = Table(ROWS, WIDTH, 1.0)
        self.dense = torch.nn.Linear(WIDTH, 1)

    def forward(self, codes):
        return self.dense(self.table(codes).sum(1)).squeeze(1)


def trained(name, args, *, rows, steps=12, embedding=None, clip=None):
    network = Scorer().train()
    updates = Updates(network, name, args, embedding, rows=rows)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        codes = torch.randint(0, ROWS // 2, (8, 3), generator=generator)  # repeats; the upper half is unseen
        updates.zero_grad()
        updates.scale(1 / (1 + step))
        ((network(codes) - codes.sum(1)) ** 2).mean().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(updates.weights(), clip)
        updates.step()
    return {key: value.numpy() for key, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("Adagrad", {"lr": 0.1}),
        ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-6}),
        ("SGD", {"lr": 0.01}),
        ("Adam", {"lr": 0.01}),
        ("RMSprop", {"lr": 0.01, "momentum": 0.9}),
        ("SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}),
        ("Adagrad", {"lr": 0.1, "weight_decay": 0.01}),
    ],
)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_updates_by_rows_are_those_of_the_dense_optimizer(name, args, clip):
    by_rows, dense = (trained(name, args, rows=rows, clip=clip) for rows in (True, False))
    for key in dense:
        np.testing.assert_allclose(by_rows[key], dense[key], rtol=2e-5, atol=2e-6)


def test_rowwise_adagrad_is_the_published_rule():
    torch.manual_seed(0)
    table = Table(5, 3, 1.0)
    table.by_rows = True
    rule = RowwiseAdagrad([table], lr=0.1, eps=1e-8)
    weight, total = table.weight.detach().numpy().copy(), np.zeros(5)
    for codes in ([1, 1, 4], [4, 2, 2]):
        table(torch.tensor(codes)).square().sum().backward()
        gradient = np.zeros_like(weight)
        np.add.at(gradient, codes, 2 * weight[codes])
        total += (gradient**2).mean(1)
        weight -= 0.1 * gradient / (np.sqrt(total) + 1e-8)[:, None] * (total > 0)[:, None]
        rule.step()
        table.forget()
    np.testing.assert_allclose(table.weight.detach().numpy(), weight, rtol=1e-5)


def test_rowwise_adagrad_leaves_unseen_rows_alone():
    before = Scorer().state_dict()["table.weight"].numpy()
    after = trained("Adam", {"lr": 0.01}, rows=None, embedding=("RowwiseAdagrad", {"lr": 0.1}))
    np.testing.assert_array_equal(after["table.weight"][ROWS // 2 :], before[ROWS // 2 :])
    assert (after["table.weight"][: ROWS // 2] != before[: ROWS // 2]).all()


def test_muon_moves_matrices_and_leaves_the_rest_to_adamw():
    before = {k: v.numpy().copy() for k, v in Scorer().state_dict().items()}
    after = trained("Muon", {"lr": 0.01}, rows=None, steps=1)
    assert all((before[key] != after[key]).any() for key in before)


def test_a_table_gives_the_same_vectors_either_way():
    table = Table(9, 4, 1.0)
    codes = torch.tensor([[3, 3], [8, 0]])
    whole = table(codes)
    table.by_rows = True
    assert torch.equal(table(codes), whole)
    assert table.touched is not None
    assert table.touched[0].tolist() == [0, 3, 8]


@pytest.mark.parametrize("rule", [RowAdagrad, RowwiseAdagrad])
def test_what_a_rule_remembers_is_where_the_table_is(rule):
    table = Table(5, 3, 0.0).to("meta")
    assert [each.device.type for each in rule([table], lr=0.1).sums] == ["meta"]
