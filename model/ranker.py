"""The built-in ranking system: a Φ of optimizer, architecture and reward, trained by PyTorch on one thread.

Joins the parts: `config` says what is valid, `network` what is built, `train` how it is fitted. Limit: a Φ
that brings its own components is refused; running candidate code needs a sandbox.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evorank.model.config import SystemConfig, check_config, default_phi, parse_config
from evorank.model.delta import canonical
from evorank.model.errors import ConfigurationError, Finding, RefusedDelta
from evorank.model.expression import Plan, plan
from evorank.model.system import Cost, Float32, LogSchema, Objective, Phi, Rows, Weights

if TYPE_CHECKING:  # the parent process holds a NeuralRanker without importing torch
    from evorank.model.network import RankingNetwork

__all__ = ["NeuralRanker"]

_NUMERIC = ("INT", "DOUBLE", "FLOAT", "DECIMAL", "REAL", "BOOL")


class NeuralRanker:
    """`RankingSystem` over `SystemConfig`: Q(s, a), the expected label of an impression."""

    def __init__(self, log: LogSchema, production: Phi | None = None) -> None:
        """`production` None: the paper's starting point on the first numeric column of the log."""
        self._log = log
        self._production = copy.deepcopy(production) if production is not None else _default(log)
        self._lock = threading.Lock()
        self._loaded: tuple[str, Weights, SystemConfig, RankingNetwork] | None = None

    def schema(self) -> dict[str, Any]:
        """JSON Schema of `SystemConfig`."""
        return SystemConfig.model_json_schema()

    def production(self) -> Phi:
        """A copy of the Φ that serves today."""
        return copy.deepcopy(self._production)

    def patchable(self) -> Mapping[str, Sequence[str]]:
        """Each persona patches its own part; those whose part can hold code may bring components."""
        return {
            "optimizer": ("/optimizer", "/components"),
            "architecture": ("/architecture", "/components"),
            "reward": ("/reward",),
        }

    def check(self, phi: Phi) -> list[Finding]:
        """Shape, layers, reward SQL, optimizer and schedule. Imports torch once Φ is well-formed."""
        findings = check_config(phi, self._log)
        try:
            config = SystemConfig.model_validate(phi)
        except ValueError:  # pydantic's; check_config has told it
            return findings
        from evorank.model.optimizers import check_optimizer
        from evorank.model.schedules import check_schedule

        optimizer, own = config.optimizer, config.components
        findings += check_optimizer(optimizer.name, optimizer.args, components=own)
        if (table := optimizer.embedding) is not None:
            where = "/optimizer/embedding"
            findings += check_optimizer(table.name, table.args, where, table=True, components=own)
        return findings + check_schedule(optimizer.schedule.name, optimizer.schedule.args, components=own)

    def objective(self, phi: Phi) -> Objective:
        """The label and loss that Φ trains for."""
        return SystemConfig.model_validate(phi).objective

    def cost(self, phi: Phi) -> Cost:
        """Trained parameters, embedding tables included; nothing is built to count them."""
        return Cost(parameters=self._plan(parse_config(phi, self._log)).parameters)

    def fit(self, phi: Phi, rows: Rows, labels: Float32, seed: int) -> Weights:
        """Train on `rows` and `labels` float32 [n]: the same arguments, the same weights, bit by bit.

        Raises RefusedDelta for an invalid Φ, ToolError for a training that diverges.
        """
        from evorank.model import train

        if findings := self.check(phi):
            raise RefusedDelta(findings)
        config = SystemConfig.model_validate(phi)
        network = train.build(self._plan(config), self._log.features, seed)
        train.fit(network, config.optimizer, config.reward.loss, rows, labels, seed)
        return train.to_weights(network)

    def predict(self, phi: Phi, weights: Weights, rows: Rows) -> Float32:
        """Expected label of each row, float32 [n]: a probability for "bce".

        The network of the last call is kept, so that scoring a page of candidates costs no set-up.
        """
        from evorank.model import train

        key = canonical(phi)
        with self._lock:
            if self._loaded is None or self._loaded[0] != key or self._loaded[1] is not weights:
                config = parse_config(phi, self._log)
                network = train.load(self._plan(config), self._log.features, weights)
                self._loaded = (key, weights, config, network)
            _, _, config, network = self._loaded
            return train.predict(network, config.reward.loss, rows)

    def _plan(self, config: SystemConfig) -> Plan:
        architecture = config.architecture
        return plan(architecture.layers, self._log, architecture.embedding_dim, config.components)


def _default(log: LogSchema) -> Phi:
    for name, kind in log.columns.items():
        if kind.upper().startswith(_NUMERIC):
            quoted = '"' + name.replace('"', '""') + '"'
            return default_phi(label=f"CAST({quoted} AS DOUBLE)", factors={}, loss="mse")
    raise ConfigurationError(
        "a log without numeric columns has nothing to predict, and no production Φ was given. "
        f"Its columns are {dict(log.columns)}; set production.reward in surface.toml."
    )
