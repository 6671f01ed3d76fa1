"""surface.toml: readable, complete, never half-written; and the simulated surface."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from evorank.model.errors import ConfigurationError, LogError
from evorank.model.logs.spec import Categorical, LogSpec, Numeric
from evorank.surfaces.exploration import Exploration
from evorank.surfaces.simulated.create import create
from evorank.surfaces.surface import (
    Guardrail,
    NorthStar,
    Surface,
    SurfaceSpec,
    list_surfaces,
    open_surface,
    save_surface,
)

LOG = LogSpec(
    path="log.csv",
    user="user",
    item="item",
    time="time",
    reader={"delim": "\t", "types": {"user": "VARCHAR"}},
    columns={"price": 'CAST("the price" AS DOUBLE)'},
    signals=["click"],
    features=[Categorical(name="item", max_size=10), Numeric(name="price", log1p=True)],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    create(home, "simulated", "home", users=300, days=20).dataset()
    return home


@pytest.fixture
def small(made: Path, tmp_path: Path) -> Surface:
    """The surface "simulated" with few users."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return open_surface(tmp_path, "simulated")


def spec_of(**changes) -> SurfaceSpec:
    fields = {
        "name": "shop",
        "description": 'The "front page"\nof a shop',
        "log": LOG,
        "north_star": NorthStar(name="days", description="d", sql="SELECT 1,\n  2, 'x\"y'", horizon_days=3),
        "guardrails": [
            Guardrail(metric="latency_ms", maximum=5),
            Guardrail(metric="parameters", maximum=1e6),
        ],
        "exploration": Exploration(where="lucky = 1", candidates=9, position="place", reward="watch_s"),
        "production": {
            "reward": {"label": "click", "factors": {"a b": "1.0"}},
            "optimizer": {"args": {"lr": 1e-10}},
        },
    }
    return SurfaceSpec.model_validate(fields | changes)


def test_a_surface_is_read_back_as_it_was_written(tmp_path: Path):
    surface = save_surface(tmp_path, spec_of())
    assert surface.spec == spec_of()
    assert open_surface(tmp_path, "shop").spec == spec_of()
    assert [entry.name for entry in surface.directory.iterdir()] == ["surface.toml"]


def test_every_section_of_surface_toml_is_explained(tmp_path: Path):
    surface = save_surface(tmp_path, spec_of())
    lines = (surface.directory / "surface.toml").read_text(encoding="utf-8").splitlines()
    assert tomllib.loads("\n".join(lines))["log"]["features"][0] == {
        "name": "item",
        "kind": "categorical",
        "max_size": 10,
    }
    for section in ("[log]", "features = [", "[north_star]", "[[guardrails]]", "[exploration]"):
        assert lines[lines.index(section) - 1].startswith("# "), section
    production = next(i for i, line in enumerate(lines) if line.startswith("[production"))
    assert lines[production - 1].startswith("# Φ")


def test_relative_paths_are_taken_from_the_surface_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    surface = save_surface(tmp_path, spec_of(log=LOG.model_copy(update={"reader": {}, "columns": {}})))
    rows = "".join(f"u{i % 3},i{i % 4},{1_700_000_000 + i * 3600},{i % 2},{i}\n" for i in range(300))
    (surface.directory / "log.csv").write_text("user,item,time,click,price\n" + rows)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(surface.dataset()) == 300


def test_an_unknown_surface_lists_the_known_ones(tmp_path: Path):
    save_surface(tmp_path, spec_of())
    with pytest.raises(ConfigurationError) as caught:
        open_surface(tmp_path, "shob")
    assert "'shop', 'shorts', 'simulated', 'watch_next'], got 'shob'." in str(caught.value)
    assert "Did you mean 'shop'?" in str(caught.value)
    assert caught.value.exit_code == 2
    assert list_surfaces(tmp_path) == ["shop", "simulated"]


@pytest.mark.parametrize("name", ["../etc", "", "a/b", ".hidden", "x" * 65])
def test_a_name_that_is_not_a_folder_name_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="`surface` must be letters, digits"):
        open_surface(tmp_path, name)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('name = "shop"', 'name = "other"', "`name` must be its folder's, 'shop', got 'other'"),
        ('user = "user"', 'usr = "user"', "`log.user` Field required."),
        ('kind = "numeric"', 'kind = "number"', "`log.features.1`"),
        ('signals = ["click"]', 'signals = ["item"]', "feature 'item' is a signal"),
        (
            "horizon_days = 3",
            "horizon_days = 0",
            "`north_star.horizon_days` Input should be greater than or equal",
        ),
        ("[log]", "[log", "is not valid TOML"),
    ],
)
def test_a_wrong_edit_names_the_file_the_field_and_the_rule(
    before: str, after: str, message: str, tmp_path: Path
):
    path = save_surface(tmp_path, spec_of()).directory / "surface.toml"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        open_surface(tmp_path, "shop")
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_fields_left_out_of_production_have_the_schemas_defaults(small: Surface):
    surface = small
    assert (
        "grad_clip"
        not in tomllib.loads((surface.directory / "surface.toml").read_text())["production"]["optimizer"]
    )
    production = surface.production()
    assert production["optimizer"]["grad_clip"] is None
    assert production == surface.system().production()
    production["optimizer"]["batch_size"] = 1
    assert surface.production()["optimizer"]["batch_size"] != 1, "callers get copies"


def test_a_system_that_cannot_be_imported_is_named(small: Surface):
    surface = small
    broken = Surface(surface.spec.model_copy(update={"system": "no_such_module:Ranker"}), surface.directory)
    with pytest.raises(ConfigurationError, match="no_such_module"):
        broken.system()


def test_a_production_label_of_one_class_is_one_clear_error(small: Surface, tmp_path: Path):
    surface = small
    production = surface.production()
    production["reward"]["label"] = "CAST(play_time_ms < 0 AS DOUBLE)"
    spec = surface.spec.model_copy(update={"production": production})
    with pytest.raises(LogError, match=r"Surface 'simulated': production /reward/label .* one class only"):
        save_surface(tmp_path, spec).check_label()


# The simulated surface


def test_the_simulated_surface_is_there_without_any_data(small: Surface, tmp_path: Path):
    dataset = small.dataset()
    assert {feature.kind for feature in dataset.schema.features} == {"categorical", "numeric", "history"}
    assert small.reward_persona_off is None
    assert small.spec.online is not None
    assert open_surface(tmp_path, "simulated").dataset().key == dataset.key


def test_the_north_star_counts_the_days_a_user_comes_back(small: Surface):
    assert small.spec.north_star is not None
    with small.dataset().connect() as connection:
        rows = connection.execute(small.spec.north_star.sql).fetchall()
    values = [row[2] for row in rows]
    assert len({row[:2] for row in rows}) == len(rows)
    assert min(values) >= 0
    assert max(values) <= small.spec.north_star.horizon_days
    assert 1 < np.mean(values) < 6
