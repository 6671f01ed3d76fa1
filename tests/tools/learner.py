"""LinearSystem that tells its progress, as its Φ says: `tells` a curve, then trains; `waits` for ever."""

from __future__ import annotations

import math
import time

from linear_system import LinearSystem

from evorank.model.progress import report

CURVES = {
    "production": lambda share: 0.6 - 0.1 * share,
    "hopeless": lambda share: 0.9 + 0.1 * share,
    "diverging": lambda share: math.nan if share > 0.3 else 0.6,
}


class Learner(LinearSystem):
    def fit(self, phi, rows, labels, seed):
        weights = super().fit(phi, rows, labels, seed)
        if phi.get("tells") == "nonsense":
            for step in range(300):
                report(-step, len(rows), math.nan)
            return weights
        curve = CURVES[phi.get("tells", "production")]
        for step in range(1, 65):
            report(len(rows) * step // 64, len(rows), curve(step / 64))
            if step == 48 and phi.get("waits"):
                time.sleep(1000)  # a training that nobody needs to wait for
        return weights
