"""compute_loss on a real log: MovieLens-100K."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest

from evorank.surfaces.importers.recbole import import_recbole
from evorank.tools.compute_loss import compute_loss
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.workbench import Workbench

DATA = Path(os.environ.get("EVORANK_DATA", Path(__file__).parents[3] / "shared" / "data")) / "ml-100k"


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason=f"no MovieLens-100K in {DATA}")
def test_a_film_log_gives_verdicts_and_too_little_training_is_stopped_early(tmp_path):
    surface = import_recbole(DATA, "films", tmp_path)
    with LocalPool(workers=2) as pool:
        bench = Workbench(surface, pool, tmp_path / "cache", seeds=2)
        phi = copy.deepcopy(bench.production)
        same = compute_loss(phi, bench)
        assert (same.verdict, same.difference) == ("equal", 0.0)
        assert 0.5 < same.production.auc < 1.0
        phi["optimizer"]["epochs"] = 0.02
        found = compute_loss(phi, bench)
        assert (found.verdict, found.seeds) == ("worse", [0])
        assert 0 < found.cpu_seconds < same.cpu_seconds
        bench.close()
