"""Parameters are numbers with bounds, and a text that people can edit."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from evorank.model.errors import ConfigurationError
from evorank.surfaces.simulated.parameters import WorldParameters
from evorank.surfaces.simulated.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_toml(name, tmp_path):
    path = tmp_path / "world.toml"
    path.write_text(PRESETS[name].parameters.to_toml())
    assert WorldParameters.read(path) == PRESETS[name].parameters


def test_absent_fields_keep_their_defaults(tmp_path):
    path = tmp_path / "world.toml"
    path.write_text("[feed]\nslate = 4\n")
    assert WorldParameters.read(path) == WorldParameters().changed(feed={"slate": 4})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[feed]\nslate = 0\n", "feed.slate"),
        ("[feed]\nslate = 30\n", "must be at most feed.candidates"),
        ("[feed]\ntabs = [0.5, 0.4]\n", "must add up to 1"),
        ("[feed]\ndayparts = [17, 5]\n", "increasing hours"),
        ("[population]\nusers = nan\n", "population.users"),
        ("[people]\nusers = 5\n", "people"),
        ("[feed\n", "TOML"),
    ],
)
def test_a_bad_file_is_refused_with_the_field(text, told, tmp_path):
    path = tmp_path / "world.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        WorldParameters.read(path)


def test_every_number_is_described_or_explained_by_its_class():
    schema = WorldParameters.model_json_schema()
    for name, part in schema["$defs"].items():
        assert part["description"], name


def test_parameters_cannot_be_changed_in_place():
    with pytest.raises(ValidationError):
        WorldParameters().name = "other"


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"home.*reserved.*shorts.*watch_next"):
        preset("front_page")


def test_presets_differ_in_world_schema_and_production():
    some = [PRESETS[name] for name in ("home", "watch_next", "shorts")]
    assert len({each.parameters.to_toml() for each in some}) == 3
    assert len({tuple(f.name for f in each.features) for each in some}) == 3
    assert len({each.production["reward"]["label"] for each in some}) == 3
    for each in some:  # each begins where the paper does
        assert each.production["optimizer"]["name"] == "Adagrad"
        assert each.production["architecture"]["layers"]["output"] == "layer_norm(h2)"
