"""The built-in ranking system: a Φ of optimizer, architecture and reward, trained by PyTorch on one thread
or on a GPU.

Joins the parts: `config` says what is valid, `network` what is built, `train` how it is fitted. A Φ that
brings components is checked anywhere by reading them; it is trained and scored only where they may run.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from evorank.model import component_code
from evorank.model.component_code import Code, Measure
from evorank.model.components import used
from evorank.model.config import (
    SystemConfig,
    check_config,
    check_memory,
    default_phi,
    parse_config,
    planned_network,
)
from evorank.model.delta import canonical
from evorank.model.errors import ConfigurationError, Finding, RefusedDelta
from evorank.model.expression import Plan
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
        self.device = "cpu"
        """Where `fit` and `predict` compute: cpu or cuda. Φ's components are tried on the CPU in any case."""
        self._lock = threading.Lock()
        self._loaded: tuple[str, Weights, SystemConfig, RankingNetwork] | None = None

    def schema(self) -> dict[str, Any]:
        """JSON Schema of `SystemConfig`."""
        return copy.deepcopy(_schema())

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
        """Shape, layers, reward SQL, optimizer, schedule, components. Imports torch once Φ is well-formed.

        Components are read everywhere, and tried on tiny batches where they may run.
        """
        running = component_code.permitted()
        # Production's labels exist by then: to read its SQL again would be most of a check's time.
        known = running and isinstance(phi, dict) and phi.get("reward") == self._production.get("reward")
        findings = self._read(phi, reward=not known)
        if findings or not running:
            return findings
        try:
            self._prepared(SystemConfig.model_validate(phi), trial=True)
        except RefusedDelta as refused:
            return list(refused.findings)
        return []

    def _read(self, phi: Phi, reward: bool = True) -> list[Finding]:
        """Everything wrong with Φ that can be known without running its components."""
        findings = check_config(phi, self._log, reward=reward)
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
        """Trained parameters, embedding tables included; nothing is built to count them but components.

        Raises RefusedDelta where only running a component tells its size, and this process may not.
        """
        config = parse_config(phi, self._log, reward=False)
        if component_code.permitted():
            return Cost(parameters=self._prepared(config)[1].parameters)
        return Cost(parameters=planned_network(config, self._log).parameters)

    def fit(self, phi: Phi, rows: Rows, labels: Float32, seed: int) -> Weights:
        """Train on `rows` and `labels` float32 [n]: the same arguments, the same weights, bit by bit.

        Raises RefusedDelta for an invalid Φ, and for one that needs components where they may not run;
        ToolError for a training that diverges, or in which a component fails.
        """
        from evorank.model import train

        if findings := self._read(phi, reward=False):  # the labels are there
            raise RefusedDelta(findings)
        config = SystemConfig.model_validate(phi)
        code, planned = self._prepared(config, trial=True)
        with component_code.blaming():
            network = train.build(planned, self._log.features, seed, code)
            train.fit(network, config.optimizer, config.reward.loss, rows, labels, seed, code, self.device)
        return train.to_weights(network)

    def predict(self, phi: Phi, weights: Weights, rows: Rows) -> Float32:
        """Expected label of each row, float32 [n]: a probability for "bce".

        The network of the last call is kept, so that scoring a page of candidates costs no set-up.
        """
        from evorank.model import train

        key = canonical(phi)
        with self._lock:
            if self._loaded is None or self._loaded[0] != key or self._loaded[1] is not weights:
                config = parse_config(phi, self._log, reward=False)
                code, planned = self._prepared(config)
                with component_code.blaming():
                    network = train.load(planned, self._log.features, weights, code).to(self.device)
                self._loaded = (key, weights, config, network)
            _, _, config, network = self._loaded
            with component_code.blaming():
                return train.predict(network, config.reward.loss, rows, self.device)

    def _prepared(self, config: SystemConfig, trial: bool = False) -> tuple[Code, Plan]:
        """Φ's components, loaded, and the plan of its network; with `trial` they are tried first.

        Raises RefusedDelta for components that fail, and for any where they may not run.
        """
        needed = used(config)
        measure: Measure | None = None
        if needed and trial and component_code.permitted():
            from evorank.model.component_trials import tried

            measure = tried(half=config.optimizer.precision == "bfloat16")
        code = component_code.load(needed, measure)
        findings = _tried(config, code) if measure else []
        try:
            planned = planned_network(config, self._log, code.signatures)
        except RefusedDelta as refused:
            raise RefusedDelta([*findings, *refused.findings]) from None
        if findings := [*findings, *check_memory(config, planned)]:
            raise RefusedDelta(findings)
        return code, planned


def _tried(config: SystemConfig, code: Code) -> list[Finding]:
    """What is wrong with the optimizers and schedule that Φ brings along, tried with its arguments."""
    from functools import partial

    from evorank.model.component_trials import try_optimizer, try_schedule
    from evorank.model.optimizers import build_optimizer

    optimizer, findings = config.optimizer, []
    rules = [("/optimizer", optimizer.name, optimizer.args)]
    if (table := optimizer.embedding) is not None:
        rules.append(("/optimizer/embedding", table.name, table.args))
    for pointer, name, args in rules:
        if name in code.optimizers:
            build = partial(build_optimizer, name, args, components=code.optimizers)
            findings += try_optimizer(name, build, pointer)
    schedule = optimizer.schedule
    if schedule.name in code.schedules:
        findings += try_schedule(schedule.name, code.schedules[schedule.name], schedule.args)
    return findings


@cache
def _schema() -> dict[str, Any]:
    return SystemConfig.model_json_schema()


def _default(log: LogSchema) -> Phi:
    for name, kind in log.columns.items():
        if kind.upper().startswith(_NUMERIC):
            quoted = '"' + name.replace('"', '""') + '"'
            label = f"CAST({quoted} AS DOUBLE)"
            return default_phi(label=label, factors={}, loss="mse", batch_size=_batch_size(log))
    raise ConfigurationError(
        "a log without numeric columns has nothing to predict, and no production Φ was given. "
        f"Its columns are {dict(log.columns)}; set production.reward in surface.toml."
    )


def _batch_size(log: LogSchema) -> int:
    """The largest power of two that leaves about a hundred steps, in 128..4096."""
    return 1 << min(max((log.training_rows // 100).bit_length() - 1, 7), 12)
