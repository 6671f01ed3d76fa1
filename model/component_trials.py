"""Tries components on tiny batches before a training is spent on them: shapes, gradients, rows, descent.

Finds honest mistakes, each told at /components/NAME/source. It proves nothing of hostile code, which can
behave while it is watched; the evaluator watches the scores themselves. Runs component code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evorank.model.component_code import Make, failed
from evorank.model.errors import Finding, RefusedDelta
from evorank.model.functions import Sequence as SequenceShape
from evorank.model.functions import Shape, Vector
from evorank.model.syntax import escape

__all__ = ["measured", "tried", "try_optimizer", "try_schedule"]

ROWS = 8
STEPS = 50
CLOSE = 1e-3  # relative, as far as batched sums may differ in float32
_KEPT = (torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)


class _Wrong(Exception):  # noqa: N818 - internal: becomes a finding at the source
    def __init__(self, rule: str, hint: str = "") -> None:
        self.rule, self.hint = rule, hint
        super().__init__(rule)


def _told(name: str, wrong: _Wrong) -> RefusedDelta:
    return RefusedDelta([Finding(f"/components/{escape(name)}/source", wrong.rule, hint=wrong.hint)])


# --------------------------------------------------------------------------- layers and activations


def measured(name: str, make: Make, shapes: Sequence[Shape]) -> tuple[Shape, int]:
    """The shape a layer returns and its trained parameters: built and run once, on two rows."""
    return _trial(name, make, shapes, lambda made: None)


def tried(half: bool) -> Callable[[str, Make, Sequence[Shape]], tuple[Shape, int]]:
    """A `Measure` that also tries the layer in training and scoring; with `half`, under bfloat16 too."""

    def measure(name: str, make: Make, shapes: Sequence[Shape]) -> tuple[Shape, int]:
        return _trial(name, make, shapes, lambda made: _Tries(make, made, shapes, half).all())

    return measure


def _trial(
    name: str, make: Make, shapes: Sequence[Shape], more: Callable[[Callable[..., Tensor]], None]
) -> tuple[Shape, int]:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = make(0)
            parameters = _parameters(made)
            _mode(made, training=False)
            with torch.no_grad():
                shape = _shape(made(*_rows(shapes, 2)), shapes, 2)
            more(made)
    except _Wrong as wrong:
        given = " and ".join(map(str, shapes))
        raise _told(name, _Wrong(f"{wrong.rule} (given a {given})", wrong.hint)) from None
    except (RefusedDelta, MemoryError):
        raise
    except Exception as error:
        raise failed(name, f"called with a {' and a '.join(map(str, shapes))}", error) from error
    return shape, parameters


class _Tries:
    """What a layer must do at one place: `made` is one build of it, in eval mode."""

    def __init__(self, make: Make, made: Callable[..., Tensor], shapes: Sequence[Shape], half: bool) -> None:
        self.make, self.made, self.shapes, self.half = make, made, shapes, half
        self.batch = _rows(shapes, ROWS)

    def all(self) -> None:
        whole = self._scored(self.batch)
        if not torch.equal(whole, self._scored(self.batch)):
            raise _Wrong(
                "answers twice differently in eval mode",
                "Draw random numbers only while self.training is true.",
            )
        self._rows_alone(whole)
        self._same_from_seed()
        self._learns(half=False)
        if self.half:
            self._learns(half=True)
        self._kept_by_its_weights()

    def _scored(self, batch: Sequence[Tensor]) -> Tensor:
        _mode(self.made, training=False)
        with torch.no_grad():
            before = [x.clone() for x in batch]
            data = self.made(*batch)
        _shape(data, self.shapes, len(batch[0]))
        if not all(map(torch.equal, before, batch)):
            raise _Wrong("changes its operand in place", "Others use it too: compute a new tensor.")
        if not bool(torch.isfinite(data).all()):
            raise _Wrong(
                "is not finite", "One row of the trial is all zeros: guard divisions, logs and roots."
            )
        return data

    def _rows_alone(self, whole: Tensor) -> None:
        for part in (slice(0, 1), slice(3, 6)):
            if not torch.allclose(
                self._scored([x[part] for x in self.batch]), whole[part], CLOSE, CLOSE / 100
            ):
                raise _Wrong(
                    "gives a row another result when other rows are scored with it",
                    "Normalise over the width (dim=-1), not over the batch (dim=0).",
                )

    def _same_from_seed(self) -> None:
        again = self.make(0)
        if isinstance(self.made, nn.Module) and isinstance(again, nn.Module):
            one, two = self.made.state_dict(), again.state_dict()
            if one.keys() != two.keys() or not all(torch.equal(one[key], two[key]) for key in one):
                raise _Wrong("starts from other weights when it is built again with the same seed")

    def _learns(self, half: bool) -> None:
        operands = [x.clone().requires_grad_() for x in self.batch]
        _mode(self.made, training=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            data = self.made(*(x * 1.0 for x in operands))  # what a layer gets is never a leaf
        mode = " with precision bfloat16" if half else ""
        if not data.requires_grad:
            raise _Wrong("returns a tensor without a gradient", "Do not detach it.")
        weighted = data.float() * torch.randn(data.shape)
        weighted.sum().backward()  # type: ignore[no-untyped-call]
        named = list(self.made.named_parameters()) if isinstance(self.made, nn.Module) else []
        gradients = {f"operand {number}": x for number, x in enumerate(operands, 1)}
        gradients |= {f"parameter {name}": p for name, p in named if p.requires_grad}
        for what, tensor in gradients.items():
            if tensor.grad is None:
                raise _Wrong(f"has no gradient for {what}{mode}", "Use it in forward, or leave it out.")
            if not bool(torch.isfinite(tensor.grad).all()):
                hint = "One row of the trial is all zeros: guard divisions, logs and roots."
                raise _Wrong(f"has a gradient for {what} that is not finite{mode}", hint)
            tensor.grad = None

    def _kept_by_its_weights(self) -> None:
        """Scoring builds the layer anew and gives it the trained weights: nothing else may matter."""
        if not isinstance(self.made, nn.Module):
            return
        again = self.make(1)
        assert isinstance(again, nn.Module)
        again.load_state_dict(self.made.state_dict())
        expected = self._scored(self.batch)
        self.made = again
        if not torch.equal(self._scored(self.batch), expected):
            raise _Wrong(
                "gives another result after its weights are loaded into a new one",
                "Keep what it needs in nn.Parameter or self.register_buffer, nothing else.",
            )


def _mode(made: Callable[..., Tensor], training: bool) -> None:
    if isinstance(made, nn.Module):
        made.train(training)


def _parameters(made: Callable[..., Tensor]) -> int:
    if not isinstance(made, nn.Module):
        return 0
    for name, tensor in made.state_dict().items():
        if not isinstance(tensor, Tensor) or tensor.device.type != "cpu" or tensor.dtype not in _KEPT:
            raise _Wrong(f"keeps {name!r}, which is not a plain tensor of float32, int64 or bool")
    for name, parameter in made.named_parameters():
        if parameter.dtype != torch.float32:
            raise _Wrong(f"has the parameter {name!r} of {parameter.dtype}", "Parameters are float32.")
    return sum(parameter.numel() for parameter in made.parameters())


def _rows(shapes: Sequence[Shape], rows: int) -> list[Tensor]:
    """Operands of some rows; the last row is all zeros, as a user without a history has it."""
    drawn = []
    generator = torch.Generator().manual_seed(len(shapes))
    for shape in shapes:
        size = (rows, shape.width) if isinstance(shape, Vector) else (rows, shape.length, shape.width)
        values = torch.randn(size, generator=generator)
        if isinstance(shape, SequenceShape):
            values[1:, (shape.length + 1) // 2 :] = 0.0  # padding
        values[-1] = 0.0
        drawn.append(values)
    return drawn


def _shape(data: Any, shapes: Sequence[Shape], rows: int) -> Shape:
    form = "forward returns a float tensor [B, v], or [B, L, v] with the L of an operand"
    if not isinstance(data, Tensor) or not data.is_floating_point():
        got = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise _Wrong(f"returns {got}", f"{form[0].upper()}{form[1:]}.")
    lengths = {shape.length for shape in shapes if isinstance(shape, SequenceShape)}
    size = tuple(data.shape)
    if len(size) == 2 and size[0] == rows and size[1]:
        return Vector(size[1])
    if len(size) == 3 and size[0] == rows and size[1] in lengths and size[2]:
        return SequenceShape(size[1], size[2])
    raise _Wrong(f"returns {list(size)} for {rows} rows", f"{form[0].upper()}{form[1:]}.")


# --------------------------------------------------------------------------- optimizers and schedules


def try_optimizer(
    name: str, build: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer], pointer: str
) -> list[Finding]:
    """Does it lower a small quadratic and leave alone what has no gradient. `pointer`: where Φ names it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            made = build([nn.Parameter(torch.zeros(2, 2))])
        except RefusedDelta as refused:
            return list(refused.findings)
        except Exception as error:
            (finding,) = failed(name, "built with these arguments", error).findings
            return [Finding(f"{pointer}/args", finding.rule, hint=finding.hint)]
        try:
            if not all("lr" in group for group in getattr(made, "param_groups", [{}])):
                raise _Wrong("has no lr in its groups", "Call super().__init__(params, dict(lr=lr, ...)).")
            # A rate too large for this quadratic may suit the network: the direction is what is tried.
            if not any(_descends(build, share) for share in (1.0, 0.1, 0.01, 0.001)):
                raise _Wrong(
                    f"does not lower a quadratic in {STEPS} steps, at this learning rate or a smaller one",
                    "Check the sign of the update; torch's optimizers subtract lr * gradient.",
                )
        except _Wrong as wrong:
            return list(_told(name, wrong).findings)
        except Exception as error:
            return list(failed(name, "step is called", error).findings)
    return []


def _descends(build: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer], share: float) -> bool:
    """50 steps on 0.05 |w - t|² from 3 t: both towards t and, for penalties, towards zero it gets smaller."""
    targets = [torch.randn(4, 3), torch.randn(3)]
    weights = [nn.Parameter(3 * target) for target in targets]
    idle = nn.Parameter(torch.ones(2, 3))
    optimizer = build([*weights, idle])
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * share

    def loss() -> Tensor:
        distances = [(w - t).square().sum() for w, t in zip(weights, targets, strict=True)]
        return 0.05 * torch.stack(distances).sum()

    before = float(loss().detach())
    for _ in range(STEPS):
        for weight in weights:
            weight.grad = None
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if not torch.equal(idle.detach(), torch.ones(2, 3)):
        raise _Wrong("moves a parameter that has no gradient", "Skip parameters whose grad is None.")
    after = float(loss().detach())
    return math.isfinite(after) and after < before


def try_schedule(name: str, function: Callable[..., Any], args: Mapping[str, Any]) -> list[Finding]:
    """Is the share of the learning rate a finite number >= 0 at each step of runs of several lengths."""
    for steps in (100, 7, 2, 1):
        shares = []
        for step in range(steps):
            try:
                share, again = function(step, steps, **args), function(step, steps, **args)
            except Exception as error:
                return list(failed(name, f"called for step {step} of {steps}", error).findings)
            if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
                rule = f"returns {share!r:.80} for step {step} of {steps}"
                wrong = _Wrong(
                    rule, "Return a Python number: the share of the learning rate, 1.0 for all of it."
                )
                return list(_told(name, wrong).findings)
            if share < 0 or share != again:
                what = "a negative share" if share < 0 else "two different shares"
                wrong = _Wrong(
                    f"returns {what} for step {step} of {steps}", "Steps count from 0 to steps - 1."
                )
                return list(_told(name, wrong).findings)
            shares.append(share)
        if not any(shares):
            wrong = _Wrong(f"is zero at every step of a run of {steps}", "Nothing would be trained.")
            return list(_told(name, wrong).findings)
    return []
