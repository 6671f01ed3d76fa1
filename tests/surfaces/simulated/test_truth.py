"""The world knows which ranker is better, and by how much."""

from __future__ import annotations

from pathlib import Path

import pytest
from lived import Table, artifact, digest, made

from evorank.model.errors import PlatformError
from evorank.surfaces.simulated.truth import true_lift


@pytest.fixture(scope="module")
def surface(tmp_path_factory):
    return made(tmp_path_factory.mktemp("truth"), users=300, days=9)


def test_a_better_ranker_is_better_for_people_it_never_met_and_nothing_is_written(surface):
    before, opened = digest(surface), len(Table.opened)
    baity, joyful = (Path(artifact(surface, name)) for name in ("baity", "joyful"))
    found = true_lift(surface, Table, baity, joyful, users=600, days=7)
    assert found.low > 0.05
    assert found.low < found.lift < found.high
    assert found.candidate == pytest.approx(found.control * (1 + found.lift))
    back = true_lift(surface, Table, joyful, baity, users=600, days=7)
    assert back.lift == pytest.approx(1 / (1 + found.lift) - 1)
    assert len(Table.opened) == opened + 4
    assert all(table.closed for table in Table.opened[opened:])
    assert digest(surface) == before


def test_the_same_ranker_makes_no_difference_at_all(surface):
    twins = (Path(artifact(surface, name)) for name in ("baity", "again"))
    found = true_lift(surface, Table, *twins, users=300, days=4, exploration=0.1)
    assert (found.lift, found.low, found.high) == (0, 0, 0)
    assert true_lift(surface, Table, None, None, users=300, days=2).lift == 0


def test_what_cannot_be_served_is_refused(surface, tmp_path):
    with pytest.raises(PlatformError, match="no artifact"):
        true_lift(surface, Table, tmp_path / "none", None, users=300, days=1)
