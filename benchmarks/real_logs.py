"""Fifty steps on real logs, three seeds each: is the test period better, and where do the minutes go?

    python benchmarks/real_logs.py --data ../shared/data --out docs/real_logs.json

imports MovieLens-100K and the KuaiRand sample into a temporary home, runs `python cli.py run --steps 50` as a
user would, and prints the table of docs/results.md. A run counts only if its interval excludes zero.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOGS = {"ml-100k": ("recbole", "ml-100k"), "kuairand-sample": ("kuairand", "kuairand-sample")}


def cli(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}{done.stdout[-2000:]}"
        )
    return done.stdout


def one_run(surface: str, steps: int, seed: int, home: Path) -> dict[str, Any]:
    """One run with a home of its own, so that no seed learns from another's journal or cache."""
    layout, folder = LOGS[surface]
    cli("surface", "import", layout, str(arguments.data / folder), "--name", surface, "--home", str(home))
    started = time.monotonic()
    printed = cli(
        *("run", "--steps", str(steps), "--surface", surface, "--seed", str(seed)),
        "--home",
        str(home),
        "--json",
    )
    seconds = time.monotonic() - started
    summary = json.loads(printed.splitlines()[-1])
    return {"surface": surface, "seed": seed, "minutes": seconds / 60, "summary": summary}


def shown(change: dict[str, Any]) -> str:
    """One operation of a patch; code by what it says it is."""
    if "value" not in change:
        return f"`{change['path']}` ({change['op']})"
    value = change["value"]
    if isinstance(value, dict) and "source" in value:
        return f"`{change['path']}` = code of {value['kind']}: {value.get('description', '')}".rstrip(": ")
    return f"`{change['path']}` = `{json.dumps(value)}`"


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| log | seed | winning change | validation difference | test loss, production | test loss, found | "
        "test difference [95%] | better / cheaper / tried | minutes | training CPU-minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        summary = result["summary"]
        best, test, outcomes = summary["best"], summary["test"], summary["outcomes"]
        change = "<br>".join(shown(each) for each in (best or {}).get("changes", []))
        cells = [
            result["surface"],
            str(result["seed"]),
            change or "none",
            f"{best['comparison']['difference']:+.4f}" if best else "-",
            f"{test['production']['loss']:.4f}" if test else "-",
            f"{test['candidate']['loss']:.4f}" if test else "-",
            f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]" if test else "-",
            f"{outcomes.get('better', 0)} / {outcomes.get('cheaper', 0)} / {summary['finished']}",
            f"{result['minutes']:.1f}",
            f"{summary['training_cpu_seconds'] / 60:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
parser.add_argument("--logs", nargs="+", choices=sorted(LOGS), default=sorted(LOGS, reverse=True))
parser.add_argument("--out", type=Path, help="also write everything as JSON")
arguments = parser.parse_args()

results = []
for surface in arguments.logs:
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as home:
            results.append(one_run(surface, arguments.steps, seed, Path(home)))
        print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
print(table(results))
if arguments.out:
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
won = [r["summary"]["test"] is not None and r["summary"]["test"]["high"] < 0 for r in results]
print(f"\n{sum(won)} of {len(won)} runs are better on the test period, with an interval that excludes zero.")
raise SystemExit(0 if all(won) else 1)
