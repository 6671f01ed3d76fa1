"""A dense layer: Glorot's initial weights, and float32 products by the faster library of this processor.

torch sends float32 products to MKL, and MKL runs its AVX2 kernels on processors that Intel did not make:
89 of 190 GFLOP/s on an AMD EPYC with AVX-512. There oneDNN, which torch keeps for bfloat16, takes over; on
an Intel Xeon MKL is the faster one, 1.3 to 1.9 times. Results differ by rounding (5e-8 of a layer's output).
Limits of oneDNN's: first derivatives only, and plain `F.linear` below `NARROW` outputs, where torch has no
oneDNN, where autocast asks for bfloat16, and on other devices.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Linear", "linear"]

NARROW = 8
"""Below this many outputs a product is bound by memory, and no kernel is faster."""


class Linear(nn.Linear):
    """x [..., a] -> [..., b]. Starts from Glorot & Bengio's (2010) uniform weights and a zero bias, as Keras
    does: torch's own start is smaller, and a ranker that sees its log once learns late from it."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., a] with weight [b, a] and bias [b] -> x @ weight.T + bias [..., b], as `F.linear`."""
    half = torch.is_autocast_enabled("cpu") or x.dtype != torch.float32
    if MKL_FASTER or half or len(weight) < NARROW or x.device.type != "cpu" or not _there():
        return F.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    product: Tensor = _Product.apply(flat, weight, bias)  # type: ignore[no-untyped-call]
    return product.view(*x.shape[:-1], len(weight))


@cache
def _there() -> bool:
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _made_by_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


MKL_FASTER = _made_by_intel()
"""Told by the maker's name and by no clock, since the bits of a loss must not depend on how busy a
machine was; at import, since a locked child may not look."""


def _times(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _Product(torch.autograd.Function):
    """One forward and two backward products; gradients of weight and bias come from one call."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        context.biased = bias is not None
        return _times(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = context.saved_tensors
        gradient = gradient.contiguous()
        layout = gradient.to_mkldnn(), x.contiguous().to_mkldnn()
        of_weight, of_bias = torch.ops.aten.mkldnn_linear_backward_weights(*layout, weight, context.biased)
        of_x = _times(gradient, weight.t().contiguous(), None) if context.needs_input_grad[0] else None
        return of_x, of_weight, of_bias if context.biased else None
