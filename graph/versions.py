"""What a surface serves, and all that it served before: every launch and every rollback is a version.

A version is a Φ. Trained again on a newer log it is the same version with another model. The platform is told
of either after it is here, by the version's number: a crash between the two is mended by telling it again.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from evorank.graph.store import Access, Store
from evorank.model.delta import fingerprint
from evorank.model.errors import ConfigurationError

__all__ = ["Version", "Versions"]


class Version(BaseModel):
    """A version of a surface's production. They are never changed; a rollback is a new one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int
    """From 1."""
    phi: dict[str, Any]
    fingerprint: str
    artifact: str
    """The folder of the model that it was launched with, as it was given."""
    experiment: str | None
    """Which experiment it came from; None: none."""
    why: str
    at: datetime
    """Wall clock, UTC."""
    serving: str
    """The folder of its newest model."""
    trained: datetime | None
    """When that was trained, in the surface's time; None: it is the one that it was launched with."""


class Versions:
    """The versions of one surface's production. Safe to share between threads; processes share the store."""

    def __init__(self, store: Store, surface: str) -> None:
        self.store = store
        self.surface = surface

    def versions(self) -> list[Version]:
        """Every version that this surface served, oldest first."""
        with self.store.reading() as access:
            return self._versions(access)

    def current(self) -> Version | None:
        """What the surface serves; None: nothing was launched yet."""
        return next(reversed(self.versions()), None)

    def launch(
        self, *, phi: dict[str, Any], artifact: str, experiment: str | None, why: str, key: str
    ) -> Version:
        """Make Φ the newest version of production. The same `key` again gives the version that it made."""
        with self.store.transaction() as access:
            return self._launch(access, phi, artifact, experiment, why, key)

    def launch_over(
        self, before: str, *, phi: dict[str, Any], artifact: str, experiment: str, why: str, key: str
    ) -> Version | None:
        """The same, if production is still the Φ with the fingerprint `before`; None where it is another:
        of two winners that were compared with one production, one is launched."""
        with self.store.transaction() as access:
            made = access.execute(
                "SELECT version FROM evorank_versions WHERE surface = ? AND idempotency_key = ?",
                *(self.surface, key),
            )
            versions = self._versions(access)
            if not made and versions and versions[-1].fingerprint != before:
                return None
            return self._launch(access, phi, artifact, experiment, why, key)

    def trained(self, version: int, artifact: str, at: datetime) -> None:
        """A version's Φ was trained again: from now on this model of it serves. `at`: in the surface's time.
        Whoever comes late with a model of an earlier time changes nothing."""
        with self.store.transaction() as access:
            access.execute(
                "INSERT INTO evorank_models (surface, version, artifact, trained, number)"
                " SELECT ?, ?, ?, ?, coalesce(max(number), 0) + 1 FROM evorank_models"
                " WHERE surface = ? ON CONFLICT (surface, version, artifact) DO UPDATE"
                " SET trained = excluded.trained, number = excluded.number"
                " WHERE excluded.trained >= evorank_models.trained",
                *(self.surface, version, artifact, at.astimezone(UTC).isoformat(), self.surface),
            )

    def rollback(self, to: int, by: str, reason: str) -> Version:
        """A new version with the Φ of an earlier one and its newest model. ConfigurationError: no such
        version, or it is what is served already."""
        with self.store.transaction() as access:
            versions = self._versions(access)
            old = next((version for version in versions if version.version == to), None)
            if old is None:
                raise ConfigurationError(f"`to` must be a version of 1..{len(versions)}, got {to}.")
            now = versions[-1]
            if now.fingerprint == old.fingerprint:
                raise ConfigurationError(
                    f"version {now.version} serves the Φ of version {to} already; nothing was changed."
                )
            why = f"rollback to version {to} by {by}: {reason}"
            key = f"rollback/{now.version + 1}"
            return self._launch(access, old.phi, old.serving, old.experiment, why, key)

    def _versions(self, access: Access) -> list[Version]:
        rows = access.execute(
            "SELECT version, phi, fingerprint, artifact, experiment, why, at FROM evorank_versions"
            " WHERE surface = ? ORDER BY version",
            self.surface,
        )
        models = access.execute(
            "SELECT version, artifact, trained FROM evorank_models WHERE surface = ?"
            " ORDER BY trained, number",
            self.surface,
        )
        newest = {version: (artifact, trained) for version, artifact, trained in models}
        found = []
        for row in rows:
            number, phi, mark, artifact, experiment, why, at = row
            serving, trained = newest.get(number, (artifact, None))
            found.append(
                Version(
                    version=number,
                    phi=json.loads(phi),
                    fingerprint=mark,
                    artifact=artifact,
                    experiment=experiment,
                    why=why,
                    at=at,
                    serving=serving,
                    trained=trained,
                )
            )
        return found

    def _launch(
        self, access: Access, phi: dict[str, Any], artifact: str, experiment: str | None, why: str, key: str
    ) -> Version:
        mark = fingerprint(phi)
        access.execute(
            "INSERT INTO evorank_versions"
            " (surface, version, idempotency_key, phi, fingerprint, artifact, experiment, why, at)"
            " SELECT ?, coalesce(max(version), 0) + 1, ?, ?, ?, ?, ?, ?, ? FROM evorank_versions"
            " WHERE surface = ? ON CONFLICT (surface, idempotency_key) DO NOTHING",
            *(self.surface, key, json.dumps(phi), mark, artifact, experiment, why, access.stamp),
            self.surface,
        )
        rows = access.execute(
            "SELECT version FROM evorank_versions WHERE surface = ? AND idempotency_key = ?",
            self.surface,
            key,
        )
        made = self._versions(access)[int(rows[0][0]) - 1]
        if made.fingerprint != mark:
            raise ConfigurationError(
                f"launch `{key}` made version {made.version} with another Φ before "
                f"({made.fingerprint[:12]}, now {mark[:12]}). Nothing was launched."
            )
        return made
