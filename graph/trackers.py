"""trackers: what a run is mirrored to, if the context names it: `mlflow`, `otel`. Nothing is sent otherwise.

Each is a listener on the events of a run (`tools/events.py`). Where it sends to is said by its own, standard
variables: MLFLOW_TRACKING_URI; OTEL_EXPORTER_OTLP_ENDPOINT, or the tracer provider of the app around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, get_args

from evorank.model.errors import ConfigurationError
from evorank.tools.events import Event

if TYPE_CHECKING:
    from evorank.graph.context import Session

__all__ = ["Tracker", "TrackerName", "open_tracker"]

TrackerName = Literal["mlflow", "otel"]


class Tracker(Protocol):
    """A listener that has something to close."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None:
        """Send what is not sent yet."""
        ...


def open_tracker(name: TrackerName, session: Session) -> Tracker:
    """ConfigurationError where its extra is missing, or nothing says where to send to."""
    assert name in get_args(TrackerName)
    try:
        if name == "mlflow":
            from evorank.graph.mirror import Mirror

            return Mirror(session.journal, session.surface.name, session.home)
        from evorank.graph.spans import Spans, tracer_provider

        return Spans(tracer_provider())
    except ImportError as error:
        raise ConfigurationError(
            f"`trackers` names {name}, which needs a package that is not installed ({error.name}). "
            f'Try: pip install "evorank[{name}]"'
        ) from None
