"""Bounds for looking at a running test every day without being fooled by looking.

A one-sided group-sequential test: look k stops if z_k >= b_k, and the bounds are such that under the null the
probability to stop at or before look k is at most the alpha spent by then. Spending is Pocock-type in
calendar time, alpha · ln(1 + (e - 1) t) (Lan and DeMets 1983, 1989): the number of looks and their days need
not be planned, only the horizon. Only the joint law of the z matters: that of a Brownian motion observed at
information I_k, corr(z_j, z_k) = sqrt(I_j / I_k) for j <= k. The probabilities are the recursive integrals of
Armitage, McPherson and Rowe (1969), here by Gauss-Legendre quadrature (Jennison and Turnbull 2000, ch. 19).

There is no stopping for success: the north star is read once. So there is no lower bound.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NEW", "boundaries", "crossing", "pocock_spending"]

Array = npt.NDArray[np.float64]

NEW = 1.01
"""Information must grow by this factor to count as a new look; until then nothing is tested and no alpha is
spent."""
_FAR = 6.5
"""A standard normal is practically never further out (4e-11)."""


def pocock_spending(fraction: Any, alpha: float) -> Array:
    """Cumulative one-sided alpha that may be spent by the calendar fraction 0..1."""
    return np.asarray(alpha * np.log1p((math.e - 1.0) * np.clip(fraction, 0.0, 1.0)))


def boundaries(information: Any, spent: Any) -> Array:
    """Upper bounds of z [..., K] from information [..., K] and cumulative alpha `spent` [..., K] at K looks.

    inf where a look brings no new information (below NEW times the last) or has nothing to spend; what it
    does not use, the next look does. Earlier bounds do not depend on later looks.
    """
    information, spent = np.broadcast_arrays(np.asarray(information, np.float64), spent)
    shape = information.shape
    walk = _Walk(math.prod(shape[:-1]))
    bounds = np.full((walk.size, shape[-1]), np.inf)
    used = np.zeros(walk.size)
    for k, (now, budget) in enumerate(
        zip(information.reshape(-1, shape[-1]).T, spent.reshape(-1, shape[-1]).T, strict=True)
    ):
        fresh = np.isfinite(now) & (now > NEW * walk.information) & (budget > used * (1.0 + 1e-9))
        if fresh.any():
            # Others get an information that has an answer: one that has none would keep all of them waiting.
            asked = np.where(fresh, now, walk.information + 1.0)
            bound = walk.solve(asked, np.where(fresh, budget - used, 0.5))
            bounds[fresh, k] = bound[fresh]
            used[fresh] = budget[fresh]
            walk.step(now, bound, fresh)
    return bounds.reshape(shape)


def crossing(information: Any, bounds: Any, drift: float = 0.0) -> Array:
    """Probability to cross first at each look [..., K], where E z_k = drift · sqrt(information_k).

    Sum over the last axis: size of the test for drift 0, power else.
    """
    information, bounds = np.broadcast_arrays(np.asarray(information, np.float64), bounds)
    shape = information.shape
    walk = _Walk(math.prod(shape[:-1]), drift)
    found = np.zeros((walk.size, shape[-1]))
    every = np.ones(walk.size, dtype=bool)
    for k, (now, bound) in enumerate(
        zip(information.reshape(-1, shape[-1]).T, bounds.reshape(-1, shape[-1]).T, strict=True)
    ):
        if not (now > walk.information).all():
            raise ValueError("`information` must grow from look to look")
        found[:, k] = walk.tail(now, bound)[0]
        walk.step(now, bound, every)
    return found.reshape(shape)


class _Walk:
    """Sub-density of z at the last look of those that have not stopped, on quadrature nodes; many walks at
    once."""

    def __init__(self, size: int, drift: float = 0.0) -> None:
        self.size, self.drift = size, drift
        self.information = np.zeros(size)
        # At information 0 everything is at z = 0.
        self.nodes, self.mass = np.zeros((size, 1)), np.ones((size, 1))

    def _standard(self, now: Array, z: Array) -> tuple[Array, Array]:
        """How far, in its own errors, the step from each node to z [size, points] is; and d of it / dz
        [size, 1]."""
        grown = np.maximum(now - self.information, 1e-300)[:, None]
        slope = np.sqrt(now[:, None] / grown)
        here = np.sqrt(self.information[:, None] / grown) * self.nodes + self.drift * np.sqrt(grown)
        return (slope * z)[:, :, None] - here[:, None, :], slope

    def tail(self, now: Array, bound: Array) -> tuple[Array, Array]:
        """P(not stopped before, z_now >= bound), and minus its derivative with respect to the bound
        [size]."""
        from scipy.special import ndtr

        far, slope = self._standard(now, bound[:, None])
        density = slope * np.exp(-0.5 * far[:, 0] ** 2) / math.sqrt(2.0 * math.pi)
        return (ndtr(-far[:, 0]) * self.mass).sum(axis=1), (density * self.mass).sum(axis=1)

    def solve(self, now: Array, probability: Array) -> Array:
        """The bound that is crossed with this probability.

        Newton on the logarithm of the tail. The tail of a log-concave density is log-concave, so from its
        second iterate on Newton comes from the right and cannot overshoot.
        """
        bound = np.full(self.size, 2.5)
        for _ in range(100):
            tail, density = self.tail(now, bound)
            held = np.maximum(tail, 1e-300)
            step = np.log(held / probability) * held / np.maximum(density, 1e-300)
            bound = np.clip(bound + step, -_FAR, 12.0)
            if np.max(np.abs(step)) < 1e-10:
                break
        return bound

    def step(self, now: Array, bound: Array, fresh: npt.NDArray[np.bool_]) -> None:
        """Go on to the look at information `now`, without those that crossed; only where `fresh`."""
        mean = self.drift * np.sqrt(np.where(fresh, now, 1.0))
        low, high = np.minimum(mean, bound) - _FAR, np.minimum(bound, mean + _FAR)
        # The kernel's width in z must be resolved: nodes no further apart than about one width.
        width = np.sqrt(np.maximum(now - self.information, 0.0)[fresh] / now[fresh]).min()
        points = 24 + math.ceil(1.6 * float((high - low)[fresh].max()) / width)
        abscissae, weights = _quadrature(points)
        half = 0.5 * (high - low)[:, None]
        nodes = low[:, None] + half * (abscissae + 1.0)
        safe = np.where(fresh, now, self.information + 1.0)
        mass = np.empty_like(nodes)
        for rows in np.array_split(np.arange(self.size), max(1, self.size * points**2 // 20_000_000)):
            part = _Walk(len(rows), self.drift)
            part.information, part.nodes, part.mass = (
                self.information[rows],
                self.nodes[rows],
                self.mass[rows],
            )
            kernel, slope = part._standard(safe[rows], nodes[rows])
            np.exp(np.multiply(np.square(kernel, out=kernel), -0.5, out=kernel), out=kernel)
            density = (kernel @ part.mass[:, :, None])[:, :, 0] * (slope / math.sqrt(2.0 * math.pi))
            mass[rows] = density * half[rows] * weights
        if fresh.all():
            self.nodes, self.mass = nodes, mass
        else:
            self._keep(nodes, mass, fresh)
        self.information = np.where(fresh, now, self.information)

    def _keep(self, nodes: Array, mass: Array, fresh: npt.NDArray[np.bool_]) -> None:
        """New nodes where fresh, the old ones elsewhere; a node without mass pads the shorter of the two."""
        points = max(nodes.shape[1], self.nodes.shape[1])
        pad = [
            np.pad(each, ((0, 0), (0, points - each.shape[1])))
            for each in (nodes, mass, self.nodes, self.mass)
        ]
        self.nodes = np.where(fresh[:, None], pad[0], pad[2])
        self.mass = np.where(fresh[:, None], pad[1], pad[3])


@cache
def _quadrature(points: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss and Legendre on (-1, 1)."""
    return np.polynomial.legendre.leggauss(points)
