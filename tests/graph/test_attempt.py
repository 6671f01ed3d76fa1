from __future__ import annotations

import pytest
from kept import keep
from scripted import ACCEPT, in_turn, learning_rate, proposal, rates

from evorank.graph.context import open_session
from evorank.graph.knowledge import MEASURED
from evorank.graph.offline import graph
from evorank.graph.reviews import linted
from evorank.graph.state import Experiment, Step
from evorank.graph.turn import turn_builder
from evorank.model.errors import Stopped, ToolError


@pytest.fixture
def run(context):
    """Runs some steps with a chat model; gives the journal's records."""

    def go(chat_model, steps=1, run="r", **fields):
        given = context(chat_model, **fields)
        graph.invoke({"steps": steps, "run": run}, context=given)
        return open_session(given).journal.attempts(run=run)

    return go


def test_a_candidate_is_trained_and_journaled_with_everything_it_cost(run, trainings):
    (attempt,) = run(rates(0.05))
    assert attempt.outcome in MEASURED
    assert attempt.changes == [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]
    assert attempt.phi["optimizer"]["args"]["lr"] == 0.05
    assert attempt.comparison["low"] <= attempt.comparison["difference"] <= attempt.comparison["high"]
    assert (attempt.category, attempt.persona, attempt.surface) == ("explore", "optimizer", "tiny")
    assert (attempt.usage.calls, attempt.usage.input_tokens, attempt.usage.output_tokens) == (3, 300, 30)
    assert attempt.usage.cpu_seconds > 0
    assert attempt.reason == attempt.comparison["reason"]
    assert attempt.production != attempt.fingerprint
    assert 0.05 in trainings.trained


def test_a_bad_candidate_is_sent_back_with_its_findings_and_repaired(run):
    model = in_turn([proposal()], [learning_rate("fast"), learning_rate(0.05)])
    (attempt,) = run(model)
    assert attempt.outcome in MEASURED
    assert attempt.repairs == 1
    assert attempt.findings == []
    repair = [text for form, text in model.asked if form == "Delta"][1]
    assert "/optimizer/args/lr" in repair
    assert "fast" in repair


def test_a_bad_candidate_is_journaled_with_its_reason(run, trainings):
    model = in_turn([proposal()], [learning_rate(-1.0)])
    (attempt,) = run(model)
    assert attempt.outcome == "refused"
    assert attempt.repairs == 2
    assert model.count("Delta") == 3
    assert model.count("Review") == 0, "the linter reads only what passed the checks"
    assert "/optimizer/args/lr" in attempt.reason
    assert attempt.findings[0]["pointer"].startswith("/optimizer/args")
    assert trainings.trained == []


def test_a_patch_outside_the_personas_part_is_refused(run, trainings):
    patch = {"patch": [{"op": "replace", "path": "/reward/label", "value": "1.0"}]}
    (attempt,) = run(in_turn([proposal()], [patch]))
    assert attempt.outcome == "refused"
    assert "outside what this persona may patch" in attempt.reason
    assert attempt.patch == [{"op": "replace", "path": "/reward/label", "value": "1.0"}]
    assert attempt.phi is None
    assert trainings.trained == []


def test_the_linters_findings_go_back_to_code(run):
    revise = {"verdict": "revise", "findings": ["Lower the rate below 0.02."]}
    model = in_turn([proposal()], [learning_rate(0.09), learning_rate(0.01)], [revise, ACCEPT])
    (attempt,) = run(model)
    assert attempt.outcome in MEASURED
    assert attempt.phi["optimizer"]["args"]["lr"] == 0.01
    assert "Lower the rate below 0.02" in [text for form, text in model.asked if form == "Delta"][1]


def test_a_linter_that_is_never_content_refuses(run, trainings):
    revise = {"verdict": "revise", "findings": ["It does not do what it says."]}
    (attempt,) = run(in_turn([proposal()], [learning_rate(0.09)], [revise]))
    assert attempt.outcome == "refused"
    assert "linter: It does not do what it says" in attempt.reason
    assert trainings.trained == []


def test_the_linter_sees_what_fixed_rules_found_and_what_an_earlier_version_was_sent_back_for(run):
    revise = {"verdict": "revise", "findings": ["Lower the rate below 0.02."]}
    model = in_turn([proposal()], [learning_rate(9.0), learning_rate(0.01)], [revise, ACCEPT])
    run(model)
    first, second = (text for form, text in model.asked if form == "Review")
    assert "### Findings of rules" in first
    assert "/optimizer/args/lr is 9, far from what Adagrad needs" in first
    assert "### Findings so far" not in first
    assert "### Findings of rules" not in second
    assert "linter: Lower the rate below 0.02" in second


def test_what_the_linter_said_is_on_record_and_counted(run):
    back = {"verdict": "revise", "findings": ["No."]}
    rates = [learning_rate(rate) for rate in (0.09, 0.01, 0.08, 0.08, 0.07, 0.06)]
    model = in_turn([proposal()], rates, [back, ACCEPT, back, ACCEPT, ACCEPT, back])
    attempts = run(model, steps=4)
    assert [[each["verdict"] for each in attempt.reviews] for attempt in attempts] == [
        ["revise", "accept"],
        ["revise", "accept"],
        ["accept"],
        ["revise", "revise", "revise"],
    ]
    assert attempts[0].reviews[0]["findings"] == ["No."]
    assert attempts[0].reviews[0]["fingerprint"] != attempts[0].fingerprint
    broken = attempts[2].model_copy(update={"outcome": "failed"})
    assert linted([*attempts, broken]).model_dump() == {"read": 5, "caught": 2, "in_vain": 1, "missed": 1}


def test_an_infinite_value_is_refused_and_later_prompts_show_it_all_the_same(run):
    (first,) = run(in_turn([proposal()], [learning_rate(float("inf"))]))
    assert first.outcome == "refused"
    model = rates(0.05)
    assert run(model, steps=2)[1].outcome in MEASURED
    assert '"value": null' in model.asked[0][1]


def test_production_itself_is_a_duplicate(run, trainings):
    same = {"patch": [{"op": "test", "path": "/optimizer/name", "value": "Adagrad"}]}
    (attempt,) = run(in_turn([proposal()], [same]))
    assert attempt.outcome == "duplicate"
    assert "production itself" in attempt.reason
    assert trainings.trained == []


def test_a_candidate_of_the_journal_is_a_duplicate_and_not_trained_again(run, trainings):
    first, second = run(rates(0.05, 0.05), steps=2)
    assert first.outcome in MEASURED
    assert second.outcome == "duplicate"
    assert "step 0" in second.reason
    assert second.fingerprint == first.fingerprint
    assert trainings.trained.count(0.05) == 2, "two seeds, once"


def test_the_next_prompt_says_what_live_traffic_said_of_an_attempt(run, context):
    (first,) = run(rates(0.05))
    tested = Experiment(
        id="tested",
        attempt=first.id,
        proposed_by=first.persona,
        result="no_launch",
        reason="No success metric is superior.",
        **first.model_dump(include={"surface", "production", "changes", "phi", "fingerprint"}),
    )
    elsewhere = tested.model_copy(update={"id": "elsewhere", "surface": "other", "result": "launched"})
    model = rates(0.05, 0.02)
    for each in (tested, elsewhere):
        keep(open_session(context(model)), each)
    run(model, steps=2)
    asked = [text for form, text in model.asked if form == "Proposal"][-1]
    assert '"online": {"verdict": "lost", "result": "no_launch", "reason": "No success metric' in asked
    assert '"launched"' not in asked


def test_a_delta_may_start_from_an_attempt_of_the_journal(run):
    (first,) = run(rates(0.05))
    batch = {"patch": [{"op": "replace", "path": "/optimizer/batch_size", "value": 512}]}
    model = in_turn([proposal(base=first.fingerprint[:10])], [batch])
    second = run(model, steps=2)[1]
    assert second.base == first.fingerprint
    assert {change["path"] for change in second.changes} == {"/optimizer/args/lr", "/optimizer/batch_size"}


def test_a_base_that_nobody_knows_is_refused_by_name(run):
    (attempt,) = run(in_turn([proposal(base="0123456789")], [learning_rate(0.05)]))
    assert attempt.outcome == "refused"
    assert "/base" in attempt.reason
    assert "0123456789" in attempt.reason


def test_a_chat_model_that_breaks_is_a_result_and_the_run_goes_on(run):
    model = in_turn([RuntimeError("no route to host"), proposal()], [learning_rate(0.05)])
    first, second = run(model, steps=2)
    assert first.outcome == "failed"
    assert "no route to host" in first.reason
    assert first.category is None
    assert second.outcome in MEASURED


def test_an_answer_in_another_form_is_asked_for_twice_more(run):
    model = in_turn([proposal(category="gamble"), proposal()], [learning_rate(0.05)])
    (attempt,) = run(model)
    assert attempt.outcome in MEASURED
    assert (attempt.usage.calls, attempt.usage.repairs) == (4, 1)
    assert "That is not a valid Proposal: `category` input should be" in model.asked[1][1]
    (attempt,) = run(in_turn([proposal(category="gamble")], []), run="stubborn")
    assert attempt.outcome == "failed"
    assert "did not answer with a valid Proposal" in attempt.reason
    assert (attempt.usage.calls, attempt.usage.repairs) == (3, 2)


def test_a_training_that_fails_is_journaled_with_its_reason(run, trainings):
    trainings.refuse = ToolError("The worker ran out of memory.")
    trainings.refuse.cpu_seconds = 12.5
    (attempt,) = run(rates(0.05))
    assert attempt.usage.cpu_seconds == 12.5
    assert attempt.usage.calls == 3
    assert attempt.outcome == "failed"
    assert attempt.reason == "The worker ran out of memory."
    assert attempt.phi is not None


def test_a_guardrail_refuses_before_training(run, home, trainings):
    path = home / "surfaces" / "tiny" / "surface.toml"
    path.write_text(path.read_text().replace("maximum = 5000000.0", "maximum = 100.0"))
    (attempt,) = run(rates(0.05))
    assert attempt.outcome == "refused"
    assert "parameters <= 100" in attempt.reason
    assert trainings.trained == []


def test_a_guardrail_that_a_training_breaks_refuses_with_what_the_training_cost(run, home):
    path = home / "surfaces" / "tiny" / "surface.toml"
    path.write_text(path.read_text() + '\n[[guardrails]]\nmetric = "latency_ms"\nmaximum = 1e-6\n')
    (attempt,) = run(rates(0.05))
    assert attempt.outcome == "refused"
    assert "latency_ms" in attempt.reason
    assert attempt.usage.cpu_seconds > 0


def test_a_step_that_is_in_the_journal_already_does_nothing_again(context, attempt, trainings):
    model = rates(0.05)
    given = context(model)
    journal = open_session(given).journal
    journal.append(attempt(0, run="r", surface="tiny", reason="recorded before the crash"))
    turn = turn_builder().compile()
    turn.invoke({"steps": [Step(run="r", step=0, persona="optimizer").model_dump()]}, context=given)
    assert model.asked == []
    assert trainings.trained == []
    assert [record.reason for record in journal.attempts()] == ["recorded before the crash"]


def test_a_training_given_up_early_is_worse_with_its_reason_and_without_a_comparison(run, trainings):
    curves = {"candidate": [(900, 0.7)], "production": [(900, 0.5), (1800, 0.4)]}
    trainings.refuse = Stopped("Stopped after 62% of the training: over its last 900 rows ...", curves)
    trainings.refuse.cpu_seconds = 7.0
    (attempt,) = run(rates(0.05))
    assert attempt.usage.cpu_seconds == 7.0
    assert attempt.outcome == "worse"
    assert attempt.reason.startswith("Stopped after 62% of the training")
    assert attempt.comparison is None
    assert attempt.curves == curves
    assert attempt.phi["optimizer"]["args"]["lr"] == 0.05
