"""What a surface serves, and all that it served before: every launch and every rollback is a version.

The platform is told of a version after it is here, by its number: a crash between the two is mended by
telling it again.
"""

from __future__ import annotations

import json
from datetime import datetime
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
    """The trained model's folder, as it was given."""
    experiment: str | None
    """Which experiment it came from; None: none."""
    why: str
    at: datetime
    """Wall clock, UTC."""


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

    def rollback(self, to: int, by: str, reason: str) -> Version:
        """A new version with the Φ and the artifact of an earlier one. ConfigurationError: no such version,
        or it is what is served already."""
        with self.store.transaction() as access:
            versions = self._versions(access)
            old = next((version for version in versions if version.version == to), None)
            if old is None:
                raise ConfigurationError(f"`to` must be a version of 1..{len(versions)}, got {to}.")
            now = versions[-1]
            if (now.fingerprint, now.artifact) == (old.fingerprint, old.artifact):
                raise ConfigurationError(
                    f"version {now.version} serves the Φ of version {to} already; nothing was changed."
                )
            why = f"rollback to version {to} by {by}: {reason}"
            key = f"rollback/{now.version + 1}"
            return self._launch(access, old.phi, old.artifact, old.experiment, why, key)

    def _versions(self, access: Access) -> list[Version]:
        rows = access.execute(
            "SELECT version, phi, fingerprint, artifact, experiment, why, at FROM evorank_versions"
            " WHERE surface = ? ORDER BY version",
            self.surface,
        )
        named = (dict(zip(Version.model_fields, row, strict=True)) for row in rows)
        return [Version(**(fields | {"phi": json.loads(fields["phi"])})) for fields in named]

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
