"""Persona files: the five that ship, a team's own, and what a broken file is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from evorank.model.errors import ConfigurationError
from evorank.personas.persona import load_personas
from evorank.prompts.answers import Delta

OWN = """---
title: cost engineer
tools: [compute_loss]
patches: [optimizer]
metric: training time
---
You save time.
"""
PARTS = {"optimizer": ["/optimizer", "/components"], "architecture": ["/architecture"], "reward": ["/reward"]}


def test_the_five_personas_ship_with_the_package():
    assert set(load_personas()) == {"optimizer", "architecture", "reward", "linter", "strategist"}


def test_every_example_has_the_form_that_code_must_answer():
    for persona in load_personas().values():
        if persona.example:
            assert Delta.model_validate(json.loads(persona.example)).patch


def test_a_teams_own_file_adds_or_replaces_a_persona(tmp_path):
    (tmp_path / "cost.md").write_text(OWN)
    (tmp_path / "optimizer.md").write_text(OWN.replace("cost", "other"))
    personas = load_personas(tmp_path)
    assert personas["cost"].prose == "You save time."
    assert personas["optimizer"].title == "other engineer"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no front matter", "between two `---` lines"),
        (OWN.replace("title: cost engineer\n", ""), "lacks `title`"),
        (OWN.replace("compute_loss", "rm"), "`tools` may name"),
        (OWN.replace("metric: training time", "metric: [1]"), "`metric` must be a str"),
        (OWN.replace("metric:", "colour: red\nmetric:"), "unknown front matter"),
        (OWN.replace("You save time.\n", ""), "has no text"),
        (OWN.replace("patches: [optimizer]\n", ""), "lacks `patches`. Name parts of Φ"),
        (OWN.replace("[optimizer]", "[loss]"), "`patches` must hold parts of Φ"),
        (OWN.replace("[optimizer]", "[/a//b]"), "or JSON Pointers such as /optimizer/epochs, got '/a//b'"),
        (OWN.replace("[optimizer]", "[reward]"), "`tools` must name compute_eval"),
        (OWN.replace("[compute_loss]", "[]"), "`tools` must name one of compute_loss and compute_eval"),
        (OWN.replace("[compute_loss]", "[compute_loss, compute_eval]"), "one of compute_loss and"),
        (OWN.replace("metric:", "example: save time\nmetric:"), "`example` must be a delta as JSON"),
        (OWN.replace("title: cost", "title: {"), "not valid YAML"),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_the_field(tmp_path, text, says):
    (tmp_path / "cost.md").write_text(text)
    with pytest.raises(ConfigurationError, match=r"cost\.md") as error:
        load_personas(tmp_path)
    assert says in str(error.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="`persona_folder` must be a folder"):
        load_personas(tmp_path / "nowhere")


def test_a_file_whose_name_cannot_be_a_persona_is_refused(tmp_path):
    (tmp_path / "Cost Engineer.md").write_text(OWN)
    with pytest.raises(ConfigurationError, match=r"Try cost_engineer\.md"):
        load_personas(tmp_path)


@pytest.mark.parametrize(
    ("patches", "opened"),
    [
        ("[optimizer]", ["/optimizer", "/components"]),
        ("[architecture, optimizer]", ["/architecture", "/optimizer", "/components"]),
        ("[/optimizer/epochs]", ["/optimizer/epochs"]),
        ("[/optimizer/epochs, /nowhere, /opt]", ["/optimizer/epochs"]),
        ("[/reward/label]", []),
    ],
)
def test_a_persona_may_patch_what_its_file_and_the_system_both_open(tmp_path, patches, opened):
    (tmp_path / "cost.md").write_text(OWN.replace("[optimizer]", patches))
    assert load_personas(tmp_path)["cost"].patchable(PARTS) == opened


def test_a_pointer_above_what_the_system_opens_is_narrowed_to_it():
    wide = replace(load_personas()["optimizer"], patches=("/trees",))
    parts = {"optimizer": ["/trees/rate"], "architecture": ["/trees/leaves"], "reward": ["/trees/label"]}
    assert wide.patchable(parts) == ["/trees/leaves", "/trees/rate"], "it cannot judge a reward"
    assert replace(wide, tools=("compute_eval",)).patchable(parts) == [
        "/trees/label",
        "/trees/leaves",
        "/trees/rate",
    ]
