"""Users by a formula, for comparing with tea-tasting 1.14. Run, it prints `tea_tasting.json`.

tea-tasting brings ibis and pyarrow, 400 MB, so it is no dependency, not even of development:

    python -m venv v && v/bin/pip install tea-tasting==1.14.0 && v/bin/python oracle.py > tea_tasting.json
"""

from __future__ import annotations

import numpy as np

USERS = 400


def users() -> dict[str, np.ndarray]:
    """Two arms of unlike users: visits, clicks, and the same in the pre-period."""
    i = np.arange(USERS)
    arm = (i * 31 % 7 < 3).astype(np.int64)
    keen, taste = (i * 7919 % 101) / 10.0, (i * 2741 % 29) / 29.0
    visits = 1 + np.floor(keen + (i * 1049 % 13) / 3.0)
    pre_visits = 1 + np.floor(keen + (i * 1583 % 17) / 4.0)
    clicks = np.floor(visits * (0.7 * taste + 0.3 * (i * 3571 % 37) / 37.0)) + arm * (i % 5 == 0)
    pre_clicks = np.floor(pre_visits * (0.7 * taste + 0.3 * (i * 4409 % 41) / 41.0))
    return {
        "variant": arm,
        "visits": visits,
        "clicks": clicks,
        "pre_visits": pre_visits,
        "pre_clicks": pre_clicks,
    }


if __name__ == "__main__":
    import json
    import sys

    import pyarrow
    import tea_tasting as tt

    test = tt.Experiment(
        mean=tt.Mean("clicks"),
        cuped=tt.Mean("clicks", "pre_clicks"),
        ratio=tt.RatioOfMeans("clicks", "visits"),
        ratio_cuped=tt.RatioOfMeans("clicks", "visits", "pre_clicks", "pre_visits"),
        ratio_of_sizes=tt.SampleRatio(),
    )
    found = {name: result._asdict() for name, result in test.analyze(pyarrow.table(users())).items()}
    json.dump(found, sys.stdout, indent=1)
