"""A run in a process of its own, to be killed: runner.py HOME POOL. Six steps, two at a time."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lent import LentPool
from scripted import ACCEPT, ScriptedChatModel, learning_rate, proposal
from tiny import Watched

from evorank.graph.context import Context, close_sessions, open_session
from evorank.graph.journal import thread_id
from evorank.graph.offline import builder


def main(home: Path, pool: str) -> None:
    def script(form, messages):
        text = str(messages[-1].content)
        if form == "Proposal":
            asked = len((home / "asked.txt").read_text().split()) if (home / "asked.txt").exists() else 0
            with (home / "asked.txt").open("a") as lines:
                lines.write(f"{asked}\n")
            return proposal(hypothesis=f"rate number {asked}")
        if form == "Delta":
            number = int(re.findall(r"rate number (\d+)", text)[-1])  # the task comes after the journal
            return learning_rate(0.01 + 0.005 * number)
        return ACCEPT

    context = Context(
        surface="tiny",
        home=str(home),
        personas=["optimizer"],
        parallel=2,
        seeds=2,
        chat_model=ScriptedChatModel(script=script),
        pool=Watched(LentPool(pool), home / "trainings.txt"),
    )
    with open_session(context).checkpointer() as saver:
        graph = builder.compile(checkpointer=saver)
        config = {"configurable": {"thread_id": thread_id("r")}}
        going = graph.get_state(config).next
        graph.invoke(None if going else {"steps": 6, "run": "r"}, config, context=context, durability="sync")
    close_sessions()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
