"""The same assignment as an OpenFeature provider, for services that ask one user at a time.

A service keeps its OpenFeature client; the flag's key is the experiment's id, its value the arm's
variation_id. A hook writes the exposure, so that whoever evaluates the flag is logged, and nobody else.
`openfeature-sdk` is a dependency since it is one pure Python wheel of 40 kB without dependencies, kept by the
CNCF.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import (
    FlagEvaluationDetails,
    FlagResolutionDetails,
    FlagType,
    FlagValueType,
    Reason,
)
from openfeature.hook import Hook, HookContext, HookHints
from openfeature.provider import AbstractProvider, Metadata

from evorank.surfaces.assignment import OUTSIDE, Allocation, Assigner, HashAssigner
from evorank.surfaces.platform import Exposure

__all__ = ["ExperimentProvider", "ExposureHook"]


class ExperimentProvider(AbstractProvider):
    """Answers `get_string_details(experiment_id, default, context)` with "0", "1" ... or the default outside.

    `allocations` is read at every evaluation: a ramp or a stop is a change of that mapping.
    """

    def __init__(self, allocations: Mapping[str, Allocation], assigner: Assigner | None = None) -> None:
        super().__init__()
        self._allocations = allocations
        self._assigner = assigner or HashAssigner()

    def get_metadata(self) -> Metadata:
        return Metadata(name="evorank")

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        allocation = self._allocations.get(flag_key)
        if allocation is None:
            return _refused(default_value, ErrorCode.FLAG_NOT_FOUND, f"no experiment {flag_key!r} is live")
        user = evaluation_context.targeting_key if evaluation_context else None
        if not user:
            return _refused(
                default_value, ErrorCode.TARGETING_KEY_MISSING, "the targeting key is the user id"
            )
        arm = int(self._assigner.assign(allocation, [user])[0])
        if arm == OUTSIDE:
            return FlagResolutionDetails(default_value, reason=Reason.DEFAULT)
        return FlagResolutionDetails(str(arm), variant=str(arm), reason=Reason.SPLIT)

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return _refused(default_value, ErrorCode.TYPE_MISMATCH, _TEXT)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return _refused(default_value, ErrorCode.TYPE_MISMATCH, _TEXT)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return _refused(default_value, ErrorCode.TYPE_MISMATCH, _TEXT)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return _refused(default_value, ErrorCode.TYPE_MISMATCH, _TEXT)


_TEXT = "an experiment's arm is a text: ask with get_string_details"


def _refused(default: Any, code: ErrorCode, message: str) -> FlagResolutionDetails[Any]:
    return FlagResolutionDetails(default, error_code=code, error_message=message, reason=Reason.ERROR)


class ExposureHook(Hook):
    """Hands an `Exposure` to `write` whenever a user was really put into an arm."""

    def __init__(
        self, write: Callable[[Exposure], None], clock: Callable[[], datetime] | None = None
    ) -> None:
        self._write = write
        self._clock = clock or (lambda: datetime.now(UTC))

    def after(
        self,
        hook_context: HookContext,
        details: FlagEvaluationDetails[FlagValueType],
        hints: HookHints,
    ) -> None:
        user = hook_context.evaluation_context.targeting_key
        if details.reason == Reason.SPLIT and details.variant is not None and user:
            self._write(Exposure(user, self._clock(), details.flag_key, details.variant))

    def supports_flag_value_type(self, flag_type: FlagType) -> bool:
        return flag_type is FlagType.STRING
