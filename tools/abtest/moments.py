"""What millions of users come down to: a count, means and covariances of a few columns per arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["COLUMNS", "LAST_COLUMNS", "Moments"]

COLUMNS = ("value", "denominator", "pre_value", "pre_denominator", "has_pre")
"""What is known of a user. A mean is a ratio whose denominator is 1 for everybody; has_pre is 1 for users
with rows in the pre-period; without any, their values of it are 0."""
LAST_COLUMNS = tuple(f"last_{name}" for name in (*COLUMNS, "exposed"))
"""The same as it was known at the look before, and whether the user was exposed by then; all 0 if not. They
follow COLUMNS where the correlation of two looks is wanted."""


@dataclass(frozen=True)
class Moments:
    """Means and sample covariances of COLUMNS, or COLUMNS + LAST_COLUMNS, over the users of an arm.

    Leading axes [...] are experiments.
    """

    n: npt.NDArray[np.float64]
    """Users [...]."""
    mean: npt.NDArray[np.float64]
    """[..., columns]."""
    cov: npt.NDArray[np.float64]
    """[..., columns, columns], with n - 1 in the denominator."""

    @classmethod
    def of(cls, users: npt.NDArray[Any]) -> Moments:
        """From a table of users [..., n, columns]."""
        users = np.asarray(users, np.float64)
        n = users.shape[-2]
        mean = users.mean(axis=-2)
        centred = users - mean[..., None, :]
        cov = np.swapaxes(centred, -1, -2) @ centred / max(n - 1, 1)
        return cls(np.full(mean.shape[:-1], float(n)), mean, cov)

    @classmethod
    def from_sums(cls, n: Any, sums: Any, products: Any) -> Moments:
        """From raw sums [..., columns] and sums of products [..., columns, columns], as other platforms
        keep."""
        n, sums, products = (np.asarray(each, np.float64) for each in (n, sums, products))
        mean = sums / np.maximum(n, 1.0)[..., None]
        outer = sums[..., :, None] * mean[..., None, :]
        return cls(n, mean, (products - outer) / np.maximum(n - 1.0, 1.0)[..., None, None])

    @property
    def now(self) -> Moments:
        """COLUMNS alone."""
        size = len(COLUMNS)
        return Moments(self.n, self.mean[..., :size], self.cov[..., :size, :size])

    @property
    def last(self) -> Moments:
        """COLUMNS as they were at the look before, over the users exposed by then."""
        size = len(COLUMNS)
        mean = self.mean[..., size : 2 * size]
        products = (self.n - 1.0)[..., None, None] * self.cov[..., size : 2 * size, size : 2 * size]
        products = products + self.n[..., None, None] * mean[..., :, None] * mean[..., None, :]
        return Moments.from_sums(self.n * self.mean[..., -1], self.n[..., None] * mean, products)
