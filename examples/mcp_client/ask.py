"""evorank over MCP: a client of your own asks, and gets data instead of text. `pip install -e '.[mcp]'`

    python examples/mcp_client/ask.py gating [--home .evorank] [--surface simulated]

An MCP host (an editor, a chat app) starts the same server by itself, from a line in its configuration:

    {"mcpServers": {"evorank": {"command": "evorank", "args": ["mcp", "--surface", "simulated"]}}}
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

from mcp import Client
from mcp.client.stdio import StdioServerParameters


async def ask(about: str, *flags: str) -> None:
    """Start `evorank mcp`, say which tools it has, and ask one of them."""
    environment = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    arguments = ["-m", "evorank.cli", "mcp", *flags]
    async with Client(
        StdioServerParameters(command=sys.executable, args=arguments, env=environment)
    ) as server:
        for tool in (await server.list_tools()).tools:
            print(f"{tool.name}: {'only reads' if tool.annotations.read_only_hint else 'may write'}")
        answer = await server.call_tool("what_did_we_learn", {"about": about, "limit": 3})
    if answer.is_error:
        sys.exit(answer.content[0].text)
    print(json.dumps(answer.structured_content, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("about")
    parser.add_argument("--home", default=".evorank")
    parser.add_argument("--surface", default="simulated")
    given = parser.parse_args()
    asyncio.run(ask(given.about, "--home", given.home, "--surface", given.surface))


if __name__ == "__main__":
    main()
