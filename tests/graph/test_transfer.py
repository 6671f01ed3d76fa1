"""Winners of one surface on another: what fits is measured there first, what does not says why."""

from __future__ import annotations

import shutil

import pytest
from kept import keep
from scripted import in_turn, learning_rate, proposal

from evorank.graph.context import open_session
from evorank.graph.ideas import Ideas
from evorank.graph.offline import graph
from evorank.graph.state import Experiment
from evorank.graph.transfer import _beneath, transfer
from evorank.graph.versions import Versions
from evorank.model.delta import apply_delta, fingerprint
from evorank.model.errors import ConfigurationError
from evorank.surfaces.surface import open_surface, save_surface

LR = {"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}
WIDER = {"op": "replace", "path": "/architecture/embedding_dim", "value": 6}
FOREIGN = {"op": "replace", "path": "/architecture/layers/h1", "value": "relu(dense(embed(city), 8))"}
SIGNAL = {"op": "replace", "path": "/reward/label", "value": "CAST(purchases AS DOUBLE)"}
COMPARISON = {
    "metric": "log_loss",
    "lower_is_better": True,
    "difference": -0.01,
    "low": -0.02,
    "high": -0.005,
}


@pytest.fixture
def other(home, context):
    """A context on a second surface, with another optimizer in production: other(chat_model)."""
    shutil.copytree(home / "surfaces" / "tiny", home / "surfaces" / "other")
    text = (home / "surfaces" / "other" / "surface.toml").read_text().replace('"tiny"', '"other"', 1)
    (home / "surfaces" / "other" / "surface.toml").write_text(text)
    spec = open_surface(home, "other").spec
    production = apply_delta(spec.production, [LR | {"value": 0.2}])
    save_surface(home, spec.model_copy(update={"production": production}))
    personas = ["optimizer", "architecture"]
    return lambda model=None, **fields: context(model, surface="other", **({"personas": personas} | fields))


@pytest.fixture
def won(other, attempt):
    """Journals winners of the proxy on "tiny": won([change ...], [change ...], outcome=...)."""

    def make(*deltas, **fields):
        session = open_session(other())
        for step, changes in enumerate(deltas):
            phi = apply_delta(open_surface(session.home, "tiny").production(), [])
            known = {"surface": "tiny", "outcome": "better", "changes": changes, "patch": changes, "phi": phi}
            known |= {"comparison": COMPARISON | {"high": -0.01 + 0.001 * step}, "fingerprint": f"f{step}"}
            session.journal.append(attempt(step, run="there", **(known | fields)))

    return make


def test_a_winner_is_measured_on_the_other_surface_before_anybody_is_asked_for_an_idea(other, won):
    won([LR, WIDER])
    model = in_turn([proposal()], [learning_rate(0.01)])
    context = other(model)
    (found,) = transfer(context, "tiny")
    assert (found.status, found.left_out) == ("proposed", {})
    assert found.why == "better on the proxy (log_loss -0.0100 [-0.0200, -0.0100])"
    graph.invoke({"steps": 2, "run": "here"}, context=context)
    first, second = sorted(open_session(context).journal.attempts(run="here"), key=lambda each: each.step)
    assert (first.origin.kind, first.origin.surface, first.origin.attempt) == (
        "transfer",
        "tiny",
        found.winner,
    )
    assert first.outcome in ("better", "cheaper", "equal", "worse", "inconclusive")
    assert first.changes == found.changes
    assert first.phi["optimizer"]["args"]["lr"] == 0.05
    assert second.origin is None
    assert [form for form, _ in model.asked][:2] == ["Review", "Proposal"]


def test_a_winner_is_proposed_once_for_a_production_and_a_dry_run_proposes_nothing(other, won):
    won([LR])
    context = other()
    ideas = Ideas(open_session(context).store, "other")
    assert [each.status for each in transfer(context, "tiny", dry_run=True)] == ["to be proposed"]
    assert ideas.waiting() == []
    assert [each.status for each in transfer(context, "tiny")] == ["proposed"]
    assert [each.status for each in transfer(context, "tiny")] == ["known"]
    assert len(ideas.waiting()) == 1


def test_a_part_that_does_not_fit_is_left_out_whole_and_says_why(other, won):
    won([FOREIGN, WIDER, LR], [FOREIGN], [LR | {"value": 0.2}])
    some, none, there = transfer(other(), "tiny")
    assert [each["path"] for each in some.changes] == ["/optimizer/args/lr"]
    assert "city" in some.left_out["architecture"]
    assert (none.status, none.changes, list(none.left_out)) == ("nothing", [], ["architecture"])
    assert there.left_out == {"optimizer": "Production has it already."}


def test_a_reward_over_signals_that_are_not_logged_there_is_left_out(other, won):
    won([SIGNAL, LR])
    (found,) = transfer(other(personas=["optimizer", "reward"]), "tiny")
    assert list(found.left_out) == ["reward"]
    assert "purchases" in found.left_out["reward"]


def test_what_a_winner_builds_on_comes_with_it(other, attempt):
    """A second launch writes its label with a factor of the first one, which the other surface never had."""
    context = other(personas=["optimizer", "reward"])
    session = open_session(context)
    base = open_surface(session.home, "tiny").production()
    old = base["reward"]["label"]
    first = [
        {"op": "add", "path": "/reward/factors/before", "value": old},
        {"op": "add", "path": "/reward/factors/liked", "value": 'CAST("like" AS DOUBLE)'},
        {"op": "add", "path": "/reward/factors/unused", "value": "CAST(share AS DOUBLE)"},
        {"op": "replace", "path": "/reward/label", "value": "before * liked"},
    ]
    second = [
        {"op": "add", "path": "/reward/factors/again", "value": "before * liked"},
        {"op": "replace", "path": "/reward/label", "value": "0.5 * again"},
    ]
    phi = apply_delta(apply_delta(base, first), second)
    known = {"surface": "tiny", "outcome": "better", "changes": second, "patch": second, "phi": phi}
    session.journal.append(attempt(0, run="there", comparison=COMPARISON, fingerprint="f", **known))
    (found,) = transfer(context, "tiny")
    assert (found.status, found.left_out) == ("proposed", {})
    assert {each["path"] for each in found.changes} == {
        "/reward/factors/before",
        "/reward/factors/liked",
        "/reward/factors/again",
        "/reward/label",
    }


def test_a_part_that_is_a_number_builds_on_nothing():
    operations = [{"op": "replace", "path": "/trees", "value": 300}]
    assert _beneath("trees", operations, {"trees": 300}, {"trees": 100}) == []


def test_two_winners_that_are_the_same_there_are_proposed_once(other, won):
    won([LR], [LR, FOREIGN])
    first, second = transfer(other(), "tiny")
    assert (first.status, second.status) == ("proposed", "nothing")
    assert "same candidate" in second.left_out["all"]


def test_what_no_persona_there_may_change_is_not_proposed(other, won):
    won([WIDER])
    (found,) = transfer(other(personas=["optimizer"]), "tiny")
    assert (found.status, list(found.left_out)) == ("nothing", ["all"])


def launched(session, name: str, changes, **fields) -> Experiment:
    production = open_surface(session.home, "tiny").production()
    phi = apply_delta(production, changes)
    effect = {"metric": "visits", "lift": 0.05, "lift_low": 0.03, "lift_high": 0.07}
    known = {
        "id": name, "surface": "tiny", "proposed_by": "architecture", "hypothesis": "it is wider",
        "production": fingerprint(production), "changes": changes, "phi": phi, "fingerprint": name,
        "phase": "completed", "result": "launched", "effects": [effect],
    }  # fmt: skip
    experiment = Experiment(**(known | fields))
    keep(session, experiment)
    return experiment


def test_what_was_launched_and_serves_to_this_day_goes_before_winners_of_the_proxy(other, won):
    won([LR])
    context = other()
    session = open_session(context)
    served = launched(session, "served", [WIDER])
    launched(session, "rolled back", [LR | {"value": 0.07}])
    Versions(session.store, "tiny").launch(
        phi=served.phi, artifact="a", experiment="served", why="it won", key="served"
    )
    (found,) = transfer(context, "tiny")
    assert (found.winner, found.why) == ("served", "launched (visits +5.0% [+3.0%, +7.0%])")
    (idea,) = Ideas(session.store, "other").waiting()
    assert (idea.origin.experiment, idea.persona) == ("served", "architecture")
    assert "launched (visits +5.0%" in idea.proposal.hypothesis


def test_reports_and_losers_are_no_winners(other, won):
    won([LR], outcome="worse")
    with pytest.raises(ConfigurationError, match="no winner yet"):
        transfer(other(), "tiny")


def test_two_different_surfaces_are_needed(other):
    with pytest.raises(ConfigurationError, match="two surfaces"):
        transfer(other(), "other")
    with pytest.raises(ConfigurationError, match="nowhere"):
        transfer(other(), "nowhere")
