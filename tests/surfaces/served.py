"""A surface with live traffic, without a log: platforms need none. And what a conformance suite is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evorank.model.errors import PlatformError
from evorank.model.logs.spec import Categorical, LogSpec
from evorank.surfaces.online import Metric, Online
from evorank.surfaces.platform import LiveTest
from evorank.surfaces.surface import Surface, SurfaceSpec

ACTIVE = Metric(name="active_days", source="days", value="sum(active)", grain="day", success=True)
DISLIKES = Metric(
    name="dislikes",
    source="days",
    value="sum(hates)",
    denominator="sum(shown)",
    grain="day",
    higher_is_better=False,
    margin=0.3,
)


def served(directory: Path, platform: str = "warehouse", **online: Any) -> Surface:
    """The surface "shop" in `directory`; its platform is not opened."""
    spec = SurfaceSpec(
        name="shop",
        log=LogSpec(
            path="log.csv",
            user="user",
            item="item",
            time="time",
            signals=["click"],
            features=[Categorical(name="item", max_size=10)],
        ),
        online=Online.model_validate({"platform": platform, "metrics": (ACTIVE, DISLIKES)} | online),
        production={},
    )
    return Surface(spec, directory)


def no_load(artifact: Path) -> Any:
    raise PlatformError(f"nothing is scored here, not even {artifact}")


def live_test(surface: Surface, name: str = "exp-1", slot: int = 0, **changes: Any) -> LiveTest:
    assert surface.spec.online is not None
    fields = {
        "experiment_id": name,
        "layer": surface.layer,
        "slot": surface.spec.online.slot(slot),
        "seed": name,
        "coverage": 0.2,
        "control": "artifacts/production",
        "candidate": "artifacts/candidate",
    }
    return LiveTest(**fields | changes)
