"""What the log alone says against a candidate: on a log whose every impression was drawn at random."""

from __future__ import annotations

import shutil

import pytest
from planted import give_traffic
from tiny import make_surface

from evorank.display import show_off_policy
from evorank.graph.context import close_sessions
from evorank.graph.operations import open_operations
from evorank.graph.status import overview
from evorank.graph.tick import propose, tick
from evorank.prompts.journal import journal_lines, verdict
from evorank.surfaces.exploration import Exploration
from evorank.surfaces.surface import open_surface, save_surface

RANDOM = Exploration(where="true", candidates=20, top=8, position="position", reward="LEAST(watch_s, 60)")
DULL = [{"op": "replace", "path": "/reward/label", "value": "1.0 - clicked"}]
GOOD = [
    {"op": "add", "path": "/reward/factors/watched", "value": "LEAST(watch_s / 60.0, 1.0)"},
    {"op": "replace", "path": "/reward/label", "value": "watched"},
]


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    """A home whose surface has users enough for a replay."""
    home = tmp_path_factory.mktemp("explored")
    make_surface(home, users=400, exploration=RANDOM)
    return home


@pytest.fixture
def home(explored, tmp_path):
    shutil.copytree(explored, tmp_path / "home")
    yield tmp_path / "home"
    close_sessions()


@pytest.fixture
def tried(home, context):
    """The experiment of a person's delta after one tick, which goes live where nothing speaks against it:
    tried(delta, exploration=...)."""

    def make(delta, **fields):
        spec = open_surface(home, "tiny").spec
        save_surface(home, spec.model_copy(update=fields))
        give_traffic(home, {"effect": 1.25})
        operations = open_operations(context(None, selection="fifo"))
        propose(operations, delta, why="people may like it", by="ada")
        assert tick(operations.session.context).errors == []
        (found,) = operations.session.journal.experiments("tiny")
        return found

    return make


def test_a_clear_loser_that_the_proxy_does_not_know_is_shown_to_nobody(tried, home, context):
    found = tried(DULL)
    assert found.validation["comparison"]["verdict"] == "inconclusive"
    assert (found.result, found.started, found.plan) == ("rejected", False, None)
    assert "A clear loser on what was shown at random, so nobody is shown it: off-policy, " in found.reason
    replayed = found.validation["off_policy"]
    assert replayed["evidence"] == "off-policy"
    assert all(each["high"] < -0.1 * each["production"] for each in replayed["estimates"])
    # It is nobody's mistake that CODE could mend.
    assert overview(context(None, selection="fifo")).ideas == 0
    # And no result of a live test, wherever those are counted or told.
    record = found.model_dump(mode="json")
    assert (record["effects"], record["decision"], record["readings"]) == ([], None, [])
    assert verdict(record) == "not read"
    (line,), _ = journal_lines([], record["production"], [record])
    assert {"success", "guardrails"} & line["online"].keys() == set()
    assert line["off_policy"]["reward"] == "LEAST(watch_s, 60)"
    assert line["off_policy"]["snips"]["interval"][1] < 0
    shown = show_off_policy(replayed)
    assert shown[0].startswith("off-policy, no A/B test: LEAST(watch_s, 60) per impression, replayed on ")
    assert len(shown) == 3


def test_a_good_candidate_goes_live_with_the_models_that_were_replayed(tried, trainings):
    found = tried(GOOD)
    assert (found.phase, found.result, found.started) == ("live", None, True)
    snips, robust = found.validation["off_policy"]["estimates"]
    assert snips["low"] > 0
    assert robust["low"] > 0
    assert verdict(found.model_dump(mode="json")) == "under way"
    # Two seeds of both arms for the comparison, and one model of each arm for all that follows.
    assert len(trainings.trained) == 2 * 2 + 2


@pytest.mark.parametrize(
    ("exploration", "why"),
    [
        (None, "surface.toml names no impressions shown at random ([exploration])"),
        (RANDOM.model_copy(update={"where": "user_id < 50"}), "fewer than 100: not enough support"),
        (RANDOM.model_copy(update={"where": "lucky = 1"}), "it could not be replayed: exploration.where"),
    ],
)
def test_without_support_there_is_no_evidence_and_the_record_says_why(tried, exploration, why):
    found = tried(DULL, exploration=exploration)
    assert found.phase == "live"
    replayed = found.validation["off_policy"]
    assert why in replayed["unsupported"]
    assert replayed["estimates"] == []
    record = found.model_dump(mode="json")
    assert "off_policy" not in journal_lines([], record["production"], [record])[0][0]
    assert show_off_policy(replayed) == [f"off-policy, no A/B test: {replayed['unsupported']}"]
