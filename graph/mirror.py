"""mirror: runs, attempts, live tests and launches as an MLflow tracking server shows them (extra `mlflow`).

The journal is the truth and this a copy of it: after every step the two are compared, and what is missing
or has moved on is written. So whatever a crash, another process or a server that was down has left out comes
with the next step, and nothing is there twice: all that is written has the id of what it shows as a tag.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from evorank.graph.journal import Journal
from evorank.graph.pages import Page, attempt_page, experiment_page, run_page
from evorank.model.errors import ConfigurationError
from evorank.surfaces.surface import alone
from evorank.tools.events import Event

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # its makers' own, which nobody asked for
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # the run waits for it
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # that is ours: `--json`

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

__all__ = ["Mirror"]

AFTER = frozenset(("dispatch", "record", "online", "finish"))
"""Nodes after which there may be something new; and all that move a live test."""
PAUSE_SECONDS = 60.0
"""After a failure."""
logger = logging.getLogger("evorank")


class Mirror:
    """Mirrors one surface's part of a journal. Safe to share between threads; processes take turns.

    `uri`: a tracking server or database; default: MLFLOW_TRACKING_URI. ConfigurationError: neither is given.
    """

    def __init__(self, journal: Journal, surface: str, home: Path, uri: str | None = None) -> None:
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise ConfigurationError(
                "`trackers` names mlflow, and nothing says where to. Set MLFLOW_TRACKING_URI, such as "
                "http://127.0.0.1:5000 or sqlite:////srv/mlflow.db."
            )
        self.journal, self.surface, self.home = journal, surface, home
        self._client = MlflowClient(tracking_uri=uri)
        self._lock = threading.Lock()
        self._experiment = ""
        self._known: dict[str, tuple[str, str]] = {}
        """What is there: id -> MLflow's run, and the state that it shows."""
        self._runs: set[str] = set()
        """Runs of evorank that this process works on."""
        self._ended: set[str] = set()
        self._heard = False
        self._not_before = 0.0

    def __call__(self, event: Event) -> None:
        moved = event.name in AFTER or "experiment" in event.facts
        if event.kind != "end" or event.what != "node" or not moved:
            return
        with self._lock:
            self._heard = True
            if run := event.facts.get("run"):
                self._runs.add(run)
                if event.name == "finish":
                    self._ended.add(run)
                else:
                    self._ended.discard(run)
            if event.name == "finish" or time.monotonic() >= self._not_before:
                self._try()

    def close(self) -> None:
        """A last look: what the last node did is in the journal by now, and a server may be up again."""
        with self._lock:
            if self._heard:
                self._try()

    def _try(self) -> None:
        try:
            self.sync()
        except Exception as error:  # whatever an HTTP client raises: a mirror must never stop a run
            self._not_before = time.monotonic() + PAUSE_SECONDS
            logger.warning("MLflow could not be written and is tried again later: %s", error)
        else:
            self._not_before = 0.0

    def sync(self) -> None:
        """Write what is missing: of this process's runs, and of the surface's live tests."""
        with alone(self.home / "mlflow.lock"):
            if not self._experiment:
                self._experiment = self._open()
                self._load("`evorank.kind` = 'experiment'")
            for run in sorted(self._runs):
                page = f"run/{run}"
                if page not in self._known:
                    self._load(f"`evorank.run` = '{run}'")
                attempts = self.journal.attempts(surface=self.surface, run=run)
                ended = run in self._ended
                state = f"{len(attempts)}, {'ended' if ended else 'under way'}"
                self._put(page, state, partial(run_page, run, attempts, self.home, ended))
                for attempt in attempts:
                    self._put(attempt.id, attempt.outcome, partial(attempt_page, attempt), page)
            for experiment in self.journal.experiments(self.surface):
                state = f"{experiment.phase}, {experiment.result}, {len(experiment.readings)} readings"
                page = f"run/{experiment.run}" if experiment.run else ""
                self._put(experiment.id, state, partial(experiment_page, experiment), page)

    def _open(self) -> str:
        name = f"evorank/{self.surface}"
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _load(self, condition: str) -> None:
        """What is there of one kind, or of one run."""
        token: str | None = None
        while True:
            found = self._client.search_runs(
                [self._experiment], f"tags.{condition}", max_results=1000, page_token=token
            )
            for each in found:
                tags = each.data.tags
                self._known[tags["evorank.id"]] = (each.info.run_id, tags.get("evorank.state", ""))
            token = found.token
            if not token:
                return

    def _put(self, identifier: str, state: str, make: Callable[[], Page], inside: str = "") -> None:
        """Make a page or bring it up to date; its state comes last, so that half of one is written again."""
        run_id, shown = self._known.get(identifier, ("", ""))
        if shown == state:
            return
        page = make()
        if not run_id:
            tags = {"evorank.id": identifier, "evorank.kind": page.kind, "evorank.run": page.run}
            tags["mlflow.runName"] = page.name
            if parent := self._parent(inside):
                tags["mlflow.parentRunId"] = parent
            made = self._client.create_run(self._experiment, start_time=page.begun, tags=tags)
            run_id = made.info.run_id
            self._known[identifier] = (run_id, "")
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, page.at, page.step) for name, value in page.metrics.items()],
            params=[Param(name, value) for name, value in page.params.items()],
            tags=[RunTag(name, value) for name, value in page.tags.items()],
        )
        self._client.log_text(run_id, page.text, page.file)
        if page.status:
            self._client.set_terminated(run_id, page.status, page.at)
        self._client.set_tag(run_id, "evorank.state", state)
        self._known[identifier] = (run_id, state)

    def _parent(self, inside: str) -> Any:
        if inside and inside not in self._known:
            self._load(f"`evorank.id` = '{inside}'")
        return self._known.get(inside, ("", ""))[0]
