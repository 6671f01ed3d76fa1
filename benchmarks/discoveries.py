"""The paper's discoveries, applied by hand: what does the proxy say of each, and what do people?

    python benchmarks/discoveries.py --out discoveries.json        # about ten minutes on two cores

Each is a delta against the production that the simulated surface begins with (arXiv 2602.10226, section 5).
The proxy is measured as for any attempt; then each has a live test of its own for two weeks, one after the
other, against that same production: nothing is launched. Truth: both arms serve 20,000 fresh people.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from evorank.graph.context import Context, close_sessions
from evorank.graph.operations import open_operations
from evorank.graph.status import request
from evorank.graph.tick import propose, tick
from evorank.model.delta import apply_delta
from evorank.model.errors import RefusedDelta, Stopped
from evorank.surfaces.simulated.truth import true_lift
from evorank.tools.compute_eval import compute_eval
from evorank.tools.compute_loss import compute_loss

LAYERS = "/architecture/layers"


def put(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


DISCOVERIES: dict[str, list[dict[str, Any]]] = {
    "RMSprop instead of Adagrad": [put("/optimizer/name", "RMSprop"), put("/optimizer/args", {"lr": 0.001})],
    "training efficiency: a quarter of an epoch": [
        put("/optimizer/epochs", 0.25),
        put("/optimizer/args/lr", 0.05),
    ],
    "Gated Path": [
        put(f"{LAYERS}/value_path", "relu(dense(h2, 64))"),
        put(f"{LAYERS}/gate_path", "sigmoid(dense(inputs, 64))"),
        put(f"{LAYERS}/output", "layer_norm(value_path * gate_path)"),
    ],
    "activation: GELU with layer norm": [
        put(f"{LAYERS}/h1", "gelu(layer_norm(dense(inputs, 128)))"),
        put(f"{LAYERS}/h2", "gelu(layer_norm(dense(h1, 128)))"),
    ],
    "reward: active engagement as a factor": [
        put("/reward/factors/engaged", "CAST(active_engagement AS DOUBLE)"),
        put("/reward/label", "LEAST(1.0, clicked * watched + 2 * engaged)"),
    ],
    "two dot products: what was watched against what is offered": [
        put(f"{LAYERS}/output", "dense(layer_norm(h2), 1) + dot(tag, mean(watched_tags)) + dot(user_id, tag)")
    ],
}


def measure(name: str, patch: list[dict[str, Any]], context: Context) -> dict[str, Any]:
    """Proxy, live test and truth of one discovery."""
    operations = open_operations(context)
    operations.prepare(lambda _: None)
    bench = operations.bench
    phi = apply_delta(bench.production, patch)
    reward = bench.system.objective(phi) != bench.system.objective(bench.production)
    try:
        proxy = (compute_eval if reward else compute_loss)(phi, bench).model_dump(mode="json")
    except Stopped as stopped:
        proxy = {"verdict": "worse", "reason": str(stopped)}
    except RefusedDelta as refusal:
        proxy = {"verdict": "refused", "reason": str(refusal)}
    identifier = propose(operations, patch, why=name, by="the paper")
    for _ in range(40):
        report = tick(context, until=operations.platform.now() + timedelta(days=1))
        (found,) = (
            each for each in operations.session.journal.experiments("simulated") if each.id == identifier
        )
        if found.result:
            break
        if identifier in {each["id"] for each in report.approvals}:  # a launch is not wanted, a weak test is
            action = "abort" if found.phase == "live" else "approve"
            request(context, identifier, action, by="the benchmark", reason="to compare with one production")
    effects = {effect["metric"]: effect for effect in found.effects}
    true = None
    if found.artifacts:
        arms = [operations.home / found.artifacts[arm] for arm in ("control", "candidate")]
        true = true_lift(operations.surface, bench.executor.scorer, *arms).model_dump()
    return {
        "name": name,
        "proxy": proxy,
        "result": found.result,
        "reason": found.reason,
        "rule": (found.decision or {}).get("rule"),
        "effects": effects,
        "true": true,
    }


def row(each: dict[str, Any]) -> str:
    proxy, effect, true = each["proxy"], each["effects"].get("active_days"), each["true"]
    measured, cost = proxy.get("reason", "")[:60], "-"
    if "metric" in proxy:
        measured = f"{proxy['metric']} {proxy['difference']:+.4f} [{proxy['low']:+.4f}, {proxy['high']:+.4f}]"
        cost = f"{proxy['candidate']['train_cpu_seconds'] / proxy['production']['train_cpu_seconds']:.2f}"
    live = "-"
    if effect and effect["lift"] is not None:
        live = f"{effect['lift']:+.1%} [{effect['lift_low']:+.1%}, {effect['lift_high']:+.1%}]"
    truth = f"{true['lift']:+.1%} [{true['low']:+.1%}, {true['high']:+.1%}]" if true else "-"
    return (
        f"| {each['name']} | {measured} | {proxy['verdict']} | {cost} | {live} | "
        f"{each['rule'] or each['reason'][:60]} | {truth} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(DISCOVERIES), default=list(DISCOVERIES))
    parser.add_argument("--out", type=Path, help="also write everything as JSON")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as home:
        for name in arguments.only:
            results.append(
                measure(name, DISCOVERIES[name], Context(home=home, approve=True, selection="fifo"))
            )
            print(row(results[-1]), flush=True)
        close_sessions()
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1, default=str) + "\n")
    print(
        "\n| discovery | proxy, candidate minus production [95%] | verdict | training cost | live test: "
        "active days [97.5%] | rule | truth |\n|---|---|---|---:|---:|---|---:|"
    )
    print("\n".join(row(each) for each in results))
