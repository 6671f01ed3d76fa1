"""The suite passes what is right, and for each promise it fails what breaks it, by that promise's name."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from evorank.model.conformance import PROMISES, conformance, load_system
from evorank.model.conformance.planted import EXAMPLE_LOG, constant_loss, loss_of, planted
from evorank.model.errors import ConfigurationError, ToolError
from evorank.model.schema import defects, slips, violations
from evorank.model.system import Feature, LogSchema, Objective, RankingSystem

sys.path.append(str(Path(__file__).parent))  # as a user's own folder is, in this process and in the workers
from broken_rankers import BROKEN
from logistic_ranker import PRODUCTION, SCHEMA, LogisticRanker

NAMES = [promise.__name__.replace("_", " ") for promise in PROMISES]


@cache
def _failures(cls: type) -> dict[str, str]:
    return {result.name: result.message for result in conformance(cls) if not result.passed}


def test_a_system_that_keeps_its_promises_passes_every_check() -> None:
    results = conformance(load_system("logistic_ranker:LogisticRanker"))
    assert [result.name for result in results] == NAMES
    assert all(result.passed and result.message == "" and result.seconds > 0 for result in results), results


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_promise_is_named_and_no_other_is(cls: type) -> None:
    failures = _failures(cls)
    named = {name for name, message in failures.items() if not message.startswith("not run")}
    assert named == {cls.breaks}, failures
    assert all(f"mend `{cls.breaks}` first" in failures[name] or name == cls.breaks for name in failures)


def test_there_is_a_broken_ranker_for_every_promise() -> None:
    assert {cls.breaks for cls in BROKEN} == set(NAMES)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        ("CannotBeBuilt", ["RuntimeError", "no such column: watch_ms", "broken_rankers.py, line"]),
        ("LacksAMethod", ["write the methods cost"]),
        ("LeavesAFieldUndescribed", ["/$defs/Descent/properties/lr", "description"]),
        ("RefersToNothing", ["#/$defs/Descent"]),
        ("OpensWhatIsNotThere", ["optimizer", "/architecture"]),
        ("NamesAnUnknownPersona", ["astrologer", "optimizer, architecture, reward"]),
        ("RaisesOnAList", ["never raise", "None as the whole Φ"]),
        ("AcceptsNaN", ["NaN at /descent/"]),
        ("ServesNaN", ["plain JSON", "NaN"]),
        ("ServesAnInvalidProduction", ["/descent/l2", "at least 0"]),
        ("ServesANullThatMustBeThere", ["/note is null", "surface.toml"]),
        ("HasAnUnknownLoss", ["hinge", "bce, mse, huber"]),
        ("WantsAColumnThatIsNotThere", ["watched"]),
        ("ReturnsAnObject", ["weights['model']", "object", "uint8"]),
        ("ClipsLabelsInPlace", ["wrote into labels"]),
        ("SortsHistoriesWhileScoring", ["rows.histories['recent_items']"]),
        ("NeedsWritableRows", ["read-only"]),
        ("NeedsTenRows", ["two rows", "IndexError", "ToolError"]),
        ("ReturnsLogits", ["sigmoid"]),
        ("CentresEachBatch", ["batch statistics"]),
        ("KeepsItsModelsInTheClass", ["another process", "IndexError"]),
    ],
)
def test_the_message_says_what_to_mend(cls: str, words: list[str]) -> None:
    broken = next(candidate for candidate in BROKEN if candidate.__name__ == cls)
    message = _failures(broken)[broken.breaks]
    assert [word for word in words if word not in message] == [], message


class RefusesTinyLogs(LogisticRanker):
    def fit(self, phi, rows, labels, seed):
        if len(rows) < 10 or labels.min() == labels.max():
            raise ToolError("needs ten rows and both labels")
        return super().fit(phi, rows, labels, seed)


def test_a_tool_error_that_refuses_tiny_data_keeps_the_promise() -> None:
    assert "fit survives tiny data" not in _failures(RefusesTinyLogs)


class Regression(LogisticRanker):
    """Predicts a value, not a probability: nothing but [0, 1] changes in what is asked of it."""

    def objective(self, phi):
        return Objective(label="rating", loss="mse")

    def fit(self, phi, rows, labels, seed):
        design = np.column_stack([np.ones(len(rows)), rows.numeric])
        return {"beta": np.linalg.lstsq(design, labels, rcond=None)[0]}

    def predict(self, phi, weights, rows):
        return np.column_stack([np.ones(len(rows)), rows.numeric]) @ weights["beta"]


def test_a_regression_is_judged_by_squared_error_and_may_leave_the_unit_interval() -> None:
    assert set(_failures(Regression)) <= {"crosses processes"}  # this module is not importable by workers


def test_a_class_that_workers_cannot_import_is_told_so() -> None:
    class Local(LogisticRanker):
        pass

    assert "top level of a module" in _failures(Local)["crosses processes"]


def test_the_rows_are_made_for_the_log_that_is_given() -> None:
    log = LogSchema((Feature("video", "categorical", size=100_000),), {"clicked": "BOOLEAN"})
    failed = {result.name: result.message for result in conformance(LogisticRanker, log) if not result.passed}
    assert failed == {}


@pytest.mark.heavy
def test_the_built_in_ranker_passes() -> None:
    assert _failures(load_system("evorank.model.ranker:NeuralRanker")) == {}


# ------------------------------------------------------------------------------------------ load_system


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("logistic_ranker", ["module:Class", "logistic_ranker"]),
        ("logistic_ranker:", ["module:Class"]),
        ("no_such_module:Ranker", ["no module 'no_such_module'", "PYTHONPATH"]),
        ("no_such.module:Ranker", ["no module 'no_such.module'"]),
        ("logistic_ranker:Ranker", ["no class 'Ranker'", "LogisticRanker"]),
        ("logistic_ranker:SCHEMA", ["no class 'SCHEMA'"]),
    ],
)
def test_a_system_that_cannot_be_loaded_says_what_to_try(path: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_system(path)
    assert [word for word in words if word not in str(refused.value)] == [], refused.value


def test_a_module_of_the_working_directory_is_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_in_cwd.py").write_text("class Mine:\n    pass\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    assert load_system("mine_in_cwd:Mine").__name__ == "Mine"
    assert str(tmp_path) in sys.path  # workers inherit it


def test_a_module_that_fails_to_import_says_where_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_a_package.py").write_text("import package_nobody_wrote\n")
    with pytest.raises(ConfigurationError, match=r"package_nobody_wrote.*pip install"):
        load_system("needs_a_package:Mine")
    (tmp_path / "is_broken.py").write_text("\n1 / 0\n")
    with pytest.raises(ConfigurationError, match=r"ZeroDivisionError.*is_broken.py, line 2"):
        load_system("is_broken:Mine")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(ConfigurationError, match="SystemExit: 3"):
        load_system("exits:Mine")


# ------------------------------------------------------------------------------- what the suite is made of


def test_the_good_ranker_is_a_ranking_system_with_a_sound_schema() -> None:
    assert isinstance(LogisticRanker(EXAMPLE_LOG), RankingSystem)
    assert defects(SCHEMA) == []
    assert violations(PRODUCTION, SCHEMA) == []


def test_every_slip_is_invalid_and_leaves_the_document_alone() -> None:
    before = repr(PRODUCTION)
    found = dict(slips(PRODUCTION, SCHEMA))
    assert all(violations(document, SCHEMA) for document in found.values())
    assert repr(PRODUCTION) == before
    for what in (
        "NaN at /descent/lr",
        "nothing at /label",
        "True at /descent/steps",
        "an unknown field in /descent",
    ):
        assert what in found


@pytest.mark.parametrize("loss", ["bce", "mse", "huber"])
def test_the_planted_signal_is_the_same_in_every_draw_and_can_be_learned(loss: str) -> None:
    rows, labels = planted(EXAMPLE_LOG, 4_000, 1, loss)
    again, others = planted(EXAMPLE_LOG, 4_000, 2, loss)
    assert not np.array_equal(rows.categorical, again.categorical)
    ids, held_out = rows.categorical[:, 0], again.categorical[:, 0]
    mean = np.array([labels[ids == code].mean() if (ids == code).any() else 0.5 for code in range(40)])
    assert loss_of(mean[held_out], others, loss) < constant_loss(others, loss)
    for feature in EXAMPLE_LOG.features:
        if feature.kind == "categorical":
            assert rows.column(feature.name).max() < feature.size
    assert rows.histories["recent_items"].shape == (4_000, 5)
