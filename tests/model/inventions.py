"""What the paper's agents invented (arXiv 2602.10226), as small deltas on one Φ: brought along as code, and
written in the layer language where it can say it."""

from __future__ import annotations

from typing import Any

from evorank.model.config import default_phi
from evorank.model.delta import apply_delta, diff

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


WRITTEN: dict[str, tuple[list[str], list[tuple[str, Any]]]] = {
    "Gated Path, written": (
        ARCHITECTURE,
        [
            (f"{LAYERS}/shared", "layer_norm(h2)"),
            (f"{LAYERS}/value_path", "dense(shared, 32)"),
            (f"{LAYERS}/gate_path", "sigmoid(dense(shared, 32))"),
            (f"{LAYERS}/output", "value_path * gate_path"),
        ],
    ),
    "GELU gate with layer norm, written": (
        ARCHITECTURE,
        [
            (f"{LAYERS}/gate", "sigmoid(dense(layer_norm(gelu(dense(h1, 64))), 128))"),
            (f"{LAYERS}/output", "layer_norm(residual(h1, h2 * gate))"),
        ],
    ),
    "Wide & Deep, written": (
        ARCHITECTURE,
        [
            (f"{LAYERS}/deep", "dense(layer_norm(h2), 1)"),
            (f"{LAYERS}/output", "deep + wide(user_id, item_id, price)"),
        ],
    ),
}


def invented(name: str) -> dict[str, Any]:
    """Φ with one of INVENTIONS or WRITTEN: a delta of five operations at most."""
    allowed_paths, changes = (INVENTIONS | WRITTEN)[name]
    phi = apply_delta(
        PHI, [{"op": "add", "path": path, "value": value} for path, value in changes], allowed_paths
    )
    assert len(diff(PHI, phi)) <= 5
    return phi
