"""artifact: a trained candidate as a folder that can be copied, checked and served.

    phi.json              the whole Φ, components included    schema.json    what it knows of a log
    weights.safetensors   trained arrays                      manifest.json  whose it is, SHA-256 of each file

Written by the trusted parent. It is loaded for scoring inside the evaluator only (`LocalPool.scorer`),
because Φ may hold code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evorank.model.errors import ConfigurationError
from evorank.model.system import LogSchema, Loss, Phi
from evorank.tools.evaluator.blocks import CHUNK, memory_file, schema_as_json, schema_from_json, seal

__all__ = ["Artifact", "export_artifact"]

FORMAT = 1
FILES = ("phi.json", "schema.json", "weights.safetensors")


@dataclass(frozen=True)
class Artifact:
    """An exported candidate whose files are what they were when it was written."""

    directory: Path
    system: str
    """`module:Class` of the RankingSystem."""
    production: Phi
    """The Φ that the system was built with."""
    phi: Phi
    schema: LogSchema
    loss: Loss
    data: str
    """Data version it was trained on."""
    seed: int
    files: Mapping[str, str]
    """File -> SHA-256."""

    @classmethod
    def open(cls, directory: Path) -> Artifact:
        """Read and verify a folder. ConfigurationError names the file that is missing or was changed."""
        directory = Path(directory)
        manifest = _read(directory / "manifest.json")
        try:
            if manifest["format"] != FORMAT:
                raise ConfigurationError(
                    f"{directory} has format {manifest['format']}, this version reads {FORMAT}. Export again."
                )
            files = {name: str(manifest["files"][name]) for name in FILES}
            for name, expected in files.items():
                if _digest(directory / name) != expected:
                    raise ConfigurationError(
                        f"{directory / name} is not the file that was exported: its SHA-256 differs from "
                        "manifest.json. Export again."
                    )
            return cls(
                directory=directory,
                system=str(manifest["system"]),
                production=dict(manifest["production"]),
                phi=_read(directory / "phi.json"),
                schema=schema_from_json(_read(directory / "schema.json")),
                loss=manifest["loss"],
                data=str(manifest["data"]),
                seed=int(manifest["seed"]),
                files=files,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{directory} is no artifact ({error!r}). Export again.") from error

    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """The trained arrays by name, for looking at."""
        from safetensors.numpy import load_file

        arrays: dict[str, npt.NDArray[Any]] = load_file(self.directory / "weights.safetensors")
        return {name: np.asarray(array) for name, array in arrays.items()}

    def weights_file(self) -> int:
        """Descriptor of a sealed copy of the weights, verified as it was made."""
        name = "weights.safetensors"
        digest, copy = hashlib.sha256(), memory_file("weights")
        try:
            with (self.directory / name).open("rb") as file:
                while content := file.read(CHUNK):
                    digest.update(content)
                    os.write(copy, content)
            if digest.hexdigest() != self.files[name]:
                raise ConfigurationError(f"{self.directory / name} changed since it was opened.")
            seal(copy)
        except OSError as error:
            os.close(copy)
            raise ConfigurationError(f"{self.directory / name} cannot be read ({error}).") from error
        except BaseException:
            os.close(copy)
            raise
        return copy


def export_artifact(
    directory: Path,
    *,
    system: str,
    production: Phi,
    phi: Phi,
    schema: LogSchema,
    loss: Loss,
    data: str,
    seed: int,
    weights: int,
) -> Artifact:
    """Write a trained candidate; `weights` is the descriptor of its safetensors file.

    The folder appears whole or not at all and takes the place of an older artifact. ConfigurationError if it
    cannot be written, or if something else is there.
    """
    directory = Path(directory)
    partial = directory.with_name(f".{directory.name}.{os.getpid()}-{os.urandom(4).hex()}")
    old = directory.with_name(partial.name + ".old")
    if directory.exists() and any(directory.iterdir()) and not (directory / "manifest.json").exists():
        raise ConfigurationError(f"{directory} holds something that is no artifact. Choose another folder.")
    try:
        partial.mkdir(parents=True)
        _write(partial / "phi.json", phi)
        _write(partial / "schema.json", schema_as_json(schema))
        with (partial / "weights.safetensors").open("wb") as file:
            size, done = os.fstat(weights).st_size, 0
            while done < size:
                done += os.sendfile(file.fileno(), weights, done, size - done)
        manifest = {
            "format": FORMAT,
            "evorank": _version(),
            "system": system,
            "production": production,
            "loss": loss,
            "data": data,
            "seed": seed,
            "files": {name: _digest(partial / name) for name in FILES},
        }
        _write(partial / "manifest.json", manifest)
        if directory.exists():
            directory.rename(old)
        partial.rename(directory)
    except OSError as error:
        raise ConfigurationError(f"artifact {directory} cannot be written ({error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return Artifact.open(directory)


def _version() -> str:
    try:
        return version("evorank")
    except PackageNotFoundError:
        return "unknown"


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}).") from error


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error}).") from error
