"""Tiny batches find honest mistakes of components before a training is spent on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from evorank.model.component_code import allowed
from evorank.model.component_interface import EXAMPLES
from evorank.model.config import default_phi
from evorank.model.conformance.planted import EXAMPLE_LOG
from evorank.model.delta import apply_delta
from evorank.model.errors import Finding
from evorank.model.ranker import NeuralRanker

PHI = default_phi(label="clicked", factors={}, batch_size=256)
OUTPUT = "/architecture/layers/output"


@pytest.fixture(autouse=True)
def running() -> Iterator[None]:
    with allowed():
        yield


def checked(kind: str, source: str, *uses: tuple[str, Any]) -> list[Finding]:
    changes = [("/components/own", {"kind": kind, "source": source}), *uses]
    phi = apply_delta(PHI, [{"op": "add", "path": path, "value": value} for path, value in changes])
    return NeuralRanker(EXAMPLE_LOG, PHI).check(phi)


def layer(forward: str, init: str = "self.w = nn.Parameter(torch.ones(width))", more: str = "") -> str:
    return (
        f"class Own(nn.Module):\n    built = []\n"
        f"    def __init__(self, width, n=1):\n        super().__init__()\n        {init}\n"
        f"    def forward(self, x{more}):\n        {forward}\n"
    )


def test_what_the_schema_shows_as_an_example_passes_every_trial():
    assert checked("layer", EXAMPLES["layer"], (OUTPUT, "own(h2, 32)")) == []
    assert checked("layer", EXAMPLES["layer"], (OUTPUT, "mean(own(recent_items, 8))")) == []
    assert (
        checked("activation", EXAMPLES["activation"], (OUTPUT, "concat(own(h2), mean(own(recent_items)))"))
        == []
    )
    assert (
        checked("optimizer", EXAMPLES["optimizer"], ("/optimizer/name", "own"), ("/optimizer/args", {})) == []
    )
    schedule = ("/optimizer/schedule", {"name": "own", "args": {"power": 2}})
    assert checked("schedule", EXAMPLES["schedule"], schedule) == []


LAYERS = {
    "raises": (
        "return x @ torch.ones(3, 3)",
        "",
        "fails when called with a vector of width 128 (RuntimeError",
    ),
    "numbers": ("return x * self.w.tolist()", "", "line 7: fails when called"),
    "not a tensor": ("return [x * self.w]", "", "returns list"),
    "integers": ("return (x * self.w).long()", "", "returns torch.int64"),
    "another number of rows": ("return (x * self.w)[:1]", "", "returns [1, 128] for 2 rows"),
    "one dimension": ("return (x * self.w).sum(-1)", "", "returns [2] for 2 rows"),
    "a length of its own": ("return (x * self.w).view(-1, 2, 64)", "", "returns [2, 2, 64] for 2 rows"),
    "random": ("return x * self.w + torch.rand(1)", "", "answers twice differently in eval mode"),
    "counts its calls": (
        "self.n += 1; return x * self.w * self.n",
        "self.n = 0; self.w = nn.Parameter(torch.ones(width))",
        "answers twice differently in eval mode",
    ),
    "in place": ("return x.mul_(2 * self.w)", "", "changes its operand in place"),
    "batch statistics": ("return (x - x.mean(0)) * self.w", "", "when other rows are scored with it"),
    "the row before": ("return x * self.w + x.roll(1, 0)", "", "when other rows are scored with it"),
    "the number of rows": ("return x * self.w / x.shape[0]", "", "when other rows are scored with it"),
    "zero rows": ("return x * self.w / x.norm(dim=-1, keepdim=True)", "", "is not finite"),
    "gradient of a root": ("return (x * x * self.w).sqrt()", "", "gradient for operand 1 that is not finite"),
    "unused operand": ("return torch.ones_like(x) * self.w", "", "has no gradient for operand 1"),
    "detached operand": ("return x.detach() * self.w", "", "has no gradient for operand 1"),
    "detached result": ("return (x * self.w).detach()", "", "returns a tensor without a gradient"),
    "unused parameter": ("return x * 2.0", "", "has no gradient for parameter w"),
    "float64 parameters": (
        "return x * self.w.float()",
        "self.w = nn.Parameter(torch.ones(width, dtype=torch.float64))",
        "has the parameter 'w' of torch.float64",
    ),
    "a tensor that is not kept": (
        "return x * self.w",
        "self.w = torch.randn(width)",
        "another result after its weights are loaded into a new one",
    ),
    "state outside its weights": (
        "self.n = self.n + (0.1 if self.training else 0.0); return x * self.w * self.n",
        "self.n = 1.0; self.w = nn.Parameter(torch.ones(width))",
        "another result after its weights are loaded into a new one",
    ),
    "weights from elsewhere": (
        "return x * self.w",
        "self.built.append(1); self.w = nn.Parameter(torch.full((width,), float(len(self.built))))",
        "starts from other weights when it is built again with the same seed",
    ),
}


@pytest.mark.parametrize(("forward", "init", "said"), LAYERS.values(), ids=LAYERS)
def test_a_mistake_in_a_layer_is_told_at_its_source(forward, init, said):
    (finding,) = checked("layer", layer(forward, *([init] if init else [])), (OUTPUT, "own(h2)"))
    assert finding.pointer == "/components/own/source"
    assert said in finding.rule


def test_the_hint_says_what_to_try():
    (finding,) = checked("layer", layer("return (x - x.mean(0)) * self.w"), (OUTPUT, "own(h2)"))
    assert finding.hint == "Normalise over the width (dim=-1), not over the batch (dim=0)."
    assert finding.rule.endswith("(given a vector of width 128)")


def test_a_layer_is_tried_at_every_place_that_calls_it():
    narrow = layer("return x[:, :n] * self.w[:n]".replace("n]", "100]"))
    assert checked("layer", narrow, (OUTPUT, "own(h2)")) == []
    (finding,) = checked("layer", narrow, (OUTPUT, "own(h2) + own(dense(own(h1), 3))"))
    assert "another result" not in finding.rule
    assert finding.pointer in (OUTPUT, "/components/own/source")


def test_a_layer_that_only_bfloat16_breaks_is_refused_only_there():
    strict = layer(
        "y = F.linear(x, self.w)\n        assert y.dtype == torch.float32\n        return y"
    ).replace("torch.ones(width)", "torch.ones(4, width)")
    assert checked("layer", strict, (OUTPUT, "own(h2)")) == []
    (finding,) = checked("layer", strict, (OUTPUT, "own(h2)"), ("/optimizer/precision", "bfloat16"))
    assert "AssertionError" in finding.rule


def test_one_mistake_is_told_once_however_often_the_layer_is_called():
    source = layer("return x.detach() * self.w")
    (finding,) = checked("layer", source, (OUTPUT, "own(h2)"), ("/architecture/layers/h3", "own(h2)"))
    assert "has no gradient for operand 1" in finding.rule


def test_an_operand_may_have_any_name():
    source = layer("return self * me.w").replace("(self, x)", "(me, self)")
    assert checked("layer", source, (OUTPUT, "own(self=h2)")) == []


def test_a_result_that_does_not_fit_the_next_layer_is_told_at_that_layer():
    (finding,) = checked("layer", EXAMPLES["layer"], (OUTPUT, "own(h2, 8) + h1"))
    assert finding.pointer == OUTPUT
    assert "equal widths" in finding.rule


def test_a_layer_that_makes_a_batch_too_large_is_refused_where_its_shape_is_known():
    wide = layer("return (x * self.w).repeat(1, 500)")
    uses = [(OUTPUT, "own(h2)"), ("/optimizer/batch_size", 65_536)]
    (finding,) = checked("layer", wide, *uses)
    assert finding.pointer == "/optimizer/batch_size"


def test_source_that_fails_when_it_is_loaded_is_told_with_its_line():
    (finding,) = checked("activation", "HALF = 1 / 0\n\ndef own(x):\n    return x", (OUTPUT, "own(h2)"))
    assert "line 1: fails when loaded (ZeroDivisionError" in finding.rule


def optimizer(step: str, init: str = "super().__init__(params, dict(lr=lr))") -> str:
    return (
        "class Own(torch.optim.Optimizer):\n"
        f"    def __init__(self, params, lr=0.01, power=1.0):\n        {init}\n"
        "    @torch.no_grad()\n    def step(self):\n"
        "        for group in self.param_groups:\n"
        f"            for p in group['params']:\n                {step}\n"
    )


GIVEN = "if p.grad is not None: "
OPTIMIZERS = {
    "climbs": (optimizer(GIVEN + "p.add_(p.grad, alpha=group['lr'])"), "does not lower a quadratic"),
    "does nothing": (optimizer("pass"), "does not lower a quadratic"),
    "breaks": (optimizer(GIVEN + "p.mul_(math.nan)"), "does not lower a quadratic"),
    "takes every parameter": (
        optimizer("p.sub_(p.grad, alpha=group['lr'])"),
        "line 8: fails when step is called",
    ),
    "decays what is idle": (
        optimizer("p.mul_(1 - group['lr']); p.grad is not None and p.sub_(p.grad, alpha=group['lr'])"),
        "moves a parameter that has no gradient",
    ),
    "hides its rate": (
        optimizer(GIVEN + "p.sub_(p.grad, alpha=0.01)", "super().__init__(params, dict(power=power))"),
        "has no lr in its groups",
    ),
    "forgets no_grad": (
        optimizer(GIVEN + "p.sub_(p.grad, alpha=group['lr'])").replace("    @torch.no_grad()\n", ""),
        "a leaf Variable that requires grad",
    ),
}


@pytest.mark.parametrize(("source", "said"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_mistake_in_an_optimizer_is_told_at_its_source(source, said):
    uses = ("/optimizer/name", "own"), ("/optimizer/args", {})
    (finding,) = checked("optimizer", source, *uses)
    assert finding.pointer == "/components/own/source"
    assert said in finding.rule


def test_an_optimizer_that_refuses_its_arguments_is_told_at_the_arguments():
    fussy = optimizer(
        GIVEN + "p.sub_(p.grad, alpha=group['lr'])", "assert power > 1; super().__init__(params, dict(lr=lr))"
    )
    (finding,) = checked("optimizer", fussy, ("/optimizer/embedding", {"name": "own"}))
    assert finding.pointer == "/optimizer/embedding/args"
    assert "AssertionError" in finding.rule


def test_a_learning_rate_too_large_for_the_trial_is_not_a_mistake():
    source = optimizer(GIVEN + "p.sub_(p.grad, alpha=group['lr'])")
    assert checked("optimizer", source, ("/optimizer/name", "own"), ("/optimizer/args", {"lr": 100})) == []


SCHEDULES = {
    "raises": ("return 1 / step", "line 2: fails when called for step 0 of 100 (ZeroDivisionError"),
    "a tensor": ("return torch.tensor(1.0)", "returns tensor(1.) for step 0 of 100"),
    "not a number": ("return math.nan", "returns nan for step 0"),
    "negative": ("return 0.5 - step / steps", "returns a negative share for step 51 of 100"),
    "zero": ("return 0.0", "is zero at every step of a run of 100"),
    "zero in the shortest run": ("return float(step > 0)", "is zero at every step of a run of 1"),
    "random": ("return float(torch.rand(()))", "returns two different shares for step 0"),
}


@pytest.mark.parametrize(("body", "said"), SCHEDULES.values(), ids=SCHEDULES)
def test_a_mistake_in_a_schedule_is_told_at_its_source(body, said):
    source = f"def own(step, steps):\n    {body}"
    (finding,) = checked("schedule", source, ("/optimizer/schedule", {"name": "own"}))
    assert finding.pointer == "/components/own/source"
    assert said in finding.rule


def test_a_trial_leaves_the_generator_as_it_was():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    checked("layer", EXAMPLES["layer"], (OUTPUT, "own(h2, 32)"))
    checked("optimizer", EXAMPLES["optimizer"], ("/optimizer/name", "own"), ("/optimizer/args", {}))
    assert torch.equal(torch.get_rng_state(), before)


MISFITS = [
    ("layer", "def own(x): return x", "of kind layer: must define a class"),
    ("layer", "class A(nn.Module): pass\nclass B(nn.Module): pass", "and defines A, B"),
    ("layer", "x = 1", "and defines none"),
    ("layer", "class Own: pass", "inherits from nn.Module"),
    ("layer", "class Own(nn.Module):\n    def __init__(self, w): pass", "must define forward(self, x)"),
    (
        "layer",
        "class Own(nn.Module):\n    def forward(self, x): return x",
        "must define __init__(self, width",
    ),
    ("layer", layer("return x", more=", y, z"), "__init__ must take 3 widths"),
    ("layer", layer("return x", more=", mask=None"), "forward takes its operands alone"),
    ("layer", layer("return x", more=", *more"), "__init__ takes *widths exactly where forward takes"),
    ("layer", layer("return x").replace("n=1", "x=1"), "forward and __init__ both take 'x'"),
    ("layer", layer("return x").replace("n=1", "**n"), "must name its numbers"),
    ("activation", "def own(x, y): return x", "must define a function of one tensor"),
    ("activation", layer("return x"), "is called without arguments"),
    ("optimizer", "def own(p): pass", "must define a class"),
    ("optimizer", layer("return x"), "inherits from torch.optim.Optimizer"),
    (
        "optimizer",
        optimizer("pass").replace("lr=0.01", "rate=0.01").replace("lr=lr", "lr=rate"),
        "must take lr",
    ),
    ("schedule", layer("return x"), "must define a function"),
    ("schedule", "def own(step): return 1.0", "must define a function of step, steps"),
]


@pytest.mark.parametrize(("kind", "source", "said"), MISFITS, ids=[f"{k}: {s}" for k, _, s in MISFITS])
def test_a_source_that_does_not_fit_its_kind_is_told_the_form_it_must_have(kind, source, said):
    (finding,) = checked(kind, source)
    assert finding.pointer == "/components/own/source"
    assert said in finding.rule
    assert finding.hint
