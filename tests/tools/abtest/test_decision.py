from __future__ import annotations

import pytest
from pydantic import ValidationError
from readings import ACTIVE, DISLIKES, PLAN, START, arm, reading

from evorank.tools.abtest.decision import Reading, read_daily, read_horizon
from evorank.tools.abtest.guardrails import before, look
from evorank.tools.abtest.plan import Plan
from evorank.tools.abtest.quality import check, sample_ratio

# 10,000 users an arm: a relative error of 1.41%; +2.8% is superior, harm of 2% is ruled out from +0.8% up.


@pytest.mark.parametrize(
    ("active", "dislikes", "outcome", "rule"),
    [
        (0.04, -0.02, "launch", "superior_and_safe"),
        (0.04, 0.02, "launch", "superior_and_safe"),
        (0.02, 0.00, "no_launch", "no_superior_metric"),
        (-0.01, 0.00, "no_launch", "guardrail_not_shown"),
        (0.04, 0.03, "no_launch", "guardrail_not_shown"),
        (0.04, 0.09, "abort", "guardrail_broken"),
        (-0.09, 0.00, "abort", "guardrail_broken"),
    ],
)
def test_a_launch_needs_a_superior_success_metric_and_every_guardrail_non_inferior(
    active, dislikes, outcome, rule
):
    found = read_horizon(PLAN, reading(14, active_days=active, dislikes=dislikes), [])
    assert found.decision is not None
    assert (found.decision.outcome, found.decision.rule) == (outcome, rule)
    culprit = "dislikes" if rule.startswith("guardrail") and active > 0 else "active_days"
    assert culprit in found.decision.reason
    assert Reading.model_validate_json(found.model_dump_json()) == found


def test_a_bad_point_estimate_alone_never_aborts():
    history = []
    for day in range(1, 14):
        statistics = reading(day, memory=0.9 if day > 1 else None, active_days=-0.03, dislikes=0.06)
        found = read_daily(PLAN, statistics, history)
        assert found.decision is None
        assert found.effects == []
        assert all(each.lift is not None and each.z is not None for each in found.looks)
        history += found.looks


def test_harm_beyond_the_margin_and_the_bound_aborts_and_says_so():
    found = read_daily(PLAN, reading(3, active_days=-0.07), [])
    assert found.decision is not None
    assert found.decision.rule == "guardrail_broken"
    assert "active_days -7.00%, z" in found.decision.reason
    assert "beyond 2.00%" in found.decision.reason


def test_the_horizon_cannot_be_read_early():
    with pytest.raises(ValueError, match="not yet"):
        read_horizon(PLAN, reading(13, active_days=0.2), [])


def test_broken_data_aborts_before_any_metric_is_believed():
    statistics = reading(14, active_days=0.2).model_copy(update={"users_candidate": 9_000})
    found = read_horizon(PLAN, statistics, [])
    assert found.decision is not None
    assert (found.decision.outcome, found.decision.rule) == ("abort", "data_quality")
    assert found.looks == []


def test_success_metrics_share_the_error_rate_and_guardrails_share_the_alpha():
    second = ACTIVE.model_copy(update={"name": "watch", "margin": None})
    plan = PLAN.model_copy(update={"metrics": (ACTIVE, second, DISLIKES)})
    assert plan.success_level == pytest.approx(0.975)
    assert plan.guardrail_alpha == pytest.approx(0.025)
    statistics = reading(14, active_days=0.03)
    statistics.metrics["watch"] = statistics.metrics["active_days"]
    # 3% is superior at 95% (z 2.1), not at 97.5%.
    assert read_horizon(PLAN, reading(14, active_days=0.03), []).decision.outcome == "launch"
    assert read_horizon(plan, statistics, []).decision.rule == "no_superior_metric"


def test_a_success_metric_where_lower_is_better_wins_by_falling():
    metric = DISLIKES.model_copy(update={"success": True, "margin": None})
    plan = PLAN.model_copy(update={"metrics": (metric,)})
    assert read_horizon(plan, reading(14, dislikes=-0.04), []).decision.outcome == "launch"
    assert read_horizon(plan, reading(14, dislikes=0.04), []).decision.outcome == "no_launch"


def test_a_repeated_tick_finds_what_it_found_and_too_few_users_are_not_judged():
    few = look(PLAN, ACTIVE, reading(1, users=150, active_days=-0.9), [])
    assert (few.z, few.bound, few.broken) == (None, None, False)
    assert "not tested" in str(few)
    first = look(PLAN, ACTIVE, reading(2, active_days=-0.04), [few])
    statistics = reading(3, memory=0.8, active_days=-0.04)
    second = look(PLAN, ACTIVE, statistics, [few, first])
    assert look(PLAN, ACTIVE, statistics, [few, first, second]) == second
    assert second.information == pytest.approx(first.information / 0.8**2)
    assert before([few, first, second], statistics.until) == first.until
    assert before([], statistics.until) is None


def test_forgetting_to_read_with_the_look_before_is_an_error_and_not_a_silent_pass():
    first = look(PLAN, ACTIVE, reading(2), [])
    with pytest.raises(ValueError, match="last"):
        look(PLAN, ACTIVE, reading(3), [first])


def test_a_metric_that_nothing_happened_in_is_not_tested_and_does_not_end_the_test():
    rare = DISLIKES.model_copy(update={"rows_expected": False})
    plan = PLAN.model_copy(update={"metrics": (ACTIVE, rare)})
    statistics = reading(1)
    nothing = arm(0.0, 0.0, 10_000, with_rows=0)
    statistics.metrics["dislikes"] = statistics.metrics["dislikes"].model_copy(
        update={"control": nothing, "candidate": nothing}
    )
    found = read_daily(plan, statistics, [])
    assert found.decision is None
    assert found.looks[1].z is None
    assert check(PLAN, statistics)[0].rule == "metric_coverage"


@pytest.mark.parametrize(
    ("change", "rule", "said"),
    [
        ({"users_control": 0, "users_candidate": 0, "unusable": 4}, "no_exposures", "4 rows had no user"),
        ({"users_candidate": 10_500}, "sample_ratio", "p = "),
        ({"users_candidate": 0}, "sample_ratio", "0 in the candidate"),
        ({"crossed": 150, "unknown": 60}, "crossed_users", "150 of 20210"),
    ],
)
def test_each_fault_of_the_data_is_named(change, rule, said):
    (found,) = check(PLAN, reading(3).model_copy(update=change))
    assert found.rule == rule
    assert said in found.reason


def test_lost_rows_are_named_per_arm_and_small_imbalances_pass():
    statistics = reading(3)
    broken = statistics.metrics["dislikes"].model_copy(update={"candidate": arm(1.0, 1.0, 10_000, 9_400)})
    statistics.metrics["dislikes"] = broken
    (found,) = check(PLAN, statistics)
    assert found.rule == "metric_coverage"
    assert "9400 of 10000 users exposed to the candidate" in found.reason
    assert check(PLAN, reading(3).model_copy(update={"users_candidate": 10_200, "crossed": 50})) == []
    assert sample_ratio(10_000, 10_000) == 1
    assert sample_ratio(9_767, 10_233) == pytest.approx(0.00098, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"horizon_days": 10}, "multiple of 7"),
        ({"metrics": (DISLIKES,)}, "success metric"),
        ({"metrics": (ACTIVE, ACTIVE)}, "must differ"),
        ({"control": "1"}, "must differ"),
    ],
)
def test_a_plan_that_promises_nothing_is_refused(change, said):
    fields = {"experiment_id": "e", "start": START, "metrics": (ACTIVE, DISLIKES)} | change
    with pytest.raises(ValidationError, match=said):
        Plan(**fields)


def test_a_metric_needs_a_role():
    with pytest.raises(ValidationError, match="success metric, a guardrail"):
        type(ACTIVE)(name="m", source="t", value="count(*)")
