"""evidence: what the log says of a candidate before anybody is shown it. Never an A/B result.

Both arms are replayed on random exposures, with the very models that the TRAINING phase would make next, and
that it finds there.
"""

from __future__ import annotations

from collections.abc import Callable

from evorank.graph.operations import Operations
from evorank.model.errors import ConfigurationError, RefusedDelta, ToolError
from evorank.model.system import Phi
from evorank.tools.offpolicy import OffPolicy
from evorank.tools.replay import replay

__all__ = ["off_policy"]


def off_policy(
    candidate: Phi, production: Phi, operations: Operations, on_progress: Callable[[str], None]
) -> OffPolicy:
    """Replay both on what the newest log shows at random, after the rows that they are trained on.

    Without estimates, and with the reason, where that cannot be done: what is wrong with a model is for
    TRAINING to tell, and what the replay cannot tell is for live traffic.
    """
    shown = operations.surface.spec.exploration
    if shown is None:
        why = "surface.toml names no impressions shown at random ([exploration]), so nothing was replayed."
        return OffPolicy.unknown("", 0, 0, why)
    bench = operations.bench
    on_progress("replaying it on what was shown at random")
    try:
        folders = [operations.train(phi, on_progress) for phi in (production, candidate)]
        with bench.executor.scorer(folders[0]) as before, bench.executor.scorer(folders[1]) as after:
            return replay(
                bench.dataset,
                before.score,
                after.score,
                shown.objective,
                candidates=shown.candidates,
                top=shown.top,
                upto="test",  # a surface with live traffic keeps no period back for a last report
                random=shown.where,
                position=shown.position,
            )
    except (ToolError, RefusedDelta, ConfigurationError) as error:
        return OffPolicy.unknown(shown.reward, 0, 0, f"it could not be replayed: {error}")
