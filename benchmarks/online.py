"""Does `make run` make the surface better, and do live tests say the truth? Three runs of fifty steps.

    python benchmarks/online.py --out online.json        # about 20 minutes on two cores

Each seed has a world and a home of its own and runs `python cli.py run --steps 50 --seed S`. Then, which no
real surface could tell, the production that came out and the one that it began with, both as last trained, on
the same log, serve the same 20,000 fresh people for 14 days; and so do the two arms of each test that ended.
A run counts if production became truly better.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evorank.graph.context import Context, close_sessions
from evorank.graph.operations import open_operations
from evorank.surfaces.simulated.create import create
from evorank.surfaces.simulated.truth import true_lift

ROOT = Path(__file__).resolve().parents[1]


def carry_out(home: Path, surface: str, steps: int, seed: int) -> dict[str, Any]:
    """The summary of `python cli.py run`, and the minutes that it took."""
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "cli.py"), "run", "--surface", surface, "--steps", str(steps)),
            *("--seed", str(seed), "--home", str(home), "--json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(f"seed {seed} ended with {done.returncode}: {done.stderr}{done.stdout[-2000:]}")
    return {
        "minutes": (time.monotonic() - began) / 60,
        "summary": json.loads(done.stdout.splitlines()[-1]),
    }


def what_is_true(home: Path, surface: str) -> dict[str, Any]:
    """Of each test that ended, and of what serves now against what served first, both as last trained."""
    operations = open_operations(Context(home=str(home), surface=surface))
    load = operations.session.workbench.executor.scorer
    versions = operations.schedule.versions()

    def truth(control: str, candidate: str) -> dict[str, Any]:
        return true_lift(operations.surface, load, home / control, home / candidate).model_dump()

    tests = []
    for each in operations.session.journal.experiments(surface):
        effects = {effect["metric"]: effect for effect in each.effects}
        if "active_days" in effects:
            true = truth(each.artifacts["control"], each.artifacts["candidate"])
            found = {"id": each.id, "by": each.proposed_by, "attempt": each.attempt, "result": each.result}
            tests.append(found | {"effect": effects["active_days"], "true": true})
    whole = truth(versions[0].serving, versions[-1].serving)
    close_sessions()
    return {"tests": tests, "true": whole}


def one_run(seed: int, steps: int, home: Path) -> dict[str, Any]:
    """The summary of a run, and what is true of it."""
    create(home, "simulated", "home", seed=seed)
    return {"seed": seed} | carry_out(home, "simulated", steps, seed) | what_is_true(home, "simulated")


def lift(found: dict[str, Any], low: str = "low", high: str = "high") -> str:
    return f"{100 * found['lift']:+.1f}% [{100 * found[low]:+.1f}, {100 * found[high]:+.1f}]"


def tables(results: list[dict[str, Any]]) -> str:
    lines = [
        "| seed | minutes | better / cheaper / tried | live tests | launches | holdback audit: active days | "
        "truth: active days, last production against the first |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in results:
        summary, outcomes = each["summary"], each["summary"]["outcomes"]
        audit = next(
            (e for e in (summary["audit"] or {"effects": []})["effects"] if e["metric"] == "active_days"),
            None,
        )
        launches = sum(test["result"] == "launched" for test in each["tests"])
        lines.append(
            f"| {each['seed']} | {each['minutes']:.1f} | {outcomes.get('better', 0)} / "
            f"{outcomes.get('cheaper', 0)} / {summary['finished']} | {len(each['tests'])} | {launches} | "
            f"{lift(audit, 'lift_low', 'lift_high') if audit else '-'} | {lift(each['true'])} |"
        )
    lines += [
        "",
        "| seed | proposed by | result | live test: active days (97.5%) | truth |",
        "|---|---|---|---:|---:|",
    ]
    for each in results:
        lines += [
            f"| {each['seed']} | {test['by']} | {test['result']} | "
            f"{lift(test['effect'], 'lift_low', 'lift_high')} | {lift(test['true'])} |"
            for test in each["tests"]
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="also write everything as JSON")
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as home:
            results.append(one_run(seed, arguments.steps, Path(home)))
        print(tables(results[-1:]), file=sys.stderr, flush=True)
    print(tables(results))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1, default=str) + "\n")
    won = [each["true"]["low"] > 0 for each in results]
    print(f"\nIn {sum(won)} of {len(won)} runs production became truly better.")
    raise SystemExit(0 if all(won) else 1)
