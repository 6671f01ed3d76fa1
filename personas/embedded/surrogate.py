"""What the journal says about Φ's nobody has tried: a small Gaussian process over knob settings.

The kernel is a sum over knobs plus their product: the sum finds what each knob does from few attempts, the
product lets good regions be more than the sum of their parts. Length scales and the share of the sum are
not tuned but drawn from their posterior, with a prior under which half of the knobs hardly matter. Duvenaud
et al., Additive Gaussian Processes, 2011; Eriksson and Jankowiak, Sparse Axis-Aligned Subspaces, 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular

from evorank.model.system import Phi
from evorank.personas.embedded.knobs import Knob

__all__ = ["Surrogate"]

Array = npt.NDArray[np.float64]
DRAWS, STEPS, KEPT = 24, 60, 6
"""Draws from the prior to start from, Metropolis steps, states that predict."""


@dataclass(frozen=True)
class _Fit:
    scales: Array
    additive: float
    jitter: float
    lower: Array
    weights: Array
    score: float
    """Log likelihood of the journal, up to a constant."""


class Surrogate:
    """Posterior over gains given attempts: `noise` is the half-width of each gain's 95% interval."""

    def __init__(
        self, knobs: Sequence[Knob], phis: Sequence[Phi], gains: Array, noise: Array, rng: np.random.Generator
    ) -> None:
        self._knobs = knobs
        self._rng = rng
        self._ordered = np.array([knob.ordered for knob in knobs])
        self._seen = self.encode(phis)
        # A diverged run says "not here"; how far it diverged would only drown the differences that matter.
        spread = max(float(np.quantile(gains, 0.9) - np.median(gains)), 1e-9)
        clipped = np.maximum(gains, np.median(gains) - 4 * spread)
        self._mean, self._scale = float(clipped.mean()), max(float(clipped.std()), 1e-9)
        self._y = (clipped - self._mean) / self._scale
        self._noise = np.square(noise / 1.96 / self._scale)
        self._fit()

    def encode(self, phis: Sequence[Phi]) -> Array:
        """[n, knobs]: position of ordered settings, index of unordered ones."""
        return np.array([[_code(knob, knob.read(phi)) for knob in self._knobs] for phi in phis], dtype=float)

    def optimistic(self, phis: Sequence[Phi], z: float) -> Array:
        """Gains [n]: posterior mean plus z standard deviations, over a few plausible sets of scales."""
        points = self.encode(phis)
        means, variances = zip(*(self._posterior(points, fit) for fit in self._fits), strict=True)
        mean = np.mean(means, axis=0)
        spread = np.sqrt(np.mean(variances, axis=0) + np.var(means, axis=0))
        result: Array = self._mean + self._scale * (mean + z * spread)
        return result

    def _kernel(self, a: Array, b: Array, scales: Array, additive: float) -> Array:
        delta = np.abs(a[:, None, :] - b[None, :, :])
        r = np.sqrt(3.0) * delta / scales
        near = np.where(self._ordered, (1 + r) * np.exp(-r), np.where(delta == 0, 1.0, np.exp(-1.0 / scales)))
        product = np.exp(np.log(np.maximum(near, 1e-12)).sum(-1))
        result: Array = additive * near.mean(-1) + (1 - additive) * product
        return result

    def _fit(self) -> None:
        """Metropolis steps over the scales, from the best of a few draws; the last `KEPT` states stay."""
        state = max((self._state(*self._prior()) for _ in range(DRAWS)), key=lambda fit: fit.score)
        kept = [state]
        for _ in range(STEPS):
            scales, additive, jitter = self._prior()
            fresh = self._rng.random(len(scales)) < 2.0 / len(scales)
            keep = self._rng.random(2) < 0.7
            proposed = self._state(
                np.where(fresh, scales, state.scales),
                state.additive if keep[0] else additive,
                state.jitter if keep[1] else jitter,
            )
            # Proposals come from the prior, so that the likelihoods alone decide.
            if np.log(self._rng.random()) < proposed.score - state.score:
                state = proposed
                kept.append(state)
        self._fits = kept[-KEPT:]

    def _prior(self) -> tuple[Array, float, float]:
        """Half of the knobs matter little: their scale is several times their range."""
        count = len(self._knobs)
        scales = np.exp(self._rng.normal(np.log(0.5), 0.7, count))
        scales = np.where(self._rng.random(count) < 0.5, scales, 8.0)
        return (
            scales,
            self._rng.uniform(0.1, 0.9),
            float(np.exp(self._rng.uniform(np.log(1e-4), np.log(0.1)))),
        )

    def _state(self, scales: Array, additive: float, jitter: float) -> _Fit:
        covariance = self._kernel(self._seen, self._seen, scales, additive)
        covariance[np.diag_indices_from(covariance)] += self._noise + jitter
        lower = cholesky(covariance, lower=True, check_finite=False)
        weights = cho_solve((lower, True), self._y, check_finite=False)
        score = -0.5 * float(self._y @ weights) - float(np.log(np.diag(lower)).sum())
        return _Fit(scales, additive, jitter, lower, weights, score)

    def _posterior(self, points: Array, fit: _Fit) -> tuple[Array, Array]:
        cross = self._kernel(points, self._seen, fit.scales, fit.additive)
        half = solve_triangular(fit.lower, cross.T, lower=True)
        return cross @ fit.weights, np.maximum(1.0 - np.square(half).sum(0), 1e-9)


def _code(knob: Knob, value: Any) -> float:
    if knob.ordered:
        return knob.position(value)
    return float(knob.settings.index(value)) if value in knob.settings else -1.0
