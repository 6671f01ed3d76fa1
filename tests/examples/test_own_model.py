"""The example of one's own model is short, conforms, and is improved by the loops, on a real log too."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from evorank.graph.journal import Journal
from evorank.model.conformance import conformance, load_system
from evorank.model.system import LogSchema, Phi
from evorank.surfaces.importers import import_log
from evorank.surfaces.surface import Surface, open_surface, save_surface
from evorank.tools.compute_loss import compute_loss
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.workbench import Workbench

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own_model"
SYSTEM = "examples.own_model.ranker:LightGBMRanker"
MOVIELENS = Path(os.environ.get("EVORANK_DATA", ROOT.parent / "shared" / "data")) / "ml-100k"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the README says to be; the worker processes inherit it."""
    pytest.importorskip("lightgbm")
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with LocalPool(workers=1) as pool:
        yield pool


def ratings(folder: Path, rows: int = 6_000, users: int = 60, items: int = 50) -> Path:
    """A RecBole dataset whose users and items have tastes and qualities of their own."""
    draw = np.random.default_rng(0)
    quality, mood = draw.normal(0, 1, items), draw.normal(0, 0.7, users)
    user, item = draw.integers(0, users, rows), draw.integers(0, items, rows)
    stars = np.clip(np.round(3.4 + quality[item] + mood[user] + draw.normal(0, 0.7, rows)), 1, 5)
    when = 1_600_000_000 + np.sort(draw.integers(0, 60 * 86_400, rows))
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"{u}\t{i}\t{s:.0f}\t{t}" for u, i, s, t in zip(user, item, stars, when, strict=True)]
    folder.mkdir()
    (folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    return folder


def surface_of(dataset: Path, home: Path, **boosting: float) -> Surface:
    """What `surface import recbole DATASET --system` makes, and a person then edits under [production]."""
    surface = import_log("recbole", dataset, "own", home, system=SYSTEM)
    production = surface.production()
    production["boosting"] |= boosting
    return save_surface(home, surface.spec.model_copy(update={"production": production}))


def changed(phi: Phi, part: str, **fields: float) -> Phi:
    edited = copy.deepcopy(phi)
    edited[part] |= fields
    return edited


def test_the_example_is_under_a_hundred_lines() -> None:
    assert len((EXAMPLE / "ranker.py").read_text().splitlines()) < 100


@pytest.mark.parametrize(("folder", "path"), [(ROOT, SYSTEM), (EXAMPLE, "ranker:LightGBMRanker")])
def test_it_keeps_every_promise_from_both_folders(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert [result for result in conformance(load_system(path)) if not result.passed] == []


def test_its_label_comes_from_the_log() -> None:
    system = load_system(SYSTEM)
    clicks = system(LogSchema((), {"clicked": "BOOLEAN"}))
    assert clicks.objective(clicks.production()).label == "clicked"
    other = system(LogSchema((), {"watch_ms": "DOUBLE"}))
    findings = other.check(other.production())
    assert [finding.pointer for finding in findings] == ["/reward/label"]
    served = changed(other.production(), "reward", label="least(watch_ms / 60000, 1.0)")
    assert system(LogSchema((), {"watch_ms": "DOUBLE"}), served).production() == served
    assert other.check(served) == []


@pytest.mark.parametrize(
    ("part", "fields", "pointer"),
    [
        ("trees", {"num_leaves": 1}, "/trees/num_leaves"),
        ("trees", {"num_leaves": "31"}, "/trees/num_leaves"),
        ("boosting", {"learning_rate": float("inf")}, "/boosting/learning_rate"),
        ("boosting", {"objective": 1}, "/boosting/objective"),
        ("reward", {"label": "rating FROM log"}, "/reward/label"),
    ],
)
def test_its_check_points_at_the_field(part: str, fields: dict[str, object], pointer: str) -> None:
    system = load_system(SYSTEM)(LogSchema((), {"rating": "DOUBLE"}))
    findings = system.check(changed(system.production(), part, **fields))
    assert [finding.pointer for finding in findings] == [pointer], findings


@pytest.mark.heavy
def test_workers_train_it_and_tell_better_from_worse(tmp_path: Path, pool: LocalPool) -> None:
    surface = surface_of(ratings(tmp_path / "tiny"), tmp_path / "home", n_estimators=5)
    bench = Workbench(surface, pool, tmp_path / "cache", seeds=2)
    more = compute_loss(changed(bench.production, "boosting", n_estimators=30), bench)
    assert more.verdict == "better", more.reason
    assert more.candidate.loss < more.production.loss < np.log(2)
    fewer = compute_loss(changed(bench.production, "boosting", n_estimators=1), bench)
    assert fewer.verdict == "worse", fewer.reason


@pytest.mark.data
@pytest.mark.skipif(not MOVIELENS.is_dir(), reason=f"no {MOVIELENS}")
def test_on_movielens_fewer_leaves_are_better(tmp_path: Path, pool: LocalPool) -> None:
    surface = surface_of(MOVIELENS, tmp_path / "home")
    bench = Workbench(surface, pool, tmp_path / "cache", seeds=2)
    found = compute_loss(changed(bench.production, "trees", num_leaves=7), bench)
    assert found.verdict == "better", found.reason


@pytest.mark.heavy
def test_the_commands_of_the_readme_evolve_it(tmp_path: Path) -> None:
    readme = (EXAMPLE / "README.md").read_text()
    block = re.search(r"```sh\n(.*?)```", readme, re.DOTALL)
    assert block, "the README has no ```sh block"
    install, *commands = block[1].strip().splitlines()
    assert install.startswith("pip install")
    data = ratings(tmp_path / "tiny")
    environment = os.environ | {"EVORANK_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    for command in commands:
        words = shlex.split(command.replace("PATH/TO/ml-100k", str(data)))
        assert words[:2] == ["python", "cli.py"]
        done = subprocess.run(
            [sys.executable, *words[1:], "--json"], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert json.loads(done.stdout.strip().splitlines()[-1] if "run" in words else done.stdout)
    surface = open_surface(tmp_path / "home", "ml")
    assert surface.spec.system == SYSTEM
    with closing(Journal.open(tmp_path / "home")) as journal:
        attempts = journal.attempts(surface="ml")
    assert len(attempts) == 4
    assert {attempt.persona for attempt in attempts} == {"optimizer", "architecture"}
    for attempt in attempts:
        # Clocks of a tiny training on a busy machine are luck, and both clocks are guardrails.
        measured = attempt.outcome in ("better", "cheaper", "equal", "worse", "inconclusive")
        by_clock = "the guardrail train_cost" in attempt.reason or "the guardrail latency" in attempt.reason
        assert measured or by_clock, attempt.reason
        assert surface.system().check(attempt.phi) == []
