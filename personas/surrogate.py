"""What the journal says about Φ's nobody has tried: a small Gaussian process over knob settings.

The kernel is a sum over knobs plus their product: the sum finds what each knob does from few attempts, the
product lets good regions be more than the sum of their parts. Length scales and the share of the sum are
not tuned but drawn from their posterior, so that a draw from the process (Thompson sampling) carries that
doubt as well. Duvenaud et al., Additive Gaussian Processes, 2011; Thompson, 1933.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular

from evorank.model.system import Phi
from evorank.personas.knobs import Knob

__all__ = ["Surrogate"]

Array = npt.NDArray[np.float64]
DRAWS = 48


class Surrogate:
    """Posterior over gains given attempts. `draw` is one plausible truth at the points asked."""

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

    def draw(self, phis: Sequence[Phi]) -> Array:
        """Gains [n] of these Φ's in one function drawn from the posterior."""
        mean, deviation = self._posterior(self.encode(phis))
        return self._mean + self._scale * (mean + deviation * self._rng.standard_normal(len(phis)))

    def optimistic(self, phis: Sequence[Phi], z: float) -> Array:
        """Posterior mean plus z standard deviations, [n]."""
        mean, deviation = self._posterior(self.encode(phis))
        return self._mean + self._scale * (mean + z * deviation)

    def _kernel(self, a: Array, b: Array, scales: Array, additive: float) -> Array:
        delta = np.abs(a[:, None, :] - b[None, :, :])
        r = np.sqrt(3.0) * delta / scales
        near = np.where(self._ordered, (1 + r) * np.exp(-r), np.where(delta == 0, 1.0, np.exp(-1.0 / scales)))
        product = np.exp(np.log(np.maximum(near, 1e-12)).sum(-1))
        result: Array = additive * near.mean(-1) + (1 - additive) * product
        return result

    def _fit(self) -> None:
        options, scores = [], []
        for _ in range(DRAWS):
            scales = np.exp(self._rng.normal(np.log(0.8), 0.9, len(self._knobs)))
            additive = self._rng.uniform(0.1, 0.9)
            jitter = np.exp(self._rng.uniform(np.log(1e-3), np.log(0.1)))
            covariance = self._kernel(self._seen, self._seen, scales, additive)
            covariance[np.diag_indices_from(covariance)] += self._noise + jitter
            lower = cholesky(covariance, lower=True)
            weights = cho_solve((lower, True), self._y)
            scores.append(-0.5 * float(self._y @ weights) - float(np.log(np.diag(lower)).sum()))
            options.append((scales, additive, lower, weights))
        odds = np.exp(np.array(scores) - max(scores))
        self._scales, self._additive, self._lower, self._weights = options[
            int(self._rng.choice(len(options), p=odds / odds.sum()))
        ]

    def _posterior(self, points: Array) -> tuple[Array, Array]:
        cross = self._kernel(points, self._seen, self._scales, self._additive)
        half = solve_triangular(self._lower, cross.T, lower=True)
        variance = 1.0 - np.square(half).sum(0)
        return cross @ self._weights, np.sqrt(np.maximum(variance, 1e-9))


def _code(knob: Knob, value: Any) -> float:
    if knob.ordered:
        return knob.position(value)
    return float(knob.settings.index(value)) if value in knob.settings else -1.0
