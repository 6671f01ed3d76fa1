"""The `[online]` section: coherent, readable, and slots that never overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evorank.model.errors import ConfigurationError
from evorank.model.logs.spec import Categorical, LogSpec
from evorank.surfaces.assignment import HashAssigner, hash_v2
from evorank.surfaces.online import Metric, Online
from evorank.surfaces.platform import LiveTest, open_platform
from evorank.surfaces.surface import SurfaceSpec, open_surface, save_surface

DAYS = Metric(name="days", source="days", value="sum(active)", grain="day", success=True)
HATES = Metric(
    name="hates",
    source="(SELECT * FROM days WHERE note <> 'it''s')",
    value="sum(hates)",
    denominator="sum(impressions)",
    higher_is_better=False,
    margin=0.1,
)


def spec_of(online: Online | None) -> SurfaceSpec:
    log = LogSpec(
        path="log.csv", user="u", item="i", time="t", signals=["c"], features=[Categorical(name="i")]
    )
    return SurfaceSpec(name="shop", log=log, production={}, online=online)


def test_the_section_is_read_back_as_it_was_written(tmp_path):
    options = {"exposures": "read_parquet('a.parquet')", "retries": 3, "nested": {"a": [1, 2]}}
    online = Online(
        platform="shop.ab:Ours", options=options, metrics=(DAYS, HATES), slots=2, ramp=(0.1, 0.5, 1.0)
    )
    saved = save_surface(tmp_path, spec_of(online))
    assert saved.spec.online == online
    lines = (saved.directory / "surface.toml").read_text().splitlines()
    assert lines[lines.index("[online]") - 1].startswith("# ")
    assert lines.count("[[online.metrics]]") == 2
    bare = Online(metrics=(DAYS,))
    assert save_surface(tmp_path, spec_of(bare)).spec.online == bare


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metrics": (HATES,)}, "success = true"),
        ({"metrics": (DAYS, DAYS)}, "must differ"),
        ({"metrics": ()}, "success = true"),
        ({"ramp": (0.5, 0.2)}, "must rise"),
        ({"ramp": (0.0, 1.0)}, "must rise"),
        ({"ramp": (0.5, 1.1)}, "must rise"),
        ({"horizon_days": 10}, "multiple of 7"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(change, told):
    with pytest.raises(ValidationError, match=told):
        Online(**({"metrics": (DAYS,)} | change))


@given(holdback=st.floats(0, 0.5), slots=st.integers(1, 20))
def test_slots_and_holdback_divide_the_layer_without_gap_or_overlap(holdback, slots):
    online = Online(metrics=(DAYS,), holdback=holdback, slots=slots)
    bounds = [online.slot(number) for number in range(slots)]
    assert bounds[0][0] == holdback
    assert bounds[-1][1] == pytest.approx(1.0)
    assert bounds[-1][1] <= 1.0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    assert np.allclose([high - low for low, high in bounds], (1 - holdback) / slots)
    with pytest.raises(ValueError, match="number"):
        online.slot(slots)


def test_a_live_test_covers_its_share_of_its_slot_and_nobody_else():
    online = Online(metrics=(DAYS,), slots=2, holdback=0.1)
    test = LiveTest(
        experiment_id="e",
        layer="shop",
        slot=online.slot(1),
        seed="s",
        coverage=0.4,
        control="a",
        candidate="b",
    )
    users = np.arange(50_000)
    arms = HashAssigner().assign(test.allocation(), users)
    place = hash_v2("shop", users)
    assert set(arms) == {-1, 0, 1}
    assert place[arms >= 0].min() >= 0.55
    assert np.mean(arms >= 0) == pytest.approx(0.45 * 0.4, abs=0.01)
    assert np.mean(HashAssigner().assign(test.allocation(1.0), users) == 1) == pytest.approx(0.225, abs=0.01)
    with pytest.raises(ValidationError, match="must differ"):
        test.model_validate(test.model_dump() | {"seed": "shop"})


def test_ramps_stay_at_their_last_coverage():
    online = Online(metrics=(DAYS,), ramp=(0.1, 0.5))
    assert [online.coverage(day) for day in range(4)] == [0.1, 0.5, 0.5, 0.5]


def test_a_surface_without_live_traffic_says_so(tmp_path):
    surface = save_surface(tmp_path, spec_of(None))
    with pytest.raises(ConfigurationError, match=r"no live traffic.*\[online\]"):
        open_platform(surface, lambda artifact: pytest.fail("nothing is loaded"))


def test_a_platform_of_ones_own_is_built_from_the_surface(tmp_path, monkeypatch):
    (tmp_path / "our_platform.py").write_text(
        "class Ours:\n    def __init__(self, surface, load):\n        self.built = surface.name, load\n"
    )
    monkeypatch.chdir(tmp_path)
    save_surface(tmp_path, spec_of(Online(platform="our_platform:Ours", metrics=(DAYS,))))
    assert open_platform(open_surface(tmp_path, "shop"), print).built == ("shop", print)
    save_surface(tmp_path, spec_of(Online(platform="our_platform:Theirs", metrics=(DAYS,))))
    with pytest.raises(ConfigurationError, match=r"online.platform 'our_platform:Theirs'.*no class"):
        open_platform(open_surface(tmp_path, "shop"), print)
