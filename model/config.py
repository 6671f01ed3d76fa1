"""`SystemConfig`: Φ of the built-in ranker, every field described, and everything that can be wrong with it.

The pydantic models give the shape, and their JSON Schema is what prompts and editors show. `check_config`
adds what a schema cannot say: layer expressions that plan, reward SQL that type-checks over this log, a
batch that fits in memory. Arguments of optimizers and schedules are checked where torch is
(`optimizers.py`); this module starts without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from evorank.model.component_interface import CONTRACT, Kind
from evorank.model.components import check_components, signatures
from evorank.model.delta import check_json
from evorank.model.errors import Finding, RefusedDelta
from evorank.model.expression import Plan, Signature, Unshaped, plan
from evorank.model.findings import findings_of
from evorank.model.functions import MAX_EMBEDDING
from evorank.model.sql import check_objective
from evorank.model.system import LogSchema, Loss, Objective, Phi

__all__ = [
    "Architecture",
    "Component",
    "Optimizer",
    "Reward",
    "Rule",
    "SystemConfig",
    "check_config",
    "check_memory",
    "default_phi",
    "parse_config",
    "planned_network",
]

MAX_BATCH = 262_144
MAX_ACTIVATIONS = 500_000_000  # floats of one batch: 2 GB, and as much again for gradients


def _integral(value: Any) -> Any:
    """JSON has one number type: 4096.0 is the integer 4096. Strict integers would refuse it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_integral)]
Argument = bool | int | float | str | None | list[bool | int | float | str]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Rule(_Part):
    """A named rule with arguments: an optimizer for the embedding tables, or a learning-rate schedule."""

    name: str = Field(
        min_length=1,
        max_length=64,
        description=(
            "For an optimizer: a class of torch.optim, RowwiseAdagrad, or a component. For a schedule: "
            "constant, linear, cosine, step, exponential, or a component"
        ),
    )
    args: dict[str, Argument] = Field(
        default={},
        max_length=20,
        description=(
            'Keyword arguments by name, e.g. {"lr": 0.05} or {"warmup": 0.05}; absent ones keep their '
            "defaults"
        ),
    )


class Optimizer(_Part):
    """How the network is trained."""

    name: str = Field(
        min_length=1,
        max_length=64,
        description=(
            "Class of torch.optim (Adagrad, Adam, AdamW, RMSprop, SGD, NAdam, Adamax ...) or an "
            "optimizer component. Its scale of lr is its own: about 0.01-0.3 for Adagrad and SGD, 1e-4 "
            "to 1e-2 for Adam and RMSprop"
        ),
    )
    args: dict[str, Argument] = Field(
        default={},
        max_length=20,
        description=(
            'Keyword arguments of that class, e.g. {"lr": 0.001, "betas": [0.9, 0.999], "weight_decay": '
            "0}; absent ones keep torch's defaults"
        ),
    )
    embedding: Rule | None = Field(
        default=None,
        description=(
            "Another optimizer for the embedding tables only, or null to train them with the same one. "
            "RowwiseAdagrad keeps one statistic per row and is the fastest"
        ),
    )
    batch_size: Integer = Field(
        default=4096,
        ge=16,
        le=MAX_BATCH,
        description=(
            "Impressions per update, 16 to 262144. Larger is faster per impression and takes fewer "
            "updates; lr usually grows with it"
        ),
    )
    epochs: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description=(
            "Passes over the training period, in (0, 100]; 0.25 trains on a random quarter of its rows. "
            "Training cost is proportional to it"
        ),
    )
    schedule: Rule = Field(
        default=Rule(name="constant"),
        description="How the learning rate moves over the run",
    )
    grad_clip: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Largest norm of the gradient of all parameters together, or null for no clipping",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description=(
            "Arithmetic of the dense layers in training; bfloat16 is faster and coarser, parameters stay "
            "float32"
        ),
    )


class Architecture(_Part):
    """The network: named expressions over the features of a log."""

    embedding_dim: Integer = Field(
        default=16,
        ge=1,
        le=MAX_EMBEDDING,
        description="Width of the shared embedding of every categorical feature, 1 to 512",
    )
    layers: dict[str, str] = Field(
        min_length=1,
        max_length=100,
        description=(
            "Let-bindings, in any order: name -> expression. A name is a feature (categorical: its "
            "embedding; numeric: width 1; history: a sequence), `inputs` (all features side by side, "
            "histories averaged), `fields` (all categorical embeddings as a sequence), or another "
            "binding. Operators + - * and the listed functions. `output` is the result: of width 1 it is "
            "the logit, otherwise dense(output, 1) is added. Each call has weights of its own; share "
            "them through a binding"
        ),
    )


class Reward(_Part):
    """What is predicted: the label of an impression, in SQL over the log's columns."""

    factors: dict[str, str] = Field(
        default={},
        max_length=50,
        description=(
            'Named scalar DuckDB expressions over the log\'s columns and other factors, e.g. {"watched": '
            '"LEAST(watch_s / duration_s, 1.0)"}'
        ),
    )
    label: str = Field(
        description=(
            "Scalar DuckDB expression over factors and columns: what the model predicts. Never NULL; in "
            '[0, 1] for the loss bce, e.g. "clicked * watched"'
        ),
    )
    loss: Loss = Field(
        default="bce",
        description=(
            "bce: log-loss, for labels in [0, 1]; mse: squared error; huber: squared near zero and "
            "linear beyond 1, for labels with outliers"
        ),
    )


class Component(_Part):
    """Code that a candidate brings along: what no listed function, optimizer or schedule can say."""

    kind: Kind = Field(
        description=(
            "What it is used as, under the component's name. layer and activation are called in "
            "architecture.layers, e.g. my_gate(h1, 32) or my_mix(a, b, units=16); an optimizer is named "
            "in optimizer.name or optimizer.embedding.name, a schedule in optimizer.schedule.name"
        )
    )
    source: str = Field(
        min_length=1,
        max_length=20_000,
        description=CONTRACT,
    )
    description: str = Field(
        default="", max_length=2000, description="What it does, in a sentence, for those who read the journal"
    )


class SystemConfig(_Part):
    """Φ, the complete configuration of the built-in ranker: optimizer, architecture, reward, components."""

    optimizer: Optimizer = Field(description="How the network is trained")
    architecture: Architecture = Field(description="The network")
    reward: Reward = Field(description="What the network learns to predict")
    components: dict[str, Component] = Field(
        default={},
        max_length=20,
        description=(
            "Code by name, used by the other parts under that name: what no listed function, optimizer or "
            "schedule can say. It runs only inside the evaluator, on tiny batches first"
        ),
    )

    @property
    def objective(self) -> Objective:
        """The label and loss, as the protocol names them."""
        return Objective(self.reward.label, dict(self.reward.factors), self.reward.loss)


# --------------------------------------------------------------------------- checks


def parse_config(phi: Phi, log: LogSchema, *, reward: bool = True) -> SystemConfig:
    """Φ as a SystemConfig; RefusedDelta with every finding if it is not valid on this log."""
    findings = check_config(phi, log, reward=reward)
    if findings:
        raise RefusedDelta(findings)
    return SystemConfig.model_validate(phi)


def check_config(phi: Phi, log: LogSchema, *, reward: bool = True) -> list[Finding]:
    """Everything wrong with Φ on this log short of optimizer arguments; [] means valid. Never raises.

    Without `reward` its SQL is left alone: whoever has the labels needs no DuckDB, which takes 30 ms to open.
    """
    if findings := check_json(phi):
        return findings
    try:
        config = SystemConfig.model_validate(phi)
    except ValidationError as error:
        return findings_of(error, SystemConfig, phi)
    return [
        *check_components(config),
        *_check_architecture(config, log),
        *(check_objective(config.objective, log.columns) if reward else ()),
    ]


def _check_architecture(config: SystemConfig, log: LogSchema) -> list[Finding]:
    try:
        planned = planned_network(config, log)
    except Unshaped:
        return []  # where components run, their shapes are known, and this is checked again
    except RefusedDelta as refused:
        return list(refused.findings)
    return check_memory(config, planned)


def planned_network(
    config: SystemConfig, log: LogSchema, components: Mapping[str, Signature] | None = None
) -> Plan:
    """The plan of Φ's network; `components` None: as far as components can be read without running them."""
    architecture = config.architecture
    own = signatures(config) if components is None else components
    return plan(architecture.layers, log, architecture.embedding_dim, own)


def check_memory(config: SystemConfig, planned: Plan) -> list[Finding]:
    """Does a batch of Φ fit in memory."""
    floats = planned.activations * config.optimizer.batch_size
    if floats > MAX_ACTIVATIONS:
        held = f"this network holds {planned.activations:,} per row"
        rule = f"must keep a batch within {MAX_ACTIVATIONS:,} floats; {held}"
        largest = max(16, MAX_ACTIVATIONS // planned.activations)
        hint = f"Try {largest} or less, or narrower layers."
        return [Finding("/optimizer/batch_size", rule, config.optimizer.batch_size, hint)]
    return []


# --------------------------------------------------------------------------- the paper's starting point


def default_phi(
    *,
    label: str,
    factors: Mapping[str, str],
    loss: Loss = "bce",
    batch_size: int = 4096,
    embedding_dim: int = 16,
) -> Phi:
    """The paper's starting point: Adagrad at 0.1, two ReLU layers of 128, layer norm; the reward is yours."""
    config = SystemConfig(
        optimizer=Optimizer(name="Adagrad", args={"lr": 0.1}, batch_size=batch_size),
        architecture=Architecture(
            embedding_dim=embedding_dim,
            layers={
                "h1": "relu(dense(inputs, 128))",
                "h2": "relu(dense(h1, 128))",
                "output": "layer_norm(h2)",
            },
        ),
        reward=Reward(factors=dict(factors), label=label, loss=loss),
    )
    return config.model_dump(mode="json")
