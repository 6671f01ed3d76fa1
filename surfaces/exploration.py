"""What a surface's log shows at random: the `[exploration]` section of surface.toml.

Such impressions can be reweighted to another ranking (`tools/replay.py`), so that a clear loser takes no live
traffic. A log without any leaves the section out; then nothing is replayed.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from evorank.model.system import Objective

__all__ = ["Exploration"]


class Exploration(BaseModel):
    """Which impressions were shown at random, from how many, and what one of them is worth.

    The SQL is the surface owner's and is trusted like their code.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    where: str = Field(
        description="SQL over the log's columns that holds for impressions shown at random, each candidate "
        "with the same chance, e.g. is_rand = 1"
    )
    candidates: int = Field(ge=2, description="How many items the ranker chooses from in a session")
    top: int = Field(default=10, ge=1, description="So many positions count, from the first")
    position: str | None = Field(
        default=None,
        description="Column with the place in the session; None: every impression is a first one",
    )
    reward: str = Field(
        description="SQL over the log's columns: what an impression is worth to the surface, more is better; "
        "what a success metric adds up, not clicks if people come back for something else"
    )

    @property
    def objective(self) -> Objective:
        """The reward as what can be computed on a log."""
        return Objective(self.reward, {}, "mse")
