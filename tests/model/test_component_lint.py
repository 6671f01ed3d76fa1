"""The lint lets ordinary PyTorch through, tells the rest with its line and a way out, and never raises."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evorank.model.component_interface import EXAMPLES
from evorank.model.component_lint import Problem, lint, parse
from evorank.model.component_names import BUILTINS, DOTTED

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ORDINARY = {
    "the names that are there": "class G(nn.Module):\n    def forward(self, x): return F.gelu(x) * math.pi",
    "imports under other names": (
        "import torch.nn.functional as fn\nfrom torch import nn as layers, Tensor as T\n"
        "from typing import Optional\n\nclass G(layers.Module):\n"
        "    def forward(self, x: T, y: Optional[T]) -> T:\n        return fn.relu(x)"
    ),
    "Adam as everybody writes it": """
from collections.abc import Iterable
from torch.optim.optimizer import Optimizer

class Own(Optimizer):
    def __init__(self, params: Iterable, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        if not 0.0 <= lr:
            raise ValueError(f"bad lr: {lr}")
        defaults = dict(lr=lr, betas=betas, eps=eps)
        super(Own, self).__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad.data
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                    state["v"] = torch.zeros_like(p.data)
                m, v = state["m"], state["v"]
                state["step"] += 1
                m.mul_(beta1).add_(grad, alpha=1 - beta1)
                v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                denom = (v.sqrt() / math.sqrt(1 - beta2 ** state["step"])).add_(group["eps"])
                p.data.addcdiv_(m, denom, value=-group["lr"] / (1 - beta1 ** state["step"]))
        return loss
""",
    "attention with a buffer and helpers": """
from dataclasses import dataclass
from functools import partial

SCALE = 0.5

@dataclass
class _Sizes:
    heads: int = 2

class _Head(nn.Module):
    def __init__(self, width, dim):
        nn.Module.__init__(self)
        self.q, self.k = nn.Linear(width, dim, bias=False), nn.Linear(width, dim, bias=False)
        nn.init.xavier_uniform_(self.q.weight)
        self.register_buffer("scale", torch.tensor(dim ** -SCALE))

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-2, -1) * self.scale
        mask = (x.abs().sum(-1) == 0).unsqueeze(1)
        return scores.masked_fill(mask, float("-inf")).softmax(dim=-1).nan_to_num() @ x

class Heads(nn.Module):
    def __init__(self, width, dim=4):
        super().__init__()
        make = partial(_Head, width, dim)
        self.heads = nn.ModuleList([make() for _ in range(_Sizes().heads)])

    def forward(self, x):
        return torch.cat([head(x) for head in self.heads], dim=-1)
""",
    "a schedule": "def f(step, steps, warm=0.1):\n    return min(1.0, step / max(1, int(warm * steps)))",
}

REFUSED = [
    ("import os", "`os` cannot be imported", ""),
    ("import numpy as np", "`numpy` cannot be imported", "no numpy"),
    ("from . import secrets", "cannot be imported", ""),
    ("from torch import *", "`torch.*` is not available", ""),
    ("import torch.utils.cpp_extension", "`torch.utils.cpp_extension` cannot be imported", ""),
    ("from torch import load", "`torch.load` is not available to components", ""),
    ("def f(x): return torch.load('w')", "`torch.load` is not available to components", ""),
    ("import torch as t\ndef f(x): return t.save(x, 'w')", "`torch.save` is not available", ""),
    ("def f(x): return F.reluu(x)", "`torch.nn.functional.reluu` is not available", "Did you mean 'relu'?"),
    ("def f(x): return torch.ops.load_library('x')", "`torch.ops.load_library` is not available", ""),
    ("def f(x): return nn.modules.module.torch.load('w')", "`torch.nn.modules.module.torch.load`", ""),
    ("def f(x):\n    m = torch\n    return m.load('w')", "module `torch` can only be used with a dot", ""),
    ("def f(x): return x.numpy()", "`.numpy` is not available", "no numpy"),
    ("def f(x): return x.softmx(-1)", "`.softmx` is not available", "Did you mean 'softmax'?"),
    ("def f(x): return x.__class__", "`.__class__` is not available", "super().__init__()"),
    ("def f(x): return x._base", "`._base` is private", ""),
    ("def f(x): return '{0.x}'.format(x)", "`.format` is not available", "f-string"),
    ("def f(x): return eval('x')", "`eval` is not available to components", ""),
    ("def f(x): return open('/etc/passwd')", "`open` is not available", ""),
    ("def f(x): return getattr(x, 'nu' + 'mpy')()", "`getattr` is not available", "x.name"),
    ("def f(x): return __import__('os')", "`__import__` is not available", ""),
    ("def f(x): return __builtins__", "`__builtins__` is not", ""),
    ("def f(x):\n    print(x)\n    return x", "`print` is not available", "Remove it"),
    ("def f(x): return y", "`y` is not defined", ""),
    (
        "def f(x):\n    torch.manual_seed(0)\n    return x",
        "`torch.manual_seed` is not available",
        "seeds torch",
    ),
    (
        "n = 0\ndef f(x):\n    global n\n    return x",
        "`global` shares state between calls: keep it in a buffer",
        "",
    ),
    ("def f(x):\n    def g():\n        nonlocal x\n    return x", "`nonlocal` hides state", ""),
    ("async def f(x): return x", "components are not asynchronous", ""),
    ("import functools\n@functools.cache\ndef f(x): return x", "cannot use @functools.cache", "@dataclass"),
    ("class X(nn.Module, metaclass=type): pass", "cannot have a metaclass", ""),
    ("class X(nn.Module):\n    def __del__(self): pass", "`__del__` cannot be defined", ""),
    ("def f(x, F): return F", "`F` means torch.nn.functional and cannot be bound again", "Rename"),
    ("def f(x):\n    F.relu = None\n    return x", "`torch.nn.functional.relu` belongs to others", ""),
    ("def f(x):\n    x.numpy = None\n    return x", "`.numpy` is not available", ""),
    ("while True: pass", "only imports, constants, functions and classes may stand outside", ""),
    ("def f(x, /): return x", "positional-only", ""),
    ("def f(x: return x", "must be Python that parses", ""),
    ("x = '" + "\\" + "N{'", "must be Python that parses", ""),
    ("def f(x): return " + "-" * 15_000 + "x", "must be Python that parses", ""),
]


def problems(source: str) -> list[Problem]:
    tree = parse(source)
    return [tree] if isinstance(tree, Problem) else lint(tree)


@pytest.mark.parametrize("source", [*EXAMPLES.values(), *ORDINARY.values()], ids=[*EXAMPLES, *ORDINARY])
def test_ordinary_code_has_no_problem(source):
    assert problems(source) == []


@pytest.mark.parametrize(("source", "rule", "hint"), REFUSED, ids=[source[:40] for source, _, _ in REFUSED])
def test_what_components_may_not_do_is_told_with_its_line_and_a_way_out(source, rule, hint):
    found = problems(source)
    assert any(rule in problem.rule and hint in problem.hint for problem in found), found
    assert all(1 <= problem.line <= source.count("\n") + 1 for problem in found)


def test_problems_come_in_order_of_lines_and_not_more_than_help():
    source = "def f(x):\n" + "\n".join(f"    x.bad{i}()" for i in range(30)) + "\n    return x"
    assert [problem.line for problem in problems(source)] == list(range(2, 10))


def test_every_name_on_the_list_exists():
    for full in DOTTED:
        owner, _, name = full.rpartition(".")
        assert hasattr(importlib.import_module(owner), name), full
    assert [name for name in BUILTINS if name not in dir(importlib.import_module("builtins"))] == []


def test_the_list_holds_nothing_that_reads_writes_or_changes_the_process():
    words = {
        "load",
        "save",
        "file",
        "thread",
        "threads",
        "seed",
        "rng",
        "hub",
        "jit",
        "cuda",
        "set",
        "compile",
    }
    assert [name for name in DOTTED if words & set(name.rpartition(".")[2].split("_"))] == []


PIECES = st.sampled_from(
    [
        *"()[]{}:,.=*@\n ",
        "    ",
        "def f",
        "class X",
        "nn.Module",
        "self",
        "x",
        "return ",
        "import ",
        "torch",
        "__init__",
    ]
)


@given(st.text(max_size=200) | st.lists(PIECES, max_size=40).map("".join))
@settings(LAW, max_examples=150)
def test_any_text_at_all_is_judged_without_raising(source):
    assert all(str(problem) for problem in problems(source))
    for example in (EXAMPLES["optimizer"] + source, source + EXAMPLES["layer"]):
        assert all(len(str(problem)) < 400 for problem in problems(example))
