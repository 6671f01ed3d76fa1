"""The embedded strategist: an order of the pool from what the prompt tells, and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from evorank.model.errors import ChatModelError
from evorank.personas.embedded.engineer import EmbeddedEngineer
from evorank.personas.persona import load_personas
from evorank.prompts import render
from evorank.prompts.answers import Ranking
from evorank.prompts.briefing import Pool

METRICS = [
    {"name": "active_days", "description": "", "higher_is_better": True, "success": True, "margin": None}
]


def waiting(name: str, persona: str = "optimizer", path: str | None = None, **more: Any) -> dict[str, Any]:
    """An experiment in the queue whose delta changes one place, its own where none is given."""
    return {
        "id": name, "attempt": name, "proposed_by": persona, "category": "explore", "phase": "proposed",
        "hypothesis": name, "changes": [{"op": "add", "path": path or f"/{name}", "value": name}],
        "proxy": None, "plan": None, "readings": [], "production": "p", "fingerprint": name, "result": None,
        "effects": [], "decision": None, "times": {}, "reason": "", "replication_of": None,
    } | more  # fmt: skip


def loss(difference: float, half: float = 0.001) -> dict[str, Any]:
    return {"metric": "log_loss", "lower_is_better": True, "verdict": "better", "difference": difference,
            "low": difference - half, "high": difference + half}  # fmt: skip


def alignment(difference: float, half: float = 0.001) -> dict[str, Any]:
    return loss(difference, half) | {"metric": "alignment", "lower_is_better": False}


def ended(
    name: str, persona: str, lift: float | None, result: str = "no_launch", **more: Any
) -> dict[str, Any]:
    outcome = "launch" if result == "launched" else "no_launch"
    effects = [{"metric": "active_days", "lift": lift, "lift_low": lift, "lift_high": lift}] if lift else []
    plan = {"start": "2026-01-01T00:00:00", "horizon_days": 14, "metrics": METRICS}
    known = {"phase": "completed", "result": result, "decision": {"outcome": outcome}, "effects": effects}
    return waiting(name, persona, **(known | {"plan": plan} | more))


def running(name: str, persona: str, day: int, **more: Any) -> dict[str, Any]:
    plan = {"start": "2026-01-01T00:00:00", "horizon_days": 14, "metrics": METRICS}
    readings = [{"until": f"2026-01-{1 + day:02d}T00:00:00"}]
    return waiting(name, persona, phase="live", plan=plan, readings=readings, **more)


def pool(candidates: list[dict[str, Any]], experiments: list[dict[str, Any]] | None = None) -> Pool:
    return Pool(
        persona=load_personas()["strategist"],
        surface="demo",
        description="",
        metrics=METRICS,
        places=1,
        horizon_days=14,
        production={"a": 1},
        production_fingerprint="p",
        candidates=candidates,
        experiments=experiments or [],
    )


def ranked(told: Pool, seed: int = 0) -> list[str]:
    answer = EmbeddedEngineer(seed=seed).with_structured_output(Ranking).invoke(render.rank(told))
    assert sorted(answer.order) == sorted(each["id"] for each in told.candidates)
    return list(answer.order)


def test_a_persona_whose_tests_won_goes_before_one_whose_tests_lost_and_the_untested_before_both():
    past = [ended(f"w{n}", "reward", 0.02, "launched") for n in range(3)]
    past += [ended(f"l{n}", "optimizer", -0.01) for n in range(3)]
    told = pool([waiting("o"), waiting("r", "reward"), waiting("a", "architecture")], past)
    assert ranked(told)[-1] == "o"
    assert ranked(replace(told, candidates=told.candidates[:2])) == ["r", "o"]
    losers = [ended(f"l{n}", persona, -0.01) for n in range(3) for persona in ("optimizer", "reward")]
    assert ranked(replace(told, experiments=losers))[0] == "a"


def test_a_test_that_a_guardrail_ended_has_no_effects_and_still_counts_against_its_persona():
    broken = {"outcome": "abort", "rule": "guardrail_broken"}
    past = [ended(f"b{n}", "reward", None, "aborted", decision=broken) for n in range(3)]
    past += [ended(f"w{n}", "optimizer", 0.01, "launched") for n in range(3)]
    assert ranked(pool([waiting("r", "reward"), waiting("o")], past)) == ["o", "r"]


def test_one_test_is_not_a_law():
    """Shrinkage: a single lost test does not put a persona behind one that lost three of four."""
    past = [ended("once", "reward", -0.01)]
    past += [ended(f"l{n}", "optimizer", -0.01) for n in range(3)] + [
        ended("w", "optimizer", 0.004, "launched")
    ]
    assert ranked(pool([waiting("o"), waiting("r", "reward")], past)) == ["r", "o"]


def test_places_are_spread_over_personas_that_promise_the_same():
    many = [waiting(f"o{n}") for n in range(3)] + [waiting(f"r{n}", "reward") for n in range(3)]
    assert ranked(pool(many)) == ["o0", "r0", "o1", "r1", "o2", "r2"]


def test_within_a_persona_the_surest_proxy_gain_goes_first_whichever_way_the_metric_points():
    told = pool(
        [waiting("none"), waiting("big", proxy=loss(-0.02, 0.019)), waiting("sure", proxy=loss(-0.01))]
    )
    assert ranked(told) == ["sure", "big", "none"]
    rewards = [
        waiting("none", "reward"),
        waiting("big", "reward", proxy=alignment(0.02, 0.019)),
        waiting("sure", "reward", proxy=alignment(0.01)),
    ]
    assert ranked(pool(rewards)) == ["sure", "big", "none"]


def test_near_duplicates_of_a_test_or_of_a_better_candidate_go_last():
    past = [ended("old", "optimizer", -0.01, changes=[{"op": "add", "path": "/rate", "value": 1}])]
    told = pool(
        [
            waiting("same as the test", path="/rate", proxy=loss(-0.09)),
            waiting("second", path="/batch", proxy=loss(-0.02)),
            waiting("first", path="/batch", proxy=loss(-0.03)),
            waiting("another", path="/epochs", proxy=loss(-0.01)),
        ],
        past,
    )
    assert ranked(told) == ["first", "another", "same as the test", "second"]


def test_what_has_won_live_before_comes_first():
    won = ended("w", "optimizer", 0.02, "superseded", decision={"outcome": "launch"})
    again = waiting("again", replication_of="w")
    assert ranked(pool([waiting("sure", proxy=loss(-0.1)), again], [won]))[0] == "again"


def test_a_running_test_keeps_its_place_near_its_end_and_loses_it_when_its_persona_is_discredited():
    past = [ended(f"l{n}", "optimizer", -0.01) for n in range(4)]
    past += [ended(f"w{n}", "reward", 0.02, "launched") for n in range(4)]
    fresh = waiting("r", "reward", proxy=alignment(0.02))
    assert ranked(pool([running("o", "optimizer", 1), fresh], past)) == ["r", "o"]
    assert ranked(pool([running("o", "optimizer", 13), fresh], past)) == ["o", "r"]
    assert ranked(pool([running("o", "optimizer", 1), waiting("sure", proxy=loss(-0.1))], past)) == [
        "o",
        "sure",
    ]


def test_it_reads_nothing_but_the_prompt_and_draws_nothing():
    past = [ended("l", "optimizer", -0.01), ended("w", "reward", 0.02, "launched")]
    told = pool([waiting("o"), waiting("r", "reward"), running("a", "architecture", 3)], past)
    messages = render.rank(told)
    strings = HumanMessage("\n".join(message.text for message in messages))
    assert EmbeddedEngineer(seed=1).invoke(messages).text == EmbeddedEngineer(seed=2).invoke([strings]).text


def test_the_reason_says_that_it_is_a_search_and_what_it_counted():
    past = [ended("l", "optimizer", -0.01), ended("w", "reward", 0.02, "launched")]
    answer = (
        EmbeddedEngineer().with_structured_output(Ranking).invoke(render.rank(pool([waiting("o")], past)))
    )
    assert answer.reason.startswith(
        "Search: lift that a test brings, by persona: optimizer +0.67% (1 tests)."
    )


def test_a_prompt_without_a_pool_is_an_error_that_names_the_block():
    first, second = render.rank(pool([waiting("o")]))
    cut = HumanMessage(second.text.replace("### Candidates", "### Something else"))
    with pytest.raises(ChatModelError, match="`Candidates`"):
        EmbeddedEngineer().invoke([first, cut])
