"""The engineer's own code: every piece is sound, comes when it is time, and goes without a trace."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from evorank.model.component_code import Code, allowed, load
from evorank.model.config import Component
from evorank.model.conformance.planted import constant_loss, loss_of, planted
from evorank.model.delta import apply_delta, fingerprint
from evorank.model.errors import Finding
from evorank.personas.embedded.engineer import EmbeddedEngineer, hypothesis, stated
from evorank.personas.embedded.inventions import carrying, restored
from evorank.personas.embedded.knobs import Knob, changes, get, put
from evorank.personas.embedded.library import LIBRARY
from evorank.personas.embedded.playbook import knobs_for
from evorank.personas.embedded.reading import Reading, read
from evorank.personas.embedded.search import Move
from evorank.personas.embedded.surrogate import Surrogate
from evorank.prompts import render
from evorank.prompts.answers import Delta, Proposal

MOVES = [
    *(("own optimizer", name) for name in ("ftrl_proximal", "sign_momentum")),
    ("own embedding optimizer", "ftrl_proximal"),
    ("own schedule", "warmup_stable_decay"),
    *(("own layer", name) for name in ("excitation_gate", "gated_path", "mixed_cross")),
    ("own activation", "learned_swish"),
]
ONLY_INNOVATE = {"innovate": 1}


def persona_of(knob: str) -> str:
    return "architecture" if knob in ("own layer", "own activation") else "optimizer"


@pytest.fixture
def turned(briefing_of):
    """(knob name, setting) -> the reading of its prompt, the knob, and production with it turned."""

    def turn(name: str, setting: str) -> tuple[Reading, Knob, dict[str, Any]]:
        reading = read(render.think(briefing_of(persona_of(name))))
        (knob,) = (knob for knob in knobs_for(reading) if knob.name == name)
        return reading, knob, knob.write(reading.production, setting)

    return turn


# -- the code itself


def test_the_moves_of_this_file_are_the_whole_library() -> None:
    assert {name for _, name in MOVES} == set(LIBRARY)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_source_is_short_and_says_its_equation_and_where_it_comes_from(name: str) -> None:
    source = LIBRARY[name].source
    (public,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    said = ast.get_docstring(public) or ""
    assert "=" in said or "min(" in said
    assert re.search(r"arXiv \d{4}\.\d{5}|et al\. \d{4}", said)
    assert len(source) < 1600
    assert max(map(len, source.splitlines())) <= 110


@pytest.mark.parametrize(("knob", "name"), MOVES)
def test_every_invention_passes_the_lint_and_the_trials_on_tiny_batches(knob, name, turned, ranker) -> None:
    _, _, phi = turned(knob, name)
    assert ranker.check(phi) == []
    with allowed():
        assert ranker.check(phi) == []


@pytest.mark.parametrize(("knob", "name"), MOVES)
def test_every_invention_learns_and_learns_the_same_twice(knob, name, turned, ranker) -> None:
    reading, _, phi = turned(knob, name)
    phi = put(put(phi, "/optimizer/batch_size", 64), "/optimizer/epochs", 2)
    rows, labels = planted(reading.log, 2000, seed=1)
    with allowed():
        weights, again = (ranker.fit(phi, rows, labels, seed=0) for _ in range(2))
        scores = ranker.predict(phi, weights, rows)
    assert all(np.array_equal(weights[key], again[key]) for key in weights)
    assert loss_of(scores, labels, "bce") < 0.9 * constant_loss(labels, "bce")


def code(name: str) -> Code:
    invention = LIBRARY[name]
    return load({name: Component(kind=invention.kind, source=invention.source)})


def stepped(optimizer: Any, weight: torch.nn.Parameter, steps: int, rows: int = 6) -> torch.Tensor:
    """The weights after steps on noisy gradients of |w|² and a schedule; the last rows get none."""
    generator = torch.Generator().manual_seed(1)
    start = optimizer.param_groups[0]["lr"]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = start * (0.2 + step % 3)
        weight.grad = (weight.detach() + torch.randn(weight.shape, generator=generator)) * 0.1
        weight.grad[rows:] = 0.0
        optimizer.step()
    return weight.detach()


def matrix() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))


def test_ftrl_without_penalties_is_adagrad_whatever_the_schedule() -> None:
    ours, theirs = matrix(), matrix()
    with allowed():
        followed = stepped(code("ftrl_proximal").optimizers["ftrl_proximal"]([ours], lr=0.1), ours, 20)
    adagrad = stepped(torch.optim.Adagrad([theirs], lr=0.1, eps=1e-6), theirs, 20)
    assert torch.allclose(followed, adagrad, atol=1e-4)


def test_ftrl_with_l1_puts_weights_without_signal_at_exactly_zero_and_leaves_the_others() -> None:
    weight = torch.nn.Parameter(torch.full((2,), 0.3))
    with allowed():
        optimizer = code("ftrl_proximal").optimizers["ftrl_proximal"]([weight], lr=0.5, l1=1.0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            noise = torch.randn(2, generator=generator) * 0.05
            weight.grad = noise + torch.tensor([0.0, weight[1].item() - 2.0])
            optimizer.step()
    assert weight[0] == 0.0
    assert weight[1] > 1.0


def test_sign_momentum_is_lion_on_what_a_batch_has_seen_and_rests_elsewhere() -> None:
    ours, start = matrix(), matrix().detach()
    with allowed():
        made = code("sign_momentum").optimizers["sign_momentum"]([ours], lr=0.01, weight_decay=0.1)
        moved = stepped(made, ours, 10, rows=4)
    assert torch.equal(moved[4:], start[4:])
    lion, momentum, generator = start.clone(), torch.zeros(6, 3), torch.Generator().manual_seed(1)
    for step in range(10):
        gradient = (lion + torch.randn(lion.shape, generator=generator)) * 0.1
        lr = 0.01 * (0.2 + step % 3)
        lion = lion - lr * (torch.sign(0.9 * momentum + 0.1 * gradient) + 0.1 * lion)
        momentum = 0.99 * momentum + 0.01 * gradient
    assert torch.allclose(moved[:4], lion[:4], atol=1e-5)


def test_the_schedule_rises_stays_and_falls_to_a_small_rest() -> None:
    with allowed():
        schedule = code("warmup_stable_decay").schedules["warmup_stable_decay"]
        rates = [schedule(step, 100, warmup=0.1, decay=0.3) for step in range(100)]
        flat = [schedule(step, 100, decay=0.0) for step in range(100)]
        once = schedule(0, 1)
    assert rates[:10] == sorted(rates[:10])
    assert set(rates[10:70]) == {1.0}
    assert rates[70:] == sorted(rates[70:], reverse=True)
    assert 0 <= rates[-1] < 0.05
    assert set(flat) == {1.0}
    assert 0 < once <= 1


# -- knobs: a use and its code come and go together


@pytest.mark.parametrize(("knob", "name"), MOVES)
def test_turning_it_on_brings_its_code_and_off_takes_both_away(knob, name, turned) -> None:
    reading, turn, phi = turned(knob, name)
    assert turn.read(reading.production) == turn.settings[0]
    assert turn.read(phi) == name
    assert get(phi, f"/components/{name}") == LIBRARY[name].component
    assert turn.write(phi, turn.settings[0]) == reading.production


@pytest.mark.parametrize(("knob", "name"), MOVES)
def test_its_delta_is_small_and_within_what_its_persona_may_patch(knob, name, turned, ranker) -> None:
    reading, _, phi = turned(knob, name)
    patch = changes(reading.production, phi)
    assert apply_delta(reading.production, patch, ranker.patchable()[persona_of(knob)]) == phi
    uses = [operation for operation in patch if not operation["path"].startswith("/components")]
    assert 1 <= len(uses) <= 4
    assert len(patch) == len(uses) + 1


@pytest.mark.parametrize(("knob", "name"), MOVES)
def test_it_is_no_verdict_on_the_listed_setting_that_it_replaces(knob, name, turned) -> None:
    """A failed FTRL must not keep the search from trying Adam."""
    reading, turn, phi = turned(knob, name)
    moved = {each.family for each in knobs_for(reading) if each.read(phi) != each.read(reading.production)}
    rates = {"embedding optimizer"} if knob == "own embedding optimizer" else set()  # its learning rate
    assert {turn.family} <= moved <= {turn.family} | rates


def test_a_listed_setting_turned_over_it_takes_it_away(turned) -> None:
    reading, _, phi = turned("own optimizer", "ftrl_proximal")
    (listed,) = (knob for knob in knobs_for(reading) if knob.name == "optimizer")
    adam = listed.write(phi, "Adam")
    assert get(adam, "/optimizer/name") == "Adam"
    assert get(adam, "/components") == {}


def test_weight_decay_warm_up_and_rate_turn_beside_it(turned, ranker) -> None:
    reading, _, phi = turned("own optimizer", "sign_momentum")
    for knob in knobs_for(reading):
        if knob.name in ("weight decay", "warm-up", "learning rate (times the usual)", "embedding optimizer"):
            phi = knob.write(phi, knob.settings[2])
            assert knob.read(phi) == knob.settings[2]
    assert ranker.check(phi) == []


def test_code_that_somebody_else_brought_is_left_alone_even_under_our_name(briefing_of) -> None:
    theirs = {"kind": "layer", "source": "class Theirs: ...", "description": ""}
    phi = briefing_of().production
    phi = put(put(phi, "/components/gated_path", theirs), "/components/spare", theirs)
    assert carrying(phi) is phi
    used = put(phi, "/architecture/layers/output", "gated_path(h2, inputs, 8)")
    assert carrying(used) is used


def test_every_setting_is_a_place_of_its_own_to_the_surrogate(turned) -> None:
    for name in ("own optimizer", "own layer"):
        reading, knob, _ = turned(name, MOVES[0][1] if name == "own optimizer" else MOVES[4][1])
        phis = [knob.write(reading.production, setting) for setting in knob.settings]
        encoded = Surrogate(
            knobs_for(reading), phis, np.zeros(len(phis)), np.ones(len(phis)), np.random.default_rng(0)
        ).encode(phis)
        assert len(np.unique(encoded, axis=0)) == len(phis)


# -- the engineer: when it brings code, and how THINK tells CODE


def proposals(briefing, count: int) -> list[Proposal]:
    engineer = EmbeddedEngineer().with_structured_output(Proposal)
    return [engineer.invoke(render.think(replace(briefing, step=step))) for step in range(count)]


@pytest.mark.parametrize("persona", ["optimizer", "architecture"])
def test_an_engineer_asked_to_innovate_sooner_or_later_brings_each(persona, briefing_of) -> None:
    briefing = briefing_of(persona, wanted=ONLY_INNOVATE)
    said = " ".join(proposal.hypothesis for proposal in proposals(briefing, 60))
    wanted = {name for knob, name in MOVES if persona_of(knob) == persona}
    assert set(re.findall(r"brings `/components/(\w+)`", said)) == wanted
    assert re.search(r"brings `/components/\w+` \(", said)


@pytest.mark.parametrize("category", ["explore", "exploit"])
def test_nothing_but_innovate_brings_code(category, briefing_of, loop) -> None:
    for persona in ("optimizer", "architecture"):
        run = loop(briefing_of(persona), lambda phi: int(fingerprint(phi)[:6], 16) / 16**6)
        run.categories = (category,)
        for _ in range(8):
            assert run.step()["components"] == {}


def test_what_won_with_code_is_refined_with_its_code(briefing_of, loop) -> None:
    """The journal shows a long source only in part; the engineer knows its own and loses nothing."""
    briefing = briefing_of("architecture", wanted=ONLY_INNOVATE)
    run = loop(briefing, lambda phi: 0.5 - 0.1 * ("gated_path" in phi["components"]))
    run.categories = ("innovate",)
    while not any("gated_path" in phi["components"] for phi in run.candidates):
        run.step()
    run.categories = ("exploit",)
    for _ in range(6):
        phi = run.step()
        assert carrying(phi) is phi
    kept = sum("gated_path" in phi["components"] for phi in run.candidates[-6:])
    assert kept >= 3
    assert len({fingerprint(phi) for phi in run.candidates}) == len(run.candidates)


def test_a_source_cut_short_in_the_journal_is_read_in_full(briefing_of, loop) -> None:
    run = loop(briefing_of("optimizer"), lambda phi: 0.5)
    phi = put(run.briefing.production, "/optimizer/name", "ftrl_proximal")
    phi = carrying(put(phi, "/optimizer/args", {"lr": 0.1}))
    run.record(Proposal(category="innovate", hypothesis="h"), run.briefing.production, phi)
    messages = render.think(replace(run.briefing, journal=run.journal))
    assert "addcmul_(rate - d" not in messages[1].text
    (tried,) = read(messages).tried
    assert tried.phi == phi


def test_a_source_that_only_begins_like_ours_elsewhere_is_not_completed() -> None:
    cut = {"components": {"gated_path": {"kind": "layer", "source": "class Other(nn.Mod…"}}}
    assert restored(cut) == cut


@pytest.mark.parametrize(("knob", "name"), MOVES)
def test_think_names_the_code_and_code_writes_it(knob, name, turned, briefing_of) -> None:
    reading, turn, phi = turned(knob, name)
    move = Move("innovate", None, phi, ((turn.name, turn.settings[0], name),))
    text = hypothesis(reading, move, reading.production)
    assert len(text) < 1000
    assert f"brings `/components/{name}` ({LIBRARY[name].description[:20]}" in text
    assert stated(reading.production, text) == phi
    proposal = Proposal(category="innovate", hypothesis=text)
    messages = render.code(briefing_of(persona_of(knob)), proposal)
    delta = EmbeddedEngineer().with_structured_output(Delta).invoke(messages)
    patch = [{"op": op.op, "path": op.path, "value": op.value} for op in delta.patch]
    assert apply_delta(reading.production, patch) == phi


def test_a_persona_that_may_not_patch_components_brings_none(briefing_of) -> None:
    briefing = briefing_of("optimizer", wanted=ONLY_INNOVATE, patchable=["/optimizer"])
    assert not any("brings" in proposal.hypothesis for proposal in proposals(briefing, 12))


def test_a_system_without_components_has_no_knob_for_code(trees_briefing) -> None:
    assert not any(knob.code for knob in knobs_for(read(render.think(trees_briefing))))


def test_a_refused_component_is_replaced_by_something_else(briefing_of, turned, ranker) -> None:
    reading, _, phi = turned("own layer", "mixed_cross")
    patch = [dict(operation) for operation in changes(reading.production, phi)]
    finding = Finding("/components/mixed_cross/source", "line 3: is not available", None)
    proposal = Proposal(category="innovate", hypothesis="A cross.")
    messages = render.code(
        briefing_of("architecture"), proposal, [finding], Delta.model_validate({"patch": patch})
    )
    delta = EmbeddedEngineer().with_structured_output(Delta).invoke(messages)
    written = [{"op": op.op, "path": op.path, "value": op.value} for op in delta.patch]
    assert not any(operation["path"].startswith("/components") for operation in written)
    assert ranker.check(apply_delta(reading.production, written)) == []


@pytest.mark.parametrize("persona", ["optimizer", "architecture"])
def test_the_example_of_a_persona_file_is_a_valid_candidate(persona, briefing_of, ranker) -> None:
    briefing = briefing_of(persona)
    delta = Delta.model_validate_json(briefing.persona.example)
    patch = [{"op": op.op, "path": op.path, "value": op.value} for op in delta.patch]
    phi = apply_delta(briefing.production, patch, briefing.patchable)
    assert ranker.check(phi) == []
    with allowed():
        assert ranker.check(phi) == []
