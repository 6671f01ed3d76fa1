"""Every official layout becomes a surface whose rows, words and signals are those of the files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from evorank.model.errors import ConfigurationError, LogError
from evorank.surfaces.importers import import_kuairand, import_log, import_movielens, import_recbole
from evorank.surfaces.surface import open_surface

DATA = Path(os.environ.get("EVORANK_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def words_of(dataset, name: str) -> set[str]:
    with dataset.connect() as connection:
        path = dataset.directory / "vocabulary" / f"{name}.parquet"
        return {row[0] for row in connection.execute(f"SELECT value FROM read_parquet('{path}')").fetchall()}


@pytest.mark.parametrize(
    "name", ["movielens-100k", "movielens-1m", "movielens-32m", "kuairand-pure", "recbole"]
)
def test_every_layout_becomes_a_surface_that_opens_again(name: str, layout, tmp_path: Path):
    importer, folder = layout(name)
    surface = import_log(importer, folder, None, tmp_path / "home")
    assert surface.name == name
    again = open_surface(tmp_path / "home", name)
    assert again.spec == surface.spec
    assert again.dataset().key == surface.dataset().key
    system, production = again.system(), again.production()
    assert system.check(production) == []
    assert again.production() == system.production()
    labels = again.dataset().labels(system.objective(production))
    assert 0 < labels.mean() < 1
    signals = set(surface.spec.log.signals)
    assert not signals & {feature.name for feature in again.dataset().schema.features}
    steps = again.dataset().schema.training_rows / production["optimizer"]["batch_size"]
    assert steps >= 100 or production["optimizer"]["batch_size"] == 64


@pytest.mark.parametrize("name", ["movielens-100k", "movielens-1m", "movielens-32m"])
def test_movielens_keeps_ratings_genres_and_years(name: str, layout, tmp_path: Path):
    _, folder = layout(name)
    surface = import_movielens(folder, "ml", tmp_path / "home")
    dataset = surface.dataset()
    assert len(dataset) == 600
    genres = words_of(dataset, "genres")
    if name == "movielens-100k":
        assert {"Animation", "Children's", "Sci-Fi"} <= genres
        assert {"artist", "doctor"} == words_of(dataset, "occupation")
    else:
        assert {"Drama", "Comedy"} <= genres
    assert all(len(year) == 4 and year.isdigit() for year in words_of(dataset, "year"))
    with dataset.connect("test") as connection:
        total = connection.execute("SELECT count(*), sum(rating) FROM log").fetchone()
        ratings = connection.execute("SELECT rating FROM log ORDER BY row").fetchnumpy()["rating"]
    assert total is not None
    assert total[0] == 600
    assert np.isfinite(np.asarray(ratings, float)).all()
    assert surface.spec.north_star is None
    assert "reward persona is switched off" in str(surface.reward_persona_off)


def test_a_100k_genre_flag_is_read_at_its_place(layout, tmp_path: Path):
    _, folder = layout("movielens-100k")
    dataset = import_movielens(folder, "ml", tmp_path / "home").dataset()
    with dataset.connect("test") as connection:
        found = connection.execute("SELECT DISTINCT genres FROM log WHERE item_id = 2").fetchall()
    assert found == [("Adventure|Fantasy|Film-Noir",)] or found == [("Adventure|Film-Noir",)]


def test_kuairand_joins_its_logs_and_knows_random_exposure(layout, tmp_path: Path):
    _, folder = layout("kuairand-pure")
    surface = import_kuairand(folder, "kr", tmp_path / "home")
    dataset = surface.dataset()
    assert len(dataset) == (14 + 17 + 17) * 60
    kinds = {feature.name: feature.kind for feature in dataset.schema.features}
    assert kinds["is_rand"] == "categorical"
    assert kinds["tags"] == "history"
    assert kinds["age_days"] == "numeric"
    assert words_of(dataset, "tags") == {str(i) for i in range(9)}
    assert "show_cnt" not in kinds, "statistics over the whole period leak the future"
    shown = surface.spec.exploration
    with dataset.connect("test") as connection:
        assert connection.execute(f"SELECT count(*) FROM log WHERE {shown.where}").fetchone() == (17 * 60,)
    assert set(np.unique(dataset.labels(shown.objective, "test"))) == {0.0, 1.0}
    standard = import_kuairand(folder, "standard", tmp_path / "home", exposure="standard", statistics=True)
    assert len(standard.dataset()) == 31 * 60
    assert standard.spec.exploration is None
    assert "show_cnt" in {feature.name for feature in standard.dataset().schema.features}


def test_kuairand_has_active_days_as_its_north_star(layout, tmp_path: Path):
    _, folder = layout("kuairand-pure")
    surface = import_kuairand(folder, "kr", tmp_path / "home")
    star = surface.spec.north_star
    assert star is not None
    assert star.horizon_days == 7
    with surface.dataset().connect() as connection:
        found = {(u, d): v for u, d, v in connection.execute(star.sql).fetchall()}
        days: dict[int, set] = {}
        for user, day in connection.execute("SELECT DISTINCT user_id, day FROM log").fetchall():
            days.setdefault(user, set()).add(day)
    assert len(found) == sum(map(len, days.values()))
    for (user, day), value in found.items():
        assert value == sum(0 < (later - day).days <= 7 for later in days[user])


def test_recbole_reads_typed_headers_and_takes_unknown_columns_for_signals(layout, tmp_path: Path):
    _, folder = layout("recbole")
    surface = import_recbole(folder, "rb", tmp_path / "home")
    assert surface.spec.log.signals == ["rating", "device"]
    kinds = {feature.name: feature.kind for feature in surface.dataset().schema.features}
    assert kinds["class_"] == "history"
    assert kinds["score"] == "numeric"
    assert words_of(surface.dataset(), "class_") == {"War", "Drama"}
    assert all(value.startswith("0") for value in words_of(surface.dataset(), "user_id")), "tokens stay text"
    context = import_recbole(folder, "rb2", tmp_path / "home", context=["device"])
    assert "device" in {feature.name for feature in context.dataset().schema.features}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user_id\titem_id\trating", "the header must be tab-separated column:type"),
        ("user_id:token\titem_id:token\trating:float", "has no column for the time"),
        ("user_id:token\titem_id:token\ttimestamp:float", "has no signal"),
        ("user_id:token\titem_id:token\ttimestamp:float\tdwell:float", "`label` is needed"),
        ("", "is empty"),
    ],
)
def test_a_recbole_header_that_cannot_be_used_says_why(header: str, message: str, tmp_path: Path):
    (tmp_path / "x.inter").write_text(header and header + "\n")
    with pytest.raises(LogError, match=message):
        import_recbole(tmp_path, "x", tmp_path / "home")


def test_a_folder_without_the_layout_says_what_was_expected(tmp_path: Path):
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(LogError, match=r"expected u\.data, ratings\.dat or ratings\.csv .*readme\.txt"):
        import_movielens(tmp_path, "x", tmp_path / "home")
    with pytest.raises(LogError, match="no KuaiRand log"):
        import_kuairand(tmp_path, "x", tmp_path / "home")
    with pytest.raises(LogError, match=r"must hold one \.inter file"):
        import_recbole(tmp_path, "x", tmp_path / "home")
    with pytest.raises(LogError, match="does not exist"):
        import_movielens(tmp_path / "nowhere", "x", tmp_path / "home")
    with pytest.raises(ConfigurationError, match=r"`layout` must be one of .*got 'netflix'"):
        import_log("netflix", tmp_path, "x", tmp_path / "home")


def test_an_import_never_overwrites_a_production_configuration(layout, tmp_path: Path):
    _, folder = layout("movielens-1m")
    import_movielens(folder, "ml", tmp_path / "home")
    with pytest.raises(ConfigurationError, match="is a surface already"):
        import_movielens(folder, "ml", tmp_path / "home")
    assert import_movielens(folder, "ml", tmp_path / "home", replace=True, liked=3).spec.production["reward"][
        "factors"
    ] == {"liked": "CAST(rating >= 3 AS DOUBLE)"}


def test_a_failed_import_leaves_no_surface(layout, tmp_path: Path):
    _, folder = layout("movielens-1m")
    (folder / "ratings.dat").write_text("")
    with pytest.raises(LogError):
        import_movielens(folder, "ml", tmp_path / "home")
    with pytest.raises(ConfigurationError, match="must be one of"):
        open_surface(tmp_path / "home", "ml")


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "ml-100k").is_dir(), reason=f"no real logs at {DATA}")
def test_movielens_100k_is_imported_whole(tmp_path: Path):
    surface = import_recbole(DATA / "ml-100k", "ml-100k", tmp_path)
    dataset = surface.dataset()
    assert len(dataset) == 100_000
    assert dataset.user_count == 943
    assert dataset.report["source_rows"] == 100_000
    assert {"Animation", "Children's"} <= words_of(dataset, "class_")


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "kuairand-sample").is_dir(), reason=f"no real logs at {DATA}")
def test_the_kuairand_sample_is_imported_without_the_videos_of_another_dataset(tmp_path: Path):
    surface = import_kuairand(DATA / "kuairand-sample", "kuairand", tmp_path)
    dataset = surface.dataset()
    assert len(dataset) == 41_828
    assert dataset.user_count == 664
    names = {feature.name for feature in dataset.schema.features}
    assert "onehot_feat3" in names
    assert "author_id" not in names
    assert {"is_like", "is_hate"} <= set(dataset.schema.columns)
