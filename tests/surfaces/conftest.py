"""Tiny logs in the official layouts: column names, separators and encodings as shipped, generated rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

BEGIN = 880_000_000
GENRES = 19


def ratings(n: int = 600) -> list[tuple[int, int, int, int]]:
    draw = np.random.default_rng(5)
    return [
        (int(draw.integers(1, 30)), int(draw.integers(1, 40)), int(draw.integers(1, 6)), BEGIN + i * 3000)
        for i in range(n)
    ]


def movielens_100k(folder: Path) -> None:
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in ratings()))
    flags = ["|".join(str(int(g in (i % 19, (i * 5) % 19))) for g in range(GENRES)) for i in range(1, 41)]
    lines = [
        f"{i}|Amélie {i} (19{60 + i})|01-Jan-19{60 + i if i < 40 else 99}||http://x/{i}|{flags[i - 1]}\n"
        for i in range(1, 41)
    ]
    lines[2] = f"3|unknown||||{flags[2]}\n"
    (folder / "u.item").write_text("".join(lines), encoding="latin-1")
    users = [
        f"{i}|{10 + i}|{'MF'[i % 2]}|{['artist', 'doctor'][i % 2]}|{'T8H1N' if i == 7 else 10000 + i}\n"
        for i in range(1, 31)
    ]
    (folder / "u.user").write_text("".join(users))


def movielens_1m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in ratings()))
    movies = [
        f'{i}::Señor {i}: a "film" (19{50 + i})::{["Drama", "Comedy|Drama"][i % 2]}\n' for i in range(1, 41)
    ]
    (folder / "movies.dat").write_text("".join(movies), encoding="latin-1")
    (folder / "users.dat").write_text(
        "".join(f"{i}::{'MF'[i % 2]}::25::{i % 20}::0{1000 + i}\n" for i in range(1, 31))
    )


def movielens_32m(folder: Path) -> None:
    rows = "".join(f"{u},{m},{r - 0.5},{t}\n" for u, m, r, t in ratings())
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    movies = "".join(
        f'{i},"Film, The {i} (20{i % 25:02d})",{["Drama", "Comedy|Drama", "(no genres listed)"][i % 3]}\n'
        for i in range(1, 41)
    )
    (folder / "movies.csv").write_text("movieId,title,genres\n" + movies)


KUAIRAND = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)


def kuairand_log(file: Path, first_day: int, days: int, rand: int) -> None:
    draw, lines = np.random.default_rng(first_day + rand), [KUAIRAND]
    for i in range(days * 60):
        click = int(draw.random() < 0.4)
        ms = 1_649_347_200_000 + (first_day * 24 * 60 + i * 24) * 60_000  # 2022-04-08 00:00 in Beijing
        signals = f"{click},{click * (i % 5 == 0):d},0,0,0,0,{click},{click * 4000},9000,0,0,0"
        lines.append(f"{i % 25},{draw.integers(0, 50)},20220408,{i % 24}00,{ms},{signals},{rand},{i % 3}")
    file.write_text("\n".join(lines) + "\n")


def kuairand_pure(folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    kuairand_log(data / "log_standard_4_08_to_4_21_pure.csv", 0, 14, 0)
    kuairand_log(data / "log_standard_4_22_to_5_08_pure.csv", 14, 17, 0)
    kuairand_log(data / "log_random_4_22_to_5_08_pure.csv", 14, 17, 1)
    header = (
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
        "follow_user_num_range"
    )
    (data / "user_features_pure.csv").write_text(
        header
        + ",onehot_feat0\n"
        + "".join(f'{i},full_active,0,{i % 2},1,{i},"(10,50]",{i % 2}\n' for i in range(25))
    )
    header = (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
        "server_height,music_id,music_type,tag"
    )
    (data / "video_features_basic_pure.csv").write_text(
        header
        + "\n"
        + "".join(
            f'{i},{i // 5},NORMAL,2022-04-0{1 + i % 7},Kmovie,0,9000.0,720,1280,{i},9.0,"{i % 4},{i % 9}"\n'
            for i in range(50)
        )
    )
    (data / "video_features_statistic_pure.csv").write_text(
        "video_id,counts,show_cnt\n" + "".join(f"{i},{i}.0,{i * 100}.0\n" for i in range(50))
    )


def recbole(folder: Path) -> None:
    rows = "".join(f"0{u}\t{m}\t{r}\t{t}\t{t % 3}\n" for u, m, r, t in ratings())
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\tdevice:token\n"
    (folder / "tiny.inter").write_text(header + rows)
    items = "".join(f'{i}\tThe "film {i}\t{["War", "War Drama"][i % 2]}\t{i / 7}\n' for i in range(1, 41))
    (folder / "tiny.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\tscore:float\n" + items
    )


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "movielens-100k": ("movielens", movielens_100k),
    "movielens-1m": ("movielens", movielens_1m),
    "movielens-32m": ("movielens", movielens_32m),
    "kuairand-pure": ("kuairand", kuairand_pure),
    "recbole": ("recbole", recbole),
}


@pytest.fixture
def layout(tmp_path: Path) -> Callable[[str], tuple[str, Path]]:
    """Write a tiny log of a layout: (importer, folder)."""

    def write(name: str) -> tuple[str, Path]:
        importer, writer = LAYOUTS[name]
        folder = tmp_path / name
        folder.mkdir()
        writer(folder)
        return importer, folder

    return write
