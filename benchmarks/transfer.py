"""Does what won on one surface help on another? Winners of `home`, tried first on `shorts`.

    python benchmarks/transfer.py --out transfer.json        # about ten minutes on two cores

A run on the one world makes winners; `python cli.py transfer` proposes them on the other, whose features,
sizes and production differ, and a short run there measures them first. Beside it the same short run without
the transfer, from the same start. Truth: production at the end against that of the beginning, on 20,000 fresh
people. One pair of worlds is an example, and no law.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from online import ROOT, carry_out, lift, what_is_true

from evorank.graph.context import Context
from evorank.graph.journal import Journal
from evorank.surfaces.simulated.create import create


def transferred(home: Path, source: str, target: str) -> list[dict[str, Any]]:
    """What `transfer` proposes, and what it leaves out and why."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "transfer", source, target, "--home", str(home), "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(f"transfer ended with {done.returncode}: {done.stderr}{done.stdout[-2000:]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def short_run(home: Path, target: str, steps: int, seed: int) -> dict[str, Any]:
    """A run on the other surface: its attempts, its tests, and what is true of them."""
    found = carry_out(home, target, steps, seed) | what_is_true(home, target)
    journal = Journal.open(Context(home=str(home)).home_path())
    found["attempts"] = [each.model_dump(mode="json") for each in journal.attempts(surface=target)]
    journal.close()
    return found


def tables(winners: list[dict[str, Any]], runs: dict[str, dict[str, Any]]) -> str:
    lines = ["| winner | tried on the other surface | proxy | live test: active days (97.5%) | truth |"]
    lines += ["|---|---|---|---:|---:|"]
    attempts = {
        (each["origin"] or {}).get("experiment") or (each["origin"] or {}).get("attempt"): each
        for each in runs["with transfer"]["attempts"]
        if (each["origin"] or {}).get("kind") == "transfer"
    }
    tests = {each["attempt"]: each for each in runs["with transfer"]["tests"]}
    for each in winners:
        attempt = attempts.get(each["winner"])
        test = tests.get(attempt["id"]) if attempt else None
        left = "; ".join(f"{part}: {why[:80]}" for part, why in each["left_out"].items())
        tried = ", ".join(f"`{change['path']}`" for change in each["changes"]) or "nothing"
        lines.append(
            f"| {each['why']} | {tried}{f' (left out: {left})' if left else ''} | "
            f"{attempt['outcome'] if attempt else '-'} | "
            f"{lift(test['effect'], 'lift_low', 'lift_high') if test else '-'} | "
            f"{lift(test['true']) if test else '-'} |"
        )
    lines += [
        "",
        "| run on the other surface | tests | launches | truth: last production against the first |",
    ]
    lines += ["|---|---:|---:|---:|"]
    for name, run in runs.items():
        launches = sum(test["result"] == "launched" for test in run["tests"])
        lines.append(f"| {name} | {len(run['tests'])} | {launches} | {lift(run['true'])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=24, help="of the run that makes winners")
    parser.add_argument("--after", type=int, default=12, help="steps of the runs on the other surface")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", default="home", help="preset that wins")
    parser.add_argument("--target", default="shorts", help="preset that tries it")
    parser.add_argument("--out", type=Path, help="also write everything as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        for home in (first, second):
            create(Path(home), arguments.target, arguments.target, seed=arguments.seed)
        create(Path(first), "source", arguments.source, seed=arguments.seed)
        carry_out(Path(first), "source", arguments.steps, arguments.seed)
        winners = transferred(Path(first), "source", arguments.target)
        runs = {
            name: short_run(Path(home), arguments.target, arguments.after, arguments.seed)
            for name, home in (("with transfer", first), ("without", second))
        }
    print(tables(winners, runs))
    if arguments.out:
        arguments.out.write_text(json.dumps({"winners": winners, "runs": runs}, indent=1, default=str) + "\n")
