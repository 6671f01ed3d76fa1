"""MovieLens 100K to 32M as GroupLens ships them. Ratings only: no impressions, no north star.

100K: u.data, u.item, u.user. 1M and 10M: ratings.dat, movies.dat, users.dat ("::"). 20M and later:
ratings.csv, movies.csv. https://grouplens.org/datasets/movielens/
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evorank.model.errors import LogError
from evorank.model.logs.encode import Progress
from evorank.model.logs.spec import Categorical, FeatureSpec, History, LogSpec, SideTable, Tokens
from evorank.surfaces.importers.common import finish, folder
from evorank.surfaces.surface import Surface

__all__ = ["import_movielens"]

_GENRES = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip
_YEAR = r"nullif(regexp_extract({title}, '\((\d{{4}})\)\s*$', 1), '')"


def import_movielens(
    path: Path,
    name: str,
    home: Path,
    *,
    liked: float = 4,
    replace: bool = False,
    progress: Progress | None = None,
) -> Surface:
    """The surface of an unpacked MovieLens folder; the label is rating >= `liked`. LogError: other files."""
    directory = folder(path, "MovieLens")
    ratings, sides = _layout(directory)
    columns = {column for side in sides for column in side.columns}
    features: list[FeatureSpec] = [
        Categorical(name="user_id"),
        Categorical(name="item_id"),
        *(Categorical(name=name) for name in ("age", "gender", "occupation", "year") if name in columns),
        Categorical(name="hour", column="hour(time)"),
        Categorical(name="weekday", column="dayofweek(time)"),
    ]
    if "genres" in columns:
        features.append(Tokens(name="genres", separator="|", length=6))
    # Two lists, because what was seen and not liked says as much of a user nobody knows.
    features.append(History(name="liked_items", of="item_id", length=20, where=f"rating >= {liked:g}"))
    features.append(History(name="recent_items", of="item_id", length=20))
    log = LogSpec(
        **ratings, user="user_id", item="item_id", time="timestamp", time_unit="s", signals=["rating"],
        sides=sides, features=features,
    )  # fmt: skip
    return finish(
        home,
        name,
        log,
        description=f"MovieLens: films that users rated, in time order; relevant = rated {liked:g} or "
        "more. "
        "Rated films only, so there is no exposure and no return to measure.",
        label="liked",
        factors={"liked": f"CAST(rating >= {liked:g} AS DOUBLE)"},
        replace=replace,
        progress=progress,
    )


def _layout(directory: Path) -> tuple[dict[str, Any], list[SideTable]]:
    """Source of the ratings, and the side tables, of the layout found in `directory`."""
    rating_names = ["user_id", "item_id", "rating", "timestamp"]
    if (directory / "u.data").exists():
        reader = {"delim": "\t", "header": False, "names": rating_names}
        return {"path": str(directory / "u.data"), "reader": reader}, _sides_100k(directory)
    if (directory / "ratings.dat").exists():
        reader = {"delim": "::", "header": False, "names": rating_names}
        return {"path": str(directory / "ratings.dat"), "reader": reader}, _sides_dat(directory)
    if (directory / "ratings.csv").exists():
        renamed = {"user_id": '"userId"', "item_id": '"movieId"'}
        sides = []
        if (movies := directory / "movies.csv").exists():
            columns = {"genres": '"genres"', "year": _YEAR.format(title='"title"')}
            sides = [SideTable(path=str(movies), key="movieId", on="item_id", columns=columns)]
        return {"path": str(directory / "ratings.csv"), "columns": renamed}, sides
    here = sorted(entry.name for entry in directory.iterdir())[:20]
    raise LogError(
        f"`path` holds no MovieLens ratings: expected u.data, ratings.dat or ratings.csv in {directory}, "
        f"found {here}. "
        "For RecBole's .inter files use the importer recbole."
    )


def _sides_100k(directory: Path) -> list[SideTable]:
    sides = []
    bar = {"delim": "|", "header": False, "quote": ""}
    if (items := directory / "u.item").exists():
        names = ["item_id", "title", "release_date", "video_date", "url", *(f"genre_{i}" for i in range(19))]
        flags = "[" + ", ".join(f"genre_{i}" for i in range(19)) + "]"
        genres = "[" + ", ".join("'" + genre.replace("'", "''") + "'" for genre in _GENRES) + "]"
        columns = {
            "genres": f"array_to_string(list_filter({genres}, lambda genre, i: {flags}[i] = 1), '|')",
            "year": "nullif(right(release_date, 4), '')",
        }
        types = {"release_date": "VARCHAR", "title": "VARCHAR", "video_date": "VARCHAR", "url": "VARCHAR"}
        reader = bar | {"names": names, "encoding": "latin-1", "types": types}
        sides.append(SideTable(path=str(items), key="item_id", reader=reader, columns=columns))
    if (users := directory / "u.user").exists():
        reader = bar | {
            "names": ["user_id", "age_years", "gender", "occupation", "zip"],
            "types": {"zip": "VARCHAR"},
        }
        columns = {"age": "least(age_years // 10, 7) * 10", "gender": "gender", "occupation": "occupation"}
        sides.append(SideTable(path=str(users), key="user_id", reader=reader, columns=columns))
    return sides


def _sides_dat(directory: Path) -> list[SideTable]:
    sides = []
    double = {"delim": "::", "header": False, "quote": "", "encoding": "latin-1"}
    if (movies := directory / "movies.dat").exists():
        reader = double | {"names": ["item_id", "title", "genres"]}
        columns = {"genres": "genres", "year": _YEAR.format(title="title")}
        sides.append(SideTable(path=str(movies), key="item_id", reader=reader, columns=columns))
    if (users := directory / "users.dat").exists():
        names = ["user_id", "gender", "age", "occupation", "zip"]
        reader = double | {"names": names, "types": {"zip": "VARCHAR", "gender": "VARCHAR"}}
        columns = {name: name for name in ("gender", "age", "occupation")}
        sides.append(SideTable(path=str(users), key="user_id", reader=reader, columns=columns))
    return sides
