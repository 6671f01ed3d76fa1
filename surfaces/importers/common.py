"""What every importer does: encode first, then write the surface, so that a bad log leaves no surface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evorank.model.config import default_phi
from evorank.model.data import Dataset
from evorank.model.errors import ConfigurationError, LogError
from evorank.model.logs.encode import Progress
from evorank.model.logs.spec import LogSpec
from evorank.surfaces.exploration import Exploration
from evorank.surfaces.surface import (
    Guardrail,
    NorthStar,
    Surface,
    SurfaceSpec,
    list_surfaces,
    save_surface,
    surface_folder,
)

__all__ = ["active_days", "batch_size", "find", "finish", "folder"]


def folder(path: Path, layout: str) -> Path:
    """`path` itself, or the folder of the file it names. LogError if there is neither."""
    path = Path(path).expanduser().absolute()
    if path.is_file():
        return path.parent
    if not path.is_dir():
        raise LogError(f"`path` must be the unpacked folder of {layout}, got {path}, which does not exist.")
    return path


def find(directory: Path, *patterns: str) -> list[Path]:
    """Files that match any pattern in `directory` or its folder `data`, sorted."""
    for place in (directory, directory / "data"):
        found = sorted({path for pattern in patterns for path in place.glob(pattern) if path.is_file()})
        if found:
            return found
    return []


def finish(
    home: Path,
    name: str,
    log: LogSpec,
    *,
    description: str,
    label: str,
    factors: Mapping[str, str],
    active_user: str | None = None,
    exploration: Exploration | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> Surface:
    """Encode `log`, fit batch size (and horizon) to what is in it, write surface.toml, check the label.

    `active_user`: the log's user column where active days are the north star; None = no north star.
    ConfigurationError where the surface exists already and `replace` is not set.
    """
    directory = surface_folder(Path(home).absolute(), name)
    if name in list_surfaces(home) and not replace:
        raise ConfigurationError(
            f"`name` {name!r} is a surface already; its production Φ would be overwritten. Choose "
            f"another name, or delete {directory} first."
        )
    spec = SurfaceSpec(
        name=name,
        description=description,
        log=log,
        # Generous bounds: an edit of surface.toml makes them those of your serving.
        guardrails=[
            Guardrail(metric="parameters", maximum=50_000_000),
            Guardrail(metric="latency_ms", maximum=100),
            Guardrail(metric="train_cost", maximum=3),
        ],
        exploration=exploration,
        production=default_phi(label=label, factors=dict(factors)),
    )
    dataset = Surface(spec, directory).dataset(progress)
    production = default_phi(
        label=label, factors=dict(factors), batch_size=batch_size(dataset.schema.training_rows)
    )
    north_star = active_days(active_user, _horizon(dataset)) if active_user else None
    surface = save_surface(home, spec.model_copy(update={"production": production, "north_star": north_star}))
    surface.check_label()
    return surface


def batch_size(training_rows: int) -> int:
    """The largest power of two up to 4096 that leaves at least a hundred steps in an epoch (64 at least)."""
    return int(min(4096, max(64, 2 ** int(np.log2(max(training_rows / 100, 1))))))


def active_days(user: str, horizon: int) -> NorthStar:
    """The user's active days in the following `horizon` days: SQL over any log with that user column."""
    days = f"SELECT DISTINCT {user} AS id, day FROM log"
    return NorthStar(
        name="active_days",
        description=f"Days of the following {horizon} on which the user came back (0 to {horizon})",
        sql=f"SELECT now.id, now.day, count(later.day) AS value\n"
        f"FROM ({days}) now\nLEFT JOIN ({days}) later\n"
        f"  ON later.id = now.id AND later.day > now.day AND later.day <= now.day + {horizon}\n"
        "GROUP BY now.id, now.day",
        horizon_days=horizon,
    )


def _horizon(dataset: Dataset) -> int:
    """A week where train and validation are at least three weeks long, else a fifth of them."""
    days = dataset.days(slice(0, dataset.bounds["validation"].stop))
    span = int(days[-1] - days[0]) + 1
    return 7 if span >= 21 else max(1, span // 5)
