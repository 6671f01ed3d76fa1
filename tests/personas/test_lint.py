"""The linter without a language model: what it sends back, and that it lets a good delta pass."""

from __future__ import annotations

import pytest

from evorank.personas.embedded.engineer import EmbeddedEngineer
from evorank.prompts import render
from evorank.prompts.answers import Delta, Proposal, Review

LAYERS = "/architecture/layers"
CODE = {"kind": "activation", "source": "def half(x):\n    return x / 2\n", "description": ""}


def review(briefing, *patch, hypothesis="It should help."):
    delta = Delta.model_validate({"patch": list(patch)})
    proposal = Proposal(category="explore", hypothesis=hypothesis)
    messages = render.review(briefing, proposal, delta)
    return EmbeddedEngineer().with_structured_output(Review).invoke(messages)


def sets(path, value, op="replace"):
    return {"op": op, "path": path, "value": value}


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ([sets("/optimizer/name", "Adagrad")], "changes nothing"),
        ([sets("/optimizer/nothing/here", 1)], "does not apply"),
        ([sets("/optimizer/name", "Adam"), sets("/optimizer/args", {"lr": 5.0})], "/optimizer/args/lr is 5"),
        ([sets(f"{LAYERS}/spare", "dense(inputs, 8)", "add")], "never used by output"),
        ([sets(f"{LAYERS}/output", "dropout(h2, 0.2)")], "ends in dropout"),
        ([sets(f"{LAYERS}/h2", "dropout(relu(dense(h1, 128)), 0.9)")], "drops 90%"),
        ([sets(f"{LAYERS}/output", "h2 * 0.0")], "multiplies by zero"),
        ([sets(f"{LAYERS}/output", "sigmoid(dense(h2, 1))")], "saturates the logit"),
        ([sets("/components/halved", CODE, "add")], "used by no layer, optimizer or schedule"),
        (
            [sets("/components/my_layer2", CODE, "add"), sets(f"{LAYERS}/h2", "my_layer2(dense(h1, 128))")],
            "a name that says nothing",
        ),
        (
            [
                sets("/components/halved", CODE, "add"),
                sets("/components/damped", CODE, "add"),
                sets(f"{LAYERS}/h2", "halved(damped(dense(h1, 128)))"),
            ],
            "has the source of /components/halved",
        ),
        ([sets("/reward/label", "CAST(is_hate AS DOUBLE)")], "no positive signal"),
        ([sets("/reward/label", "0.5")], "uses no column"),
        ([sets("/reward/label", "CAST(returned_next_day AS DOUBLE)")], "the outcome"),
    ],
)
def test_what_would_waste_a_run_is_sent_back_with_its_place(briefing_of, patch, says):
    seen = review(briefing_of("linter"), *patch)
    assert seen.verdict == "revise"
    assert says in " ".join(seen.findings)


def test_a_delta_that_contradicts_its_hypothesis_is_sent_back(briefing_of):
    stated = "Exactly: `/optimizer/args/lr` := `0.05`."
    assert (
        review(briefing_of("linter"), sets("/optimizer/args/lr", 0.05), hypothesis=stated).verdict == "accept"
    )
    assert (
        review(briefing_of("linter"), sets("/optimizer/args/lr", 0.2), hypothesis=stated).verdict == "revise"
    )


def test_code_that_is_used_and_named_for_what_it_does_passes(briefing_of):
    brings = sets("/components/halved", CODE, "add")
    assert review(briefing_of("linter"), brings, sets(f"{LAYERS}/h2", "halved(dense(h1, 8))")).findings == []
    schedule = {"kind": "schedule", "source": "def late(step, steps):\n    return 1.0\n", "description": ""}
    brings = sets("/components/late_fall", schedule, "add")
    uses = sets("/optimizer/schedule", {"name": "late_fall", "args": {}})
    assert review(briefing_of("linter"), brings, uses).findings == []


def test_a_repeated_attempt_is_sent_back(briefing_of, loop):
    run = loop(briefing_of(), lambda phi: 0.5)
    run.step()
    patch = run.journal[0]["changes"]
    seen = review(briefing_of("linter", journal=run.journal), *patch)
    assert "attempt- by optimizer already was this Φ" in seen.findings[0]


@pytest.mark.parametrize("persona", ["optimizer", "architecture", "reward"])
def test_what_the_engineer_writes_passes_its_own_linter(persona, briefing_of):
    briefing = briefing_of(persona)
    engineer = EmbeddedEngineer(seed=2)
    proposal = engineer.with_structured_output(Proposal).invoke(render.think(briefing))
    delta = engineer.with_structured_output(Delta).invoke(render.code(briefing, proposal))
    review_of = engineer.with_structured_output(Review).invoke(render.review(briefing, proposal, delta))
    assert review_of.findings == []
