"""The embedded engineer as a chat model: what it reads, what it answers, and that it has no other channel."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import PydanticOutputParser

from evorank.model.delta import apply_delta, fingerprint
from evorank.model.errors import ChatModelError, Finding
from evorank.personas.embedded.engineer import EmbeddedEngineer
from evorank.personas.embedded.reading import read
from evorank.prompts import render
from evorank.prompts.answers import Delta, Inquiry, Note, Proposal, Proposals, Review
from evorank.tools.run_sql_query import QueryResult

PERSONAS = ["optimizer", "architecture", "reward"]


def rate_loss(phi):
    """Best at twice an optimizer's usual rate; small batches help a little."""
    optimizer = phi["optimizer"]
    scale = {"Adagrad": 0.03, "SGD": 0.05, "Adamax": 0.002, "ftrl_proximal": 0.03}.get(
        optimizer["name"], 0.001
    )
    off = math.log2(optimizer["args"]["lr"] / scale / 2)
    return 0.6 + 0.01 * off**2 + 0.001 * math.log2(optimizer["batch_size"] / 512) ** 2


def propose(briefing, seed=0, category="exploit"):
    told = replace(briefing, wanted={category: 1})
    return EmbeddedEngineer(seed=seed).with_structured_output(Proposal).invoke(render.think(told))


def based_on(briefing):
    """The attempt that the next proposal starts from."""
    base = propose(briefing).base
    return next(attempt for attempt in briefing.journal if attempt["fingerprint"].startswith(base))


@pytest.mark.parametrize("persona", PERSONAS)
def test_every_candidate_is_valid_new_and_inside_its_own_part(persona, briefing_of, ranker, loop):
    briefing = briefing_of(persona)
    run = loop(briefing, lambda phi: int(fingerprint(phi)[:6], 16) / 16**6)
    seen = {briefing.production_fingerprint}
    for _ in range(12):
        phi = run.step()
        assert ranker.check(phi) == [], json.dumps(phi)
        assert fingerprint(phi) not in seen
        seen.add(fingerprint(phi))
    assert {attempt["category"] for attempt in run.journal} == {"explore", "exploit", "innovate"}


def test_the_same_seed_and_messages_give_the_same_answer(briefing_of):
    messages = render.think(briefing_of("architecture"))
    answers = {EmbeddedEngineer(seed=3).invoke(messages).text for _ in range(2)}
    assert len(answers) == 1


def test_parallel_steps_and_other_seeds_try_different_things(briefing_of):
    same_journal = [propose(briefing_of(step=step)).hypothesis for step in range(4)]
    assert len(set(same_journal)) == 4
    assert len({propose(briefing_of(step=9), seed).hypothesis for seed in range(6)}) > 1


def test_changing_the_journal_in_the_prompt_changes_the_answer(briefing_of, loop):
    """Nothing but the text differs: same engineer, same step, attempts whose outcomes are swapped."""
    run = loop(briefing_of(), rate_loss)
    for _ in range(8):
        run.step()
    swapped = [
        attempt | {"comparison": attempt["comparison"] | {"difference": -attempt["comparison"]["difference"]}}
        for attempt in run.journal
    ]
    told = briefing_of(step=8, journal=run.journal)
    assert propose(told) != propose(replace(told, journal=swapped))
    assert propose(told) == propose(replace(told, journal=list(reversed(run.journal))))


def test_a_training_that_was_stopped_early_is_a_warning_and_never_a_base(briefing_of, loop):
    run = loop(briefing_of(), rate_loss)
    for _ in range(12):
        run.step()
    best = based_on(briefing_of(step=12, journal=run.journal))
    others = [attempt for attempt in run.journal if attempt is not best]
    stopped = best | {"outcome": "worse", "comparison": None, "reason": "Stopped after 60% ..."}
    unknown = best | {"outcome": "failed", "category": None, "comparison": None, "changes": [], "patch": []}
    answers = []
    for journal in (run.journal, [*others, stopped], [*others, unknown]):
        told = briefing_of(step=12, journal=journal)
        answers.append([propose(told, seed) for seed in range(12)])
    based = [sum(best["fingerprint"].startswith(each.base) for each in of if each.base) for of in answers]
    assert based[0] > 0
    assert based[1] == 0
    assert answers[1] != answers[2]


def online(attempt, result="no_launch", **more):
    """What live traffic said of an attempt, as the journal's record of its experiment."""
    outcome = "launch" if result == "launched" else "no_launch"
    return {
        "id": f"experiment-{attempt['id']}",
        "attempt": attempt["id"],
        "proposed_by": attempt["persona"],
        "production": attempt["production"],
        "changes": attempt["changes"],
        "phase": "completed",
        "result": result,
        "decision": {"outcome": outcome},
    } | more


def test_what_lost_in_live_traffic_is_no_base_and_nothing_is_built_upon_it(briefing_of, loop):
    run = loop(briefing_of(), rate_loss)
    for _ in range(12):
        run.step()
    told = briefing_of(step=12, journal=run.journal)
    best = based_on(told)
    lost = replace(told, experiments=[online(best)])
    bases = [[propose(each, seed).base for seed in range(16)] for each in (told, lost)]
    often, never = (sum(best["fingerprint"].startswith(base) for base in each) for each in bases)
    assert often > 0
    assert never == 0
    (line,) = [tried for tried in read(render.think(lost)).tried if tried.lost_live]
    assert line.gain == 0.0, "its proxy gain is not believed"


def test_a_change_that_lost_live_is_not_tried_on_any_later_production(trees_briefing):
    """Only one switch may be turned, and it was turned live, against a production that is gone."""
    attempt = {
        "id": "a",
        "persona": "ada",
        "production": "gone",
        "changes": [{"op": "replace", "path": "/trees/extra", "value": True}],
    }
    told = replace(trees_briefing, patchable=["/trees/extra"])
    assert "/trees/extra" in propose(told).hypothesis
    assert "/trees/extra" in propose(replace(told, experiments=[online(attempt, "failed")])).hypothesis
    with pytest.raises(ChatModelError, match="tried everything"):
        propose(replace(told, experiments=[online(attempt)]))


def test_with_nothing_measured_it_explores_where_it_should_exploit(briefing_of):
    assert propose(briefing_of()).category == "explore"


def test_it_answers_with_as_many_different_proposals_as_are_wanted(briefing_of, loop):
    run = loop(briefing_of(), rate_loss)
    for _ in range(5):
        run.step()
    wanted = {"explore": 2, "exploit": 1, "innovate": 2}
    messages = render.think(briefing_of(step=5, journal=run.journal, wanted=wanted))
    answer = EmbeddedEngineer().with_structured_output(Proposals).invoke(messages)
    kinds = [proposal.category for proposal in answer.proposals]
    assert kinds == ["explore", "explore", "exploit", "innovate", "innovate"]
    assert len({proposal.hypothesis for proposal in answer.proposals}) == 5


def test_it_proposes_what_is_left_where_more_is_wanted(trees_briefing):
    told = replace(trees_briefing, patchable=["/trees/extra"], wanted={"explore": 3})
    answer = EmbeddedEngineer().with_structured_output(Proposals).invoke(render.think(told))
    assert len(answer.proposals) == 1


def test_a_standstill_makes_it_jump(briefing_of):
    def turned(stagnant):
        """Settings that 12 proposals of a new structure state."""
        told = [briefing_of("architecture", step=step, stagnant=stagnant) for step in range(12)]
        return sum(propose(each, category="innovate").hypothesis.count(" from ") for each in told)

    assert turned(stagnant=9) > 1.3 * turned(stagnant=0)


def test_its_note_counts_what_won_and_what_never_did_and_cites_each(briefing_of, loop, attempt_refused):
    run = loop(briefing_of(), rate_loss)
    for _ in range(10):
        run.step()
    won = [attempt for attempt in run.journal if attempt["outcome"] == "better"]
    refused = [attempt_refused(step) | {"id": f"refused{step}", "run": "r"} for step in range(3)]

    def noted(journal):
        told = briefing_of(journal=journal, own_run="r")
        return EmbeddedEngineer().with_structured_output(Note).invoke(render.insight(told))

    note = noted(run.journal)
    known = {attempt["id"][:8]: attempt["outcome"] for attempt in run.journal}
    assert note.works
    for claim in note.works:
        assert claim.claim.startswith("Counted: ")
        assert {known[cited] for cited in claim.cites} == {"better"}
    assert noted(won).dead_ends == []
    (barren,) = noted(refused).dead_ends
    assert barren.claim == (
        "Counted: none of 3 candidates that changed /optimizer/embedding won (3 refused)."
    )
    assert barren.cites == ["2", "1", "0"]
    launched = [attempt | {"production": "0" * 64} for attempt in refused]
    assert noted(launched) == noted(refused), "what was tried on an older production teaches as well"


def test_a_note_on_an_empty_journal_claims_nothing(briefing_of):
    note = EmbeddedEngineer().with_structured_output(Note).invoke(render.insight(briefing_of()))
    assert (note.works, note.dead_ends) == ([], [])


def test_the_engineer_has_no_channel_but_the_text(briefing_of, loop):
    """A fresh engineer given only the strings of the messages answers like the one that lived the run."""
    run = loop(briefing_of(), rate_loss)
    for _ in range(6):
        run.step()
    messages = render.think(briefing_of(step=6, journal=run.journal))
    strings = "\n".join(message.text for message in messages)
    lived = EmbeddedEngineer(seed=0)
    lived.invoke(messages)
    assert lived.invoke(messages).text == EmbeddedEngineer(seed=0).invoke([HumanMessage(strings)]).text


def planted_loss(phi):
    """Five things to mend, each for itself: only who builds on what worked mends several."""
    optimizer = phi["optimizer"]
    scale = {"Adagrad": 0.03, "SGD": 0.05, "Adamax": 0.002, "ftrl_proximal": 0.03}
    rate = math.log2(optimizer["args"]["lr"] / scale.get(optimizer["name"], 0.001) / 2)
    return (
        0.6
        + 0.01 * min(rate**2, 4)
        + 0.005 * abs(math.log2(optimizer["batch_size"] / 512))
        + 0.01 * abs(math.log2(optimizer["epochs"] / 2))
        + 0.01 * (optimizer["grad_clip"] is None)
        + 0.01 * (optimizer["schedule"]["name"] != "cosine")
    )


@pytest.mark.heavy
def test_an_engineer_that_reads_its_journal_beats_the_same_one_that_reads_an_empty_one(briefing_of, loop):
    steps, differences, gains = 16, [], []
    for seed in range(5):
        arms = []
        for reads in (True, False):
            run = loop(briefing_of(), planted_loss, seed, reads=reads)
            arms.append([planted_loss(run.step()) for _ in range(steps)])
        told, untold = arms
        assert told[0] == untold[0]  # nothing to read yet
        later = slice(steps // 2, None)
        differences.append(sum(told[later]) / len(told[later]) - sum(untold[later]) / len(untold[later]))
        gains.append(min(untold) - min(told))
    assert all(difference < 0 for difference in differences), differences
    assert sum(gains) / len(gains) > 0.005, gains


def test_it_learns_on_a_schema_that_it_has_never_seen(trees_briefing, loop):
    def loss(phi):
        trees = phi["trees"]
        return (math.log2(trees["learning_rate"] / 0.02) ** 2 + math.log2(trees["leaves"] / 120) ** 2) / 100

    run = loop(trees_briefing, loss)
    losses = [loss(run.step()) for _ in range(20)]
    assert min(losses) < 0.35 * loss(trees_briefing.production)
    assert all(phi["note"] == "as is" for phi in run.candidates)


def test_a_duplicate_is_not_proposed_when_the_space_is_nearly_empty(trees_briefing, loop):
    run = loop(replace(trees_briefing, patchable=["/trees/extra", "/trees/boosting"]), lambda phi: 0.1)
    for _ in range(3):
        run.step()
    assert len({fingerprint(phi) for phi in run.candidates}) == 3
    with pytest.raises(ChatModelError, match="tried everything"):
        run.step()


def test_nothing_to_turn_is_an_error_that_says_what_to_give(trees_briefing):
    with pytest.raises(ChatModelError, match="bounds, enums or booleans"):
        propose(replace(trees_briefing, patchable=["/note"]))


def test_code_writes_what_the_hypothesis_states(briefing_of):
    briefing = briefing_of()
    proposal = Proposal(category="explore", hypothesis="Exactly: `/optimizer/args/lr` := `0.05`.")
    delta = EmbeddedEngineer().with_structured_output(Delta).invoke(render.code(briefing, proposal))
    assert [(op.op, op.path, op.value) for op in delta.patch] == [("replace", "/optimizer/args/lr", 0.05)]


def test_code_answers_another_engineers_words_with_a_delta_of_its_own(briefing_of, ranker):
    proposal = Proposal(category="explore", hypothesis="Something about smoothness.")
    delta = EmbeddedEngineer().with_structured_output(Delta).invoke(render.code(briefing_of(), proposal))
    patch = [{"op": op.op, "path": op.path, "value": op.value} for op in delta.patch]
    assert ranker.check(apply_delta(briefing_of().production, patch)) == []


def test_a_repair_leaves_out_what_was_found_and_keeps_the_rest(briefing_of):
    previous = Delta.model_validate(
        {
            "patch": [
                {"op": "replace", "path": "/optimizer/args/lr", "value": 99.0},
                {"op": "replace", "path": "/optimizer/batch_size", "value": 1024},
            ]
        }
    )
    proposal = Proposal(category="explore", hypothesis="More steps.")
    finding = Finding("/optimizer/args/lr", "must lie in (0, 10)", 99.0)
    messages = render.code(briefing_of(), proposal, [finding], previous)
    delta = EmbeddedEngineer().with_structured_output(Delta).invoke(messages)
    assert [op.path for op in delta.patch] == ["/optimizer/batch_size"]


def test_a_repair_of_a_layer_is_valid_and_touches_something_else(briefing_of, ranker):
    patch = [{"op": "replace", "path": "/architecture/layers/h1", "value": "relu(dense(nothing, 128))"}]
    proposal = Proposal(category="explore", hypothesis="A new input.")
    finding = Finding("/architecture/layers/h1", "names nothing known", "nothing")
    briefing = briefing_of("architecture")
    messages = render.code(briefing, proposal, [finding], Delta.model_validate({"patch": patch}))
    delta = EmbeddedEngineer().with_structured_output(Delta).invoke(messages)
    written = [{"op": op.op, "path": op.path, "value": op.value} for op in delta.patch]
    assert written != patch
    assert ranker.check(apply_delta(briefing.production, written)) == []


def explored(briefing):
    messages = render.explore(briefing, 5, asked=bool(briefing.insights))
    return EmbeddedEngineer().with_structured_output(Inquiry).invoke(messages)


def test_the_reward_persona_asks_for_rates_once_and_then_uses_them(briefing_of):
    first = explored(briefing_of("reward"))
    assert "avg" in first.query
    assert "is_like" in first.query
    assert first.finding == ""
    columns = ["impressions", "is_click", "is_like", "is_hate"]
    table = QueryResult(
        columns=columns, rows=[[1000, 0.3, 0.0, 0.01]], truncated=False, seconds=0.1
    ).as_markdown()
    told = briefing_of("reward", insights=[{"query": first.query, "table": table}])
    assert explored(told).query is None
    assert explored(told).finding.startswith("Search: rates of the signals are is_click 30.000%")
    for step in range(12):
        assert "is_like" not in propose(replace(told, step=step), category="explore").hypothesis


def test_a_family_that_is_always_refused_is_avoided(briefing_of, attempt_refused):
    def proposes_embedding(journal):
        proposals = [
            propose(briefing_of(step=step, journal=journal), category="innovate") for step in range(20, 32)
        ]
        return sum("embedding optimizer" in proposal.hypothesis for proposal in proposals)

    refused = [attempt_refused(step) for step in range(8)]
    assert proposes_embedding(refused) < proposes_embedding([])


def test_its_hypothesis_says_that_a_search_made_it(briefing_of):
    assert propose(briefing_of()).hypothesis.startswith("Search step")
    assert EmbeddedEngineer()._llm_type == "evorank-embedded-engineer"


def test_structured_output_comes_raw_as_well_and_as_plain_json(briefing_of):
    messages = render.think(briefing_of())
    both = EmbeddedEngineer().with_structured_output(Proposal, include_raw=True).invoke(messages)
    assert both["parsing_error"] is None
    assert both["parsed"] == PydanticOutputParser(pydantic_object=Proposal).parse(both["raw"].text)
    assert both["raw"].usage_metadata["total_tokens"] == 0
    plain = EmbeddedEngineer().with_structured_output(Proposal.model_json_schema()).invoke(messages)
    assert plain["hypothesis"] == both["parsed"].hypothesis


def test_a_wrong_form_is_a_parsing_error_beside_the_raw_answer(briefing_of):
    seen = (
        EmbeddedEngineer()
        .with_structured_output(Review, include_raw=True)
        .invoke(render.think(briefing_of()))
    )
    assert seen["parsed"] is None
    assert seen["parsing_error"] is not None
    assert json.loads(seen["raw"].text)["hypothesis"]


def test_a_message_that_is_no_prompt_of_ours_is_refused_by_name():
    with pytest.raises(ChatModelError, match="lacks the block `Call`"):
        EmbeddedEngineer().invoke("hello")
