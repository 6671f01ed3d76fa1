"""agent_tools: what an agent may ask (`assistant.py`), as tools for LangChain and over MCP.

    from evorank.graph import Context, assistant_tools

    agent = create_agent(model, assistant_tools(Context(surface="simulated")))

Functions are bound to a context; their signatures and docstrings are what an agent reads, in both worlds.
With `write` the one that proposes also queues; the others never write.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from evorank.graph.assistant import (
    Answered,
    Lessons,
    LiveStatus,
    Proposed,
    live_status,
    propose_experiment,
    what_did_we_learn,
)
from evorank.graph.context import Context
from evorank.model.errors import ConfigurationError, EvorankError
from evorank.prompts.answers import Operation
from evorank.tools.langchain_tools import wrong_arguments

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool
    from mcp.server.mcpserver import MCPServer

__all__ = ["assistant_functions", "assistant_tools", "mcp_server"]


def assistant_functions(context: Context, *, write: bool = False) -> list[Callable[..., Answered]]:
    """The three, bound to a context: their signatures and docstrings are what an agent reads."""

    def learn(
        about: Annotated[
            str, Field(description="A topic in a word or two, e.g. gating; empty: everything")
        ] = "",
        limit: Annotated[int, Field(ge=1, le=50, description="How many candidates to tell in full")] = 10,
    ) -> Lessons:
        """What did we learn about a topic? Candidates of the experiment journal that mention it, the most
        telling first: what was changed, why, what the proxy said, what people did, and why it was or was not
        launched. What live traffic said outranks the proxy."""
        return what_did_we_learn(context, about, limit)

    def status() -> LiveStatus:
        """How do the live tests stand? What is served, which experiments are under way and what they wait
        for, how long the queue is, and what all launches gained together."""
        return live_status(context)

    def propose(
        patch: Annotated[
            list[Operation],
            Field(min_length=1, max_length=50, description="RFC 6902 operations against today's production"),
        ],
        why: Annotated[
            str, Field(min_length=1, max_length=2000, description="The hypothesis, in a sentence")
        ],
    ) -> Proposed:
        """Propose an experiment: a change of today's production. It is checked like every candidate."""
        return propose_experiment(context, patch, why, write=write)

    queued = (
        " If it is valid it is queued for a live test."
        if write
        else " Nothing is written: it is checked only."
    )
    propose.__doc__ = f"{propose.__doc__}{queued}"
    names: dict[str, Callable[..., Answered]]
    names = {"what_did_we_learn": learn, "live_test_status": status, "propose_experiment": propose}
    for name, function in names.items():
        function.__name__ = function.__qualname__ = name
    return list(names.values())


def assistant_tools(context: Context, *, write: bool = False) -> list[BaseTool]:
    """The three as LangChain tools: JSON for the model, the same as a dict for programs (`artifact`).

    What is wrong with a question comes back as text that the model can act on.
    """
    from langchain_core.tools import StructuredTool, ToolException

    def made(function: Callable[..., Answered]) -> BaseTool:
        @wraps(function)
        def run(*given: Any, **named: Any) -> tuple[str, dict[str, Any]]:
            try:
                answer = function(*given, **named)
            except EvorankError as error:
                raise ToolException(str(error)) from error
            return answer.model_dump_json(), answer.model_dump(mode="json")

        return StructuredTool.from_function(
            run,
            name=function.__name__,
            description=" ".join((function.__doc__ or "").split()),
            response_format="content_and_artifact",
            handle_tool_error=True,
            handle_validation_error=wrong_arguments,
        )

    return [made(function) for function in assistant_functions(context, write=write)]


def mcp_server(context: Context, *, write: bool = False) -> MCPServer:
    """The three over MCP, with structured results: `mcp_server(context).run()` speaks on standard input.

    ConfigurationError without the extra `mcp`.
    """
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError as McpToolError
        from mcp_types import ToolAnnotations
    except ImportError as error:
        raise ConfigurationError(
            f"the MCP server needs a package that is not installed ({error.name}). "
            'Try: pip install "evorank[mcp]"'
        ) from None

    server: MCPServer = MCPServer(
        "evorank",
        version=version("evorank"),
        instructions=f"The experiment journal and live tests of surface {context.surface!r}.",
    )

    def guarded(function: Callable[..., Answered]) -> Callable[..., Answered]:
        @wraps(function)
        def run(*given: Any, **named: Any) -> Answered:
            try:
                return function(*given, **named)
            except EvorankError as error:  # any other is a bug, of which the client is told nothing
                raise McpToolError(str(error)) from error

        return run

    for function in assistant_functions(context, write=write):
        writes = write and function.__name__ == "propose_experiment"
        notes = ToolAnnotations(read_only_hint=not writes, destructive_hint=False, open_world_hint=False)
        server.add_tool(
            guarded(function),
            description=" ".join((function.__doc__ or "").split()),
            annotations=notes,
            structured_output=True,
        )
    return server
