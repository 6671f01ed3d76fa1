"""The tools as LangChain tools, for any tool-calling agent: thin wrappers, bounded text out.

What a candidate did wrong comes back as text the model can act on (ToolException, handled); what the user
must mend (configuration, log) stays an exception and stops the run.
"""

from __future__ import annotations

from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import BaseModel, ConfigDict, Field

from evorank.model.delta import apply_delta
from evorank.model.errors import RefusedDelta, ToolError
from evorank.model.system import Objective, Phi
from evorank.prompts.answers import Operation
from evorank.tools.comparison import Comparison
from evorank.tools.compute_eval import compute_eval, label_alignment
from evorank.tools.compute_loss import compute_loss
from evorank.tools.run_sql_query import run_sql_query
from evorank.tools.workbench import Workbench

__all__ = ["as_langchain_tools", "wrong_arguments"]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PatchArguments(_Arguments):
    """A candidate as a delta against production."""

    patch: list[Operation] = Field(
        min_length=1,
        max_length=50,
        description="RFC 6902 operations against the production configuration: only what changes",
    )


class QueryArguments(_Arguments):
    """One SQL statement."""

    sql: str = Field(
        max_length=10_000, description="One SELECT statement (DuckDB dialect) over the table `log`"
    )


class LabelArguments(_Arguments):
    """A reward label to look at before it is proposed."""

    label: str = Field(
        description="Scalar SQL expression over the log's columns, factors may be used by name"
    )
    factors: dict[str, str] = Field(default_factory=dict, description="Name -> scalar SQL expression")


def as_langchain_tools(bench: Workbench) -> list[BaseTool]:
    """The tools of a surface, ready for `bind_tools` or a ToolNode.

    compute_loss for every surface; run_sql_query as well; compute_eval and label_alignment only where the
    surface has a north star. Each is safe to call from several threads; trainings queue in the executor.
    """

    def candidate(patch: list[Operation]) -> Phi:
        # A `value` of null is a value: only fields that were set go into the patch.
        steps = [
            operation.model_dump(by_alias=True, exclude_unset=True) | {"op": operation.op}
            for operation in patch
        ]
        return apply_delta(bench.production, steps)

    def loss(patch: list[Operation]) -> tuple[str, dict[str, Any]]:
        """Train a candidate and compare its validation loss with production's, on the same seeds and rows.

        Use it for changes of the optimizer or the architecture; a changed reward needs compute_eval, because
        losses of different labels mean different things. Lower is better. The answer is one verdict: better
        (the 95% interval of the difference excludes zero), cheaper (no worse than a small margin and at
        least a quarter less training CPU, latency or parameters), equal, worse, or inconclusive, and a
        sentence with the numbers. It takes seconds to minutes; the same candidate is never trained twice. An
        invalid candidate is refused with the JSON Pointer, the rule and the value seen.
        """
        return _told(compute_loss(candidate(patch), bench))

    def alignment(patch: list[Operation]) -> tuple[str, dict[str, Any]]:
        """Train a candidate with a changed reward; compare how it aligns with the long-term north star.

        Higher is better: the within-user correlation between what the model predicts of items and how their
        viewers fare afterwards, relative to their own average. The verdict compares it with production's,
        with a 95% interval over users and seeds. Try run_sql_query and label_alignment first: cheaper.
        """
        return _told(compute_eval(candidate(patch), bench))

    def query(sql: str) -> tuple[str, dict[str, Any]]:
        """Look at the interaction log: one SELECT over the table `log` (training period only).

        Returns a small Markdown table (50 rows at most, so aggregate) or the reason for a refusal. `DESCRIBE
        log` shows the columns; besides those of the log there are row (time order), time and day. Files,
        settings, several statements and functions with side effects are refused; a slow query is stopped.
        """
        result = run_sql_query(sql, bench)
        return result.as_markdown(), result.model_dump(mode="json")

    def label(label: str, factors: dict[str, str] | None = None) -> tuple[str, dict[str, Any]]:
        """Measure how a reward label itself agrees with the north star, without training: seconds.

        Returns a within-user correlation in [-1, 1] with a 95% interval: positive labels are followed by
        better long-term outcomes of the same user, negative ones by worse. A first look, not a proof.
        """
        found = label_alignment(Objective(label, factors or {}, "mse"), bench)
        return found.reason, found.model_dump(mode="json")

    tools = [_tool("compute_loss", loss, PatchArguments), _tool("run_sql_query", query, QueryArguments)]
    if bench.surface.spec.north_star is not None:
        tools += [
            _tool("compute_eval", alignment, PatchArguments),
            _tool("label_alignment", label, LabelArguments),
        ]
    return tools


def _told(found: Comparison) -> tuple[str, dict[str, Any]]:
    return f"{found.verdict}. {found.reason}", found.model_dump(mode="json")


def _tool(name: str, function: Any, arguments: type[BaseModel]) -> BaseTool:
    def run(**given: Any) -> tuple[str, dict[str, Any]]:
        try:
            answer: tuple[str, dict[str, Any]] = function(**given)
        except RefusedDelta as refused:
            raise ToolException(f"Refused: {refused}") from refused
        except ToolError as error:
            raise ToolException(str(error)) from error
        return answer

    return StructuredTool.from_function(
        run,
        name=name,
        description="\n".join(line.strip() for line in (function.__doc__ or "").strip().splitlines()),
        args_schema=arguments,
        response_format="content_and_artifact",
        handle_tool_error=True,
        handle_validation_error=wrong_arguments,
    )


def wrong_arguments(error: Any) -> str:
    """What an agent is told of arguments that do not fit: LangChain's own words name no field."""
    problems = [f"`{'.'.join(map(str, each['loc']))}`: {each['msg']}" for each in error.errors()]
    return f"Wrong arguments, nothing was done: {'; '.join(problems)}."
