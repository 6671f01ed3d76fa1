"""The engineer's library of code: what no listed function, optimizer or schedule can say.

Seven sources in PyTorch, each the code of one component of Φ, written for its reader: equation,
shapes, paper. To this module they are text; only the locked evaluator compiles them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["LIBRARY", "Invention"]


@dataclass(frozen=True)
class Invention:
    """One component: its kind, what it is in a sentence, its source, and arguments that usually work."""

    kind: Literal["layer", "activation", "optimizer", "schedule"]
    description: str
    source: str
    args: Mapping[str, Any] = field(default_factory=dict)
    """Of an optimizer or schedule; layers are drawn with their numbers in `towers`."""

    @property
    def component(self) -> dict[str, str]:
        return {"kind": self.kind, "source": self.source, "description": self.description}


EXCITATION_GATE = '''
import torch
from torch import Tensor, nn


class ExcitationGate(nn.Module):
    """y = z * 2 sigmoid(V relu(U z)), z = layer_norm(x): an impression turns its own coordinates up or down.

    x, y: [..., width]; `units` is the width of the bottleneck. Squeeze and excitation over a vector
    instead of channels (Hu et al. 2018, arXiv 1709.01507; FiBiNET, Huang et al. 2019, arXiv 1905.09433).
    """

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.squeeze = nn.Linear(width, units)
        self.excite = nn.Linear(units, width)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        return z * 2 * torch.sigmoid(self.excite(torch.relu(self.squeeze(z))))
'''

GATED_PATH = '''
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GatedPath(nn.Module):
    """y = layer_norm(gelu(W x)) * sigmoid(V layer_norm(gelu(U c))): x, as far as the context c lets it pass.

    x: [B, width], c: [B, context], y: [B, units]. Past discoveries in one unit: a value path times a gate
    path whose gate is itself a small network with GELU and layer norm (arXiv 2602.10226).
    """

    def __init__(self, width: int, context: int, units: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, units)
        self.context = nn.Linear(context, units)
        self.gate = nn.Linear(units, units)
        self.value_norm = nn.LayerNorm(units)
        self.gate_norm = nn.LayerNorm(units)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        gate = self.gate(self.gate_norm(F.gelu(self.context(c))))
        return self.value_norm(F.gelu(self.value(x))) * torch.sigmoid(gate)
'''

MIXED_CROSS = '''
import torch
from torch import Tensor, nn


class MixedCross(nn.Module):
    """y = a * (1 + sum_i g_i(b) V_i tanh(U_i b)), g = softmax(G b): low-rank crosses, mixed per impression.

    a, y: [B, width], b: [B, other]; `experts` products of rank `rank`, stored side by side.
    DCN-Mix (Wang et al. 2021, arXiv 2008.13535, section 3.3), with the residual on the first operand.
    """

    def __init__(self, width: int, other: int, rank: int, experts: int) -> None:
        super().__init__()
        self.rank = rank
        self.gate = nn.Linear(other, experts)
        self.down = nn.Linear(other, rank * experts, bias=False)
        self.up = nn.Linear(rank * experts, width)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        gates = self.gate(b).softmax(-1).repeat_interleave(self.rank, -1)
        return a * (1 + self.up(gates * torch.tanh(self.down(b))))
'''

LEARNED_SWISH = '''
import torch
from torch import Tensor, nn


class LearnedSwish(nn.Module):
    """y = x sigmoid(beta x) with a learned beta: 0 is linear, 1 is SiLU, large is ReLU.

    x, y: any one shape. Ramachandran et al. 2017, arXiv 1710.05941.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)
'''

FTRL_PROXIMAL = '''
import torch


class FTRLProximal(torch.optim.Optimizer):
    """n += g^2, d' = (beta + sqrt(n)) / lr, z += g - (d' - d) w, then
    w = 0 where |z| <= l1, else (l1 sign(z) - z) / (d' + weight_decay).

    n, d, z: as each weight. Without l1 and decay this is Adagrad, whatever the schedule of lr; l1 puts
    weights that carry no signal at exactly zero. Follow the regularised leader: McMahan et al. 2013,
    Ad Click Prediction, algorithm 1; its l2 is `weight_decay`.
    """

    def __init__(self, params, lr=0.03, beta=1e-6, l1=0.0, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, beta=beta, l1=l1, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, l1, decay = group["lr"], group["l1"], group["weight_decay"]
            for w in group["params"]:
                if w.grad is None or lr <= 0:
                    continue
                state = self.state[w]
                if not state:
                    state["n"], state["d"], state["z"] = (torch.zeros_like(w) for _ in range(3))
                n, d, z = state["n"], state["d"], state["z"]
                n.addcmul_(w.grad, w.grad)
                rate = n.sqrt().add_(group["beta"]).div_(lr)
                z.add_(w.grad).addcmul_(rate - d, w, value=-1)
                d.copy_(rate)
                w.copy_(torch.where(z.abs() > l1, (z.sign() * l1 - z) / (rate + decay), 0.0))
'''

SIGN_MOMENTUM = '''
import torch


class SignMomentum(torch.optim.Optimizer):
    """w -= lr (sign(b1 m + (1 - b1) g) + decay w); m = b2 m + (1 - b2) g, both only where g is not zero.

    m: as each weight. Lion (Chen et al. 2023, arXiv 2302.06675) for sparse tables: the row of an id that
    the batch has not seen rests, where Lion would go on moving it by a full step.
    """

    def __init__(self, params, lr=1e-3, b1=0.9, b2=0.99, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, b1=b1, b2=b2, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, b1, b2 = group["lr"], group["b1"], group["b2"]
            for w in group["params"]:
                if w.grad is None:
                    continue
                m = self.state[w].setdefault("m", torch.zeros_like(w))
                seen = w.grad.ne(0)
                step = torch.lerp(w.grad, m, b1).sign_().add_(w, alpha=group["weight_decay"])
                w.sub_(step.mul_(seen), alpha=lr)
                m.copy_(torch.where(seen, torch.lerp(w.grad, m, b2), m))
'''

WARMUP_STABLE_DECAY = '''
import math


def warmup_stable_decay(step: int, steps: int, warmup: float = 0.0, decay: float = 0.3) -> float:
    """min(1, t / warmup, 1 - sqrt((t - (1 - decay)) / decay)), t = share of the run that is over: in (0, 1].

    A rise (none by default), a plateau, a fall that is steep at first. Hu et al. 2024, arXiv 2404.06395;
    the square root is of Hagele et al. 2024, arXiv 2405.18392.
    """
    t = (step + 1) / (steps + 1)
    rise = t / warmup if warmup > 0 else 1.0
    left = max(0.0, t - (1 - decay)) / decay if decay > 0 else 0.0
    return min(1.0, rise, 1 - math.sqrt(left))
'''

LIBRARY: Mapping[str, Invention] = {
    "excitation_gate": Invention(
        "layer", "Every impression weighs its own coordinates: squeeze and excitation over a vector.",
        EXCITATION_GATE,
    ),
    "gated_path": Invention(
        "layer", "A value path times a gate path whose gate is a small network with GELU and layer norm.",
        GATED_PATH,
    ),
    "mixed_cross": Invention(
        "layer", "Several low-rank crosses of two vectors, mixed anew for each impression.", MIXED_CROSS
    ),
    "learned_swish": Invention(
        "activation", "An activation between linear, SiLU and ReLU; where, the data say.", LEARNED_SWISH
    ),
    "ftrl_proximal": Invention(
        "optimizer", "Follow the regularised leader, with weights that carry no signal at exactly zero.",
        FTRL_PROXIMAL, {"lr": 0.03, "l1": 1e-4},
    ),
    "sign_momentum": Invention(
        "optimizer", "Equal steps along the sign of the momentum; ids that a batch has not seen rest.",
        SIGN_MOMENTUM, {"lr": 1e-3},
    ),
    "warmup_stable_decay": Invention(
        "schedule", "A long plateau, then a fall that is steep at first.", WARMUP_STABLE_DECAY
    ),
}  # fmt: skip
