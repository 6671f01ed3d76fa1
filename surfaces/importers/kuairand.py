"""KuaiRand Pure, 1K and 27K: short-video impressions with twelve signals, and random exposures beside them.

log_standard*.csv, log_random*.csv, user_features*.csv, video_features_basic*.csv as shipped by
https://kuairand.com; also `processed*.csv`, a sample with only liked or hated rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from evorank.model.errors import LogError
from evorank.model.logs import sources
from evorank.model.logs.encode import Progress
from evorank.model.logs.spec import Categorical, FeatureSpec, History, LogSpec, Numeric, SideTable, Tokens
from evorank.surfaces.exploration import Exploration
from evorank.surfaces.importers.common import find, finish, folder
from evorank.surfaces.surface import Surface

__all__ = ["import_kuairand"]

_SIGNALS = [
    "is_click", "long_view", "play_time_ms", "is_like", "is_follow", "is_comment", "is_forward", "is_hate",
    "is_profile_enter", "profile_stay_time", "comment_stay_time",
]  # fmt: skip
_USER_CLASSES = [
    "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author",
    "follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range",
    *(f"onehot_feat{i}" for i in range(18)),
]  # fmt: skip
_VIDEO_CLASSES = ["author_id", "video_type", "upload_type", "music_type"]


def import_kuairand(
    path: Path,
    name: str,
    home: Path,
    *,
    exposure: Literal["standard", "random", "both"] = "both",
    statistics: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
) -> Surface:
    """The surface of an unpacked KuaiRand folder (or its `data`). North star: days on which a user returns.

    `exposure`: which logs; random exposures are told apart by the feature is_rand. `statistics`: add
    video_features_statistic; its counts cover the whole period, the test's too, so they leak the future and
    are off by default. LogError: no log of this layout.
    """
    directory = folder(path, "KuaiRand")
    patterns = {"standard": ["log_standard*.csv"], "random": ["log_random*.csv"]}
    wanted = patterns.get(exposure, ["log_standard*.csv", "log_random*.csv"])
    logs = find(directory, *wanted) or find(directory, "processed*.csv")
    if not logs:
        here = sorted(entry.name for entry in directory.iterdir())[:20]
        raise LogError(f"`path` holds no KuaiRand log: expected {wanted} in {directory}, found {here}.")
    present = _columns_of(logs)
    added = {}
    if "label" in present and "is_like" not in present:  # the sample: 1 = liked, 0 = hated
        added = {"is_like": "label", "is_hate": "1 - label"}
    signals = [column for column in _SIGNALS if column in present or column in added]
    sides, features = [], _log_features(present)
    if (files := find(directory, "user_features*.csv")) and _matches(logs, files, "user_id"):
        sides.append(_side(files, "user_id"))
        known = _columns_of(files)
        features += [Categorical(name=column) for column in _USER_CLASSES if column in known]
    if (files := find(directory, "video_features_basic*.csv")) and _matches(logs, files, "video_id"):
        sides.append(_side(files, "video_id"))
        features += _video_features(_columns_of(files))
    if statistics and (files := find(directory, "video_features_statistic*.csv")):
        sides.append(_side(files, "video_id"))
        counts = [column for column in _columns_of(files) if column not in {"video_id", *present}]
        features += [Numeric(name=column, log1p=True) for column in counts]
    features.append(History(name="liked_videos", of="video_id", length=20, where="is_like = 1"))
    features.append(History(name="clicked_videos", of="video_id", length=20, where="is_click = 1"))
    log = LogSpec(
        path=[str(file) for file in logs],
        columns=added,
        user="user_id",
        item="video_id",
        time="time_ms",
        time_unit="ms",
        utc_offset_hours=8,  # Kuaishou's days begin at midnight in Beijing
        signals=signals,
        sides=sides,
        features=features,
    )
    return finish(
        home,
        name,
        log,
        description="KuaiRand: short videos shown to users of Kuaishou, April and May 2022, with click, "
        "long view, "
        "play time, like, follow, comment, forward and hate.",
        label="clicked",
        factors={"clicked": "CAST(is_click AS DOUBLE)"},
        active_user="user_id",
        exploration=_exploration(logs, present),
        replace=replace,
        progress=progress,
    )


def _exploration(logs: list[Path], present: list[str]) -> Exploration | None:
    """Random videos took the place of single recommended ones; their session is not known, nor what else was
    retrieved for it. So each is a first position, and a ranker's choice of 20 is an assumption: edit it."""
    if "is_rand" not in present or "long_view" not in present or not any("random" in f.name for f in logs):
        return None
    return Exploration(where="is_rand = 1", candidates=20, top=1, reward="CAST(long_view AS DOUBLE)")


def _log_features(present: list[str]) -> list[FeatureSpec]:
    features: list[FeatureSpec] = [Categorical(name="user_id"), Categorical(name="video_id")]
    features += [Categorical(name=column) for column in ("tab", "is_rand") if column in present]
    features.append(Categorical(name="hour", column="hour(time + INTERVAL 8 HOUR)"))
    if "duration_ms" in present:
        features.append(Numeric(name="duration_ms", log1p=True))
    return features


def _video_features(known: list[str]) -> list[FeatureSpec]:
    features: list[FeatureSpec] = [Categorical(name=column) for column in _VIDEO_CLASSES if column in known]
    if "tag" in known:
        features.append(Tokens(name="tags", column="CAST(tag AS VARCHAR)", separator=",", length=4))
    if "upload_dt" in known:
        days = "date_diff('day', TRY_CAST(upload_dt AS DATE), day)"
        age = f"CASE WHEN {days} IS NOT NULL THEN greatest({days}, 0) END"
        features.append(Numeric(name="age_days", column=age, log1p=True))
    return features


def _side(files: list[Path], key: str) -> SideTable:
    return SideTable(path=[str(file) for file in files], key=key)


def _matches(logs: list[Path], files: list[Path], key: str) -> bool:
    """Whether a side table knows at least half of the log's first rows. The sample comes with another
    dataset's videos: columns that are nearly always missing cost time and teach nothing."""
    log, side = (sources.literal([str(file) for file in each]) for each in (logs, files))
    with sources.connect() as connection, sources.explained(str(files[0])):
        share = connection.execute(
            f"SELECT avg(CAST(l.{key} IN (SELECT {key} FROM read_csv({side})) AS INTEGER)) "
            f"FROM (SELECT {key} FROM read_csv({log}) LIMIT 50000) l"
        ).fetchone()
    return bool(share and share[0] and share[0] >= 0.5)


def _columns_of(files: list[Path]) -> list[str]:
    with sources.connect() as connection, sources.explained(str(files[0])):
        listed = sources.literal([str(file) for file in files])
        return [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM read_csv({listed})").fetchall()]
