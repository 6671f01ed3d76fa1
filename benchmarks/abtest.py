"""abtest: how often the judgement of a live test is right, over simulated tests whose truth is known.

    python benchmarks/abtest.py [--tests 2000]

Prints two Markdown tables: what is concluded at the horizon, and what 14 daily looks at guardrails abort. The
simulated users are those of tests/tools/abtest/traffic.py. About 250 CPU-seconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "tools" / "abtest"))

from characteristics import daily, horizon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", type=int, default=2_000, help="simulated tests per row")
    tests = parser.parse_args().tests

    print("| at the horizon | true lift | significant | found | power | covers | CUPED removes |")
    print("|---|---|---|---|---|---|---|")
    for metric, lift in (
        ("visits", 0.0),
        ("active_days", 0.0),
        ("dislike_rate", 0.0),
        ("visits", 0.12),
        ("visits", -0.12),
        ("dislike_rate", 0.3),
    ):
        found = horizon(tests, 400, metric, lift, seed=21)
        power = f"{found.found:.1%} | {found.predicted:.1%}" if lift else "- | -"
        print(
            f"| {metric} | {lift:+.0%} | {found.significant:.1%} | {power} | {found.covers:.1%} "
            f"| {found.variance_reduction:.0%} |",
            flush=True,
        )

    head = ("daily looks", "tests", "users an arm", "true lift", "margin", "aborted", "first week", "naive")
    print("\n| " + " | ".join((*head, "estimate")) + " |")
    print("|---|---|---|---|---|---|---|---|---|")
    # What must not exceed 5% is measured on more tests than what is merely of interest.
    for times, metrics, users, lift, margin in (
        (4, ("visits", "dislike_rate"), 400, 0.0, 0.0),
        (3, ("active_days",), 1_000, 0.0, 0.0),
        (4, ("visits",), 400, -0.05, 0.05),
        (1, ("visits",), 400, -0.15, 0.05),
        (1, ("visits",), 400, -0.25, 0.05),
    ):
        found = daily(times * tests, users, metrics, margin=margin, seed=22, naive=True, visits=lift)
        print(
            f"| {', '.join(metrics)} | {times * tests} | {users} | {lift:+.0%} | {margin:.0%} "
            f"| {found.aborted:.1%} | {found.first_half:.1%} | {found.naive:.1%} "
            f"| {found.point_estimate:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
