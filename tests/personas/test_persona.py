"""Persona files: the five that ship, a team's own, and what a broken file is told."""

from __future__ import annotations

import json

import pytest

from evorank.model.errors import ConfigurationError
from evorank.personas.persona import load_personas
from evorank.prompts.answers import Delta

OWN = "---\ntitle: cost engineer\ntools: [compute_loss]\nmetric: training time\n---\nYou save time.\n"


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
        (OWN.replace("title: cost", "title: {"), "not valid YAML"),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_the_field(tmp_path, text, says):
    (tmp_path / "cost.md").write_text(text)
    with pytest.raises(ConfigurationError, match=r"cost\.md") as error:
        load_personas(tmp_path)
    assert says in str(error.value)


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="must be a directory"):
        load_personas(tmp_path / "nowhere")
