"""The rule that gives trainings up, on curves whose end is known."""

from __future__ import annotations

import math
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evorank.tools.evaluator.curves import (
    REGION,
    SLOTS,
    Curve,
    Writer,
    clearly_worse,
    of_points,
    read,
)

ROWS = 100_000


def curve(loss, planned=ROWS, upto=1.0, reports=64, noise=0.0, seed=0):
    """`loss(share of the plan, rows seen)` at `reports` points, as far as `upto`."""
    rng = np.random.default_rng(seed)
    points = []
    for number in range(1, int(reports * upto) + 1):
        share = number / reports
        points.append((int(planned * share), loss(share, planned * share) * (1 + noise * rng.normal())))
    return Curve(tuple(points), planned)


def falling(share, rows, floor=0.55, start=0.14):
    """A log-loss that falls as a power of the rows seen: from ln 2 to `floor`."""
    return floor + start * (1 + rows / 2_000) ** -0.5


PRODUCTION = curve(falling, noise=0.005)

USEFUL = {
    "better": lambda share, rows: falling(share, rows) - 0.01,
    "the same": falling,
    "dropout": lambda share, rows: 1.04 * falling(share, rows),
    "warm-up over half of the training": lambda share, rows: falling(share, max(0.0, share - 0.4) * rows),
    "a large step that is annealed": lambda share, rows: falling(share, rows) * (1.15 - 0.16 * share),
    "a step decayed at the end": lambda share, rows: falling(share, rows) * (1.04 if share < 0.9 else 0.99),
    "noisy": lambda share, rows: falling(share, rows) * (1 + 0.03 * math.sin(40 * share)),
}
HOPELESS = {
    "learns nothing": lambda share, rows: 0.693,
    "learns the wrong way": lambda share, rows: falling(share, rows) * (1 + 0.5 * share),
    "far above and parallel": lambda share, rows: 1.2 * falling(share, rows),
    "closes the gap far too slowly": lambda share, rows: falling(share, rows) * (1.3 - 0.05 * share),
}


@pytest.mark.parametrize("name", USEFUL)
@pytest.mark.parametrize("seed", range(5))
def test_no_useful_training_is_given_up_at_any_moment(name, seed):
    for done in range(1, 65):
        running = curve(USEFUL[name], upto=done / 64, noise=0.005, seed=seed)
        assert clearly_worse(running, PRODUCTION, ROWS) is None, (name, done)


@pytest.mark.parametrize("name", HOPELESS)
def test_a_hopeless_training_is_given_up_in_the_second_half_and_not_before(name):
    verdicts = [
        clearly_worse(curve(HOPELESS[name], upto=done / 64, noise=0.005, seed=1), PRODUCTION, ROWS)
        for done in range(1, 65)
    ]
    assert not any(verdicts[:31])
    assert verdicts[48]
    assert "of the training: over its last" in verdicts[48]
    assert "production's over the same rows" in verdicts[48]


def test_a_loss_that_is_not_finite_ends_it_at_once_and_names_the_row():
    for value in (math.nan, math.inf):
        said = clearly_worse(written([(1000, ROWS, 0.7), (2000, ROWS, value)]), PRODUCTION, ROWS)
        assert said.startswith("after 2% of the training: the loss diverged at row 2,000.")
        assert "learning rate" in said


def test_rows_that_were_seen_before_tell_nothing():
    """Production learns its rows by heart in later passes; what does not is worse there and may be better."""
    by_heart = curve(lambda share, rows: 0.6 if rows <= ROWS else 0.2, planned=4 * ROWS)
    honest = lambda share, rows: 0.6  # noqa: E731
    for upto in (0.5, 0.75, 1.0):
        assert clearly_worse(curve(honest, planned=4 * ROWS, upto=upto), by_heart, ROWS) is None


def test_only_rows_that_both_have_seen_are_compared():
    quarter = curve(falling, planned=ROWS // 4)
    longer = curve(HOPELESS["learns nothing"])
    assert clearly_worse(longer, quarter, ROWS) is None
    assert clearly_worse(curve(HOPELESS["learns nothing"], planned=ROWS // 4), PRODUCTION, ROWS) is not None
    assert clearly_worse(longer, Curve(), ROWS) is None
    assert clearly_worse(Curve(), PRODUCTION, ROWS) is None


def test_few_reports_mean_nothing():
    assert clearly_worse(curve(lambda share, rows: 9.0, reports=8), PRODUCTION, ROWS) is None


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_mean_over_a_stretch_is_that_of_its_parts(one, other):
    cut, stop = sorted((one * PRODUCTION.rows, other * PRODUCTION.rows))
    if 0 < cut < stop:
        whole = PRODUCTION.mean(0, stop) * stop
        parts = PRODUCTION.mean(0, cut) * cut + PRODUCTION.mean(cut, stop) * (stop - cut)
        assert whole == pytest.approx(parts)


def written(reports):
    region = mmap.mmap(-1, REGION)
    write = Writer(region)
    for report in reports:
        write(*report)
    return read(region[:])


def test_what_a_training_reports_is_read_back_and_never_overruns_its_memory():
    reports = [(10 * n, 10 * 10 * SLOTS, 0.7 - n * 1e-4) for n in range(1, 10 * SLOTS)]
    found = written(reports)
    assert len(found.points) == SLOTS
    assert found.points[:2] == ((10, 0.6999), (20, 0.6998))
    assert found.planned == 100 * SLOTS
    assert of_points(found.points).points == found.points


@pytest.mark.parametrize(
    "bad",
    [
        (0, 100, 0.5),
        (-5, 100, 0.5),
        (math.nan, 100, 0.5),
        (math.inf, math.inf, 0.5),
        (10, math.nan, 0.5),
        (200, 100, 0.5),
        (5, 100, 0.5),
        (1e300, 1e300, 0.5),
    ],
)
def test_reports_that_make_no_sense_end_the_curve(bad):
    assert written([(5, 100, 0.7), bad, (20, 100, 0.6)]).points == ((5, 0.7),)


@given(st.binary(max_size=2 * REGION))
def test_any_bytes_are_a_curve(content):
    content = content[: len(content) // 24 * 24]
    found = read(content)
    rows = [each for each, _ in found.points]
    assert rows == sorted(set(rows))
    assert all(math.isfinite(loss) for _, loss in found.points)
    said = clearly_worse(found, PRODUCTION, ROWS)
    assert said is None or said.startswith("after ")
    assert clearly_worse(PRODUCTION, found, ROWS) is None or found.rows >= PRODUCTION.rows
