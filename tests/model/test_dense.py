"""oneDNN's dense layers are torch's, forwards and backwards, up to rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from evorank.model import dense
from evorank.model.dense import Linear, linear


@pytest.fixture(autouse=True, scope="module")
def onednn():
    """On every processor, also where MKL would be taken."""
    taken, dense.MKL_FASTER = dense.MKL_FASTER, False
    yield
    dense.MKL_FASTER = taken


def both(shape, width, units, seed, needs=True, biased=True):
    """Output and gradients of ours and of torch, on the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    results = []
    x0 = torch.randn(*shape, width, generator=generator)
    w0, b0 = torch.randn(units, width, generator=generator), torch.randn(units, generator=generator)
    pull = torch.randn(*shape, units, generator=generator)
    for function in (linear, F.linear):
        x, w = x0.clone().requires_grad_(needs), w0.clone().requires_grad_()
        b = b0.clone().requires_grad_() if biased else None
        y = function(x, w, b)
        (y * pull).sum().backward()
        results.append([y.detach(), w.grad] + ([x.grad] if needs else []) + ([b.grad] if biased else []))
    return results


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=2),
    st.integers(1, 70), st.integers(1, 70), st.integers(0, 9), st.booleans(), st.booleans(),
)  # fmt: skip
def test_output_and_gradients_are_those_of_torch(shape, width, units, seed, needs, biased):
    ours, theirs = both(shape, width, units, seed, needs, biased)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_same_numbers_give_the_same_bits():
    first, second = both((4096,), 160, 256, 3)[0], both((4096,), 160, 256, 3)[0]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_operands_may_be_views():
    x = torch.randn(20, 33).t()[:, ::2]
    w, b = torch.randn(16, 10), torch.randn(16)
    torch.testing.assert_close(linear(x, w, b), F.linear(x, w, b), rtol=1e-4, atol=1e-5)


def test_autocast_still_decides_the_precision():
    x, w, b = torch.randn(8, 16), torch.randn(32, 16), torch.randn(32)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, w, b).dtype == torch.bfloat16


def test_a_layer_starts_from_glorots_weights_and_no_bias():
    torch.manual_seed(0)
    layer = Linear(300, 200)
    bound = (6 / 500) ** 0.5
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std() > 0.9 * bound / 3**0.5
    assert not layer.bias.any()


def test_where_mkl_is_at_home_a_product_is_torchs_to_the_last_bit(monkeypatch):
    monkeypatch.setattr(dense, "MKL_FASTER", True)
    x, w, b = torch.randn(64, 160), torch.randn(256, 160), torch.randn(256)
    assert torch.equal(linear(x, w, b), F.linear(x, w, b))
    monkeypatch.setattr(dense, "MKL_FASTER", False)
    assert linear(x.requires_grad_(), w, b).grad_fn.name() != F.linear(x, w, b).grad_fn.name()
