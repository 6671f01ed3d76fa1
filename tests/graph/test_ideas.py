"""What a launch leaves behind: deltas that no longer fit go back to CODE once; gains that are gone rest."""

from __future__ import annotations

import pytest
from planted import METRICS
from scripted import in_turn, learning_rate, proposal

from evorank.graph.context import open_session
from evorank.graph.evolve import graph as evolve
from evorank.graph.ideas import Ideas, carrier, rework, touched
from evorank.graph.offline import graph as offline
from evorank.graph.operations import open_operations
from evorank.graph.state import Experiment
from evorank.graph.status import overview
from evorank.graph.tick import experiment_id, propose, submit, tick
from evorank.graph.turn import turn_builder
from evorank.model.delta import apply_delta, fingerprint
from evorank.model.errors import Finding
from evorank.prompts.answers import Delta, Operation
from evorank.surfaces.online import Online
from evorank.surfaces.surface import open_surface, save_surface

LR, CLIP = "/optimizer/args/lr", "/optimizer/grad_clip"
REFUSAL = Finding(LR, "failed its test for 0.1", 0.2)


@pytest.fixture
def live(home, context):
    """Makes a context on the tiny surface with traffic."""
    spec = open_surface(home, "tiny").spec
    online = Online(
        platform="planted:Planted", metrics=METRICS, holdback=0.0, wanted_lift=0.1, minimum_rows=100
    )
    save_surface(home, spec.model_copy(update={"online": online}))
    return lambda chat_model=None, **fields: context(chat_model, **({"selection": "fifo"} | fields))


def change(path: str, value: object) -> list[dict[str, object]]:
    return [{"op": "replace", "path": path, "value": value}]


def candidate(operations, changes, **fields) -> Experiment:
    """An experiment of today's production, as a winner of the proxy is nominated."""
    production = operations.production()
    phi = apply_delta(production, changes)
    before, after = fingerprint(production), fingerprint(phi)
    known = {"id": experiment_id("tiny", before, after), "surface": "tiny", "proposed_by": "optimizer"}
    known |= {"production": before, "fingerprint": after, "phi": phi, "changes": changes}
    return Experiment(**(known | fields))


def launch(operations, changes) -> None:
    """Another winner goes into production, as its own experiment would make it."""
    current = operations.schedule.current()
    operations.schedule.launch(
        phi=apply_delta(current.phi, changes),
        artifact=current.artifact,
        experiment=None,
        why="another winner",
        key="another",
    )


def ended(context, identifier):
    found = open_operations(context).session.journal.experiments("tiny")
    return next(each for each in found if each.id == identifier)


def test_a_candidate_that_a_launch_made_unfit_is_coded_again_in_the_next_attempt_and_once(live):
    model = in_turn([proposal()], [learning_rate(0.03), learning_rate(0.02), learning_rate(0.01)])
    context = live(model)
    operations = open_operations(context)
    operations.prepare(lambda _: None)
    identifier = propose(operations, change(LR, 0.05), why="a smaller step settles lower", by="ada")
    launch(operations, change(LR, 0.2))
    tick(context)
    refused = ended(context, identifier)
    assert refused.result == "rejected"
    assert refused.findings[0]["pointer"] == LR
    assert overview(context).ideas == 1
    evolve.invoke({"steps": 2, "run": "r", "days": 0}, context=context)
    first, second = sorted(operations.session.journal.attempts(run="r"), key=lambda each: each.step)
    assert first.origin.model_dump() == {
        "kind": "rework", "surface": "tiny", "experiment": identifier, "attempt": None
    }  # fmt: skip
    assert first.hypothesis == "a smaller step settles lower"
    assert first.changes == change(LR, 0.03), "against production as it is now"
    assert second.origin is None
    asked = [form for form, _ in model.asked]
    assert asked[:2] == ["Delta", "Review"], "nobody was asked to think of it again"
    assert "failed its test" in model.asked[0][1]
    assert overview(context).ideas == 0
    offline.invoke({"steps": 1, "run": "later"}, context=context)
    assert [each.origin for each in operations.session.journal.attempts(run="later")] == [None]


def test_what_won_on_the_proxy_and_makes_no_difference_on_the_newest_data_takes_no_traffic(live):
    context = live()
    operations = open_operations(context)
    operations.prepare(lambda _: None)
    won = {"verdict": "better", "metric": "log_loss", "difference": -0.01, "low": -0.02, "high": -0.005}
    gone = candidate(operations, change(CLIP, 1e6), proxy=won)
    submit(operations, gone)
    # A person asks for the same kind of change, and has reasons that no proxy knows.
    asked = propose(operations, change(CLIP, 9e5), why="stability in production", by="ada")
    tick(context)
    found = ended(context, gone.id)
    assert found.validation["comparison"]["verdict"] == "equal"
    assert (found.result, found.findings) == ("rejected", [])
    assert "gained on the proxy is gone" in found.reason
    tick(context)
    assert ended(context, asked).phase == "live"


def idea(name: str, path: str = LR, persona: str = "optimizer"):
    experiment = Experiment(
        id=name, surface="tiny", proposed_by=persona, production="p", phi={}, fingerprint=name,
        changes=change(path, 0.05), hypothesis=f"the hypothesis of {name}",
    )  # fmt: skip
    return rework(experiment, [REFUSAL])


def test_an_idea_is_handed_out_once_and_the_same_step_gets_the_same_one_again(live):
    session = open_session(live())
    ideas = Ideas(session.store, "tiny")
    assert [ideas.add(idea("a")), ideas.add(idea("b")), ideas.add(idea("a"))] == [True, True, False]
    first = ideas.take("step 0", session)
    assert first.key == "rework/a"
    assert ideas.take("step 0", session) == first, "it was killed before it could record anything"
    assert ideas.take("step 1", session).key == "rework/b"
    assert ideas.take("step 2", session) is None
    assert ideas.add(idea("a")) is False
    assert Ideas(session.store, "elsewhere").take("step 2", session) is None


def test_both_stores_keep_ideas_in_their_order(open_store, live):
    session = open_session(live())
    ideas = Ideas(open_store(), "tiny")
    for name in "cab":
        ideas.add(idea(name))
    assert [each.key for each in Ideas(open_store(), "tiny").waiting()] == [
        "rework/c",
        "rework/a",
        "rework/b",
    ]
    assert ideas.take("x", session).key == "rework/c"
    assert (ideas.known("rework/c"), ideas.known("rework/a"), ideas.known("rework/z")) == ("x", "", None)


def test_an_idea_waits_for_a_run_whose_personas_may_carry_it(live):
    session = open_session(live())
    both = open_session(live(personas=["optimizer", "architecture"]))
    wide = idea("wide", "/architecture/embedding_dim", "architecture")
    assert carrier(session, wide) is None
    assert carrier(both, wide) == "architecture"
    assert carrier(both, idea("of a person", LR, "ada")) == "optimizer"
    ideas = Ideas(session.store, "tiny")
    ideas.add(wide)
    ideas.add(idea("fits"))
    assert ideas.take("one", session).key == "rework/fits"
    assert ideas.take("two", both).key == "rework/wide"


def test_a_reward_is_carried_by_who_judges_rewards(live):
    session = open_session(live(personas=["optimizer", "reward"]))
    assert carrier(session, idea("label", "/reward/label", "optimizer")) == "reward"


def test_what_is_mended_stays_about_what_it_was_about(live):
    """A refused rate must not come back as another batch size, nor a refused label as another optimizer."""
    context = live(in_turn([proposal()], [{"patch": change("/architecture/embedding_dim", 8)}]),
                   personas=["optimizer", "architecture", "reward"])  # fmt: skip
    session = open_session(context)
    assert touched(session, idea("rate")) == ["/optimizer"]
    wide = idea("both").model_copy(update={"delta": Delta(patch=[
        Operation(op="replace", path="/reward/label", value="1.0"), Operation(op="add", path=LR, value=1.0),
    ])})  # fmt: skip
    assert touched(session, wide) == ["/optimizer", "/reward"]
    Ideas(session.store, "tiny").add(idea("rate"))
    offline.invoke({"steps": 1, "run": "r"}, context=context)
    (attempt,) = session.journal.attempts(run="r")
    assert attempt.origin.kind == "rework"
    assert attempt.outcome == "refused"
    assert "outside what this persona may patch" in attempt.reason


def test_the_picture_shows_that_an_idea_needs_no_thinking():
    edges = {(edge.source, edge.target) for edge in turn_builder().compile().get_graph().edges}
    assert {("__start__", "think"), ("__start__", "attempt"), ("think", "attempt")} <= edges
