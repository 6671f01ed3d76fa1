"""The simulated surface, so small that a training takes milliseconds, and a way to watch trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_log import generate, small_spec

from evorank.model.logs import sources
from evorank.surfaces.importers.common import active_days
from evorank.surfaces.surface import Surface, save_surface
from evorank.tools.evaluator.executor import Job


def make_surface(home: Path, users: int = 60, **fields: Any) -> Surface:
    """Surface "tiny" under `home`, about 120 impressions a user, already encoded. `fields`: of its spec."""
    directory = home / "surfaces" / "tiny"
    directory.mkdir(parents=True)
    log = generate(users=users, items=120, days=24)
    with sources.connect() as connection:
        connection.register("generated", log)
        connection.execute(f"COPY generated TO '{directory / 'log.parquet'}' (FORMAT parquet)")
    spec = small_spec(len(log["click"]))
    # A horizon of one day, because the validation period of so short a log is three days.
    spec = spec.model_copy(update={"name": "tiny", "north_star": active_days("user_id", 1)} | fields)
    spec.production["architecture"]["layers"] = {
        "h1": "relu(dense(inputs, 8))",
        "h2": "relu(dense(h1, 8))",
        "output": "layer_norm(h2)",
    }
    spec.production["architecture"]["embedding_dim"] = 4
    surface = save_surface(home, spec)
    surface.dataset()
    return surface


class Watched:
    """An executor that writes down every training before it hands it to the real one, and may refuse."""

    def __init__(self, executor: Any, file: Path | None = None) -> None:
        self.executor, self.file = executor, file
        self.trained: list[float] = []
        """Learning rate of every training submitted."""
        self.refuse: Exception | None = None

    def submit(self, job: Job) -> str:
        rate = job.phi["optimizer"]["args"]["lr"]
        self.trained.append(rate)
        if self.file is not None:
            with self.file.open("a") as lines:
                lines.write(f"{rate}\n")
        if self.refuse is not None:
            raise self.refuse
        return self.executor.submit(job)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.executor, name)
