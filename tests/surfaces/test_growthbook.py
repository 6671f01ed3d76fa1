"""GrowthBook's API: what is asked of it, who is served what, and a server that fails in every way it can."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evorank.model.errors import ConfigurationError, PlatformError
from evorank.surfaces.assignment import OUTSIDE, HashAssigner
from evorank.surfaces.growthbook import GrowthBookPlatform
from evorank.surfaces.platform import Estimate, TestStatus, open_platform
from evorank.surfaces.surface import Surface

sys.path.append(str(Path(__file__).parent))
from fake_growthbook import KEY, FakeGrowthBook
from served import live_test, no_load, served

USERS = [str(number) for number in range(600)]
CONTROL, CANDIDATE, ORIGINAL = "artifacts/production", "artifacts/candidate", "artifacts/original"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGrowthBook]:
    monkeypatch.setenv("GROWTHBOOK_API_KEY", KEY)
    with FakeGrowthBook() as server:
        yield server


def shop(fake: FakeGrowthBook | None = None, holdback: float = 0.0, **options: Any) -> Surface:
    fields: dict[str, Any] = {
        "url": fake.url if fake else "https://growthbook.example/api",
        "feature": "ranker",
        "assignment_query": "user_id",
        "datasource": "ds_1",
        "metrics": {"active_days": "met_active", "dislikes": "met_dislikes"},
        "pause_s": 0.0,
        "timeout_s": 5.0,
    }
    options = {name: value for name, value in (fields | options).items() if value is not None}
    return served(Path("nowhere"), "growthbook", options=options, holdback=holdback)


def opened(fake: FakeGrowthBook, **options: Any) -> GrowthBookPlatform:
    platform = open_platform(shop(fake, **options), no_load)
    assert isinstance(platform, GrowthBookPlatform)
    return platform


def rules(fake: FakeGrowthBook) -> list[dict]:
    return fake.features["ranker"]["environments"]["production"]["rules"]


# ------------------------------------------------------------------------------------------- what is served


def test_a_test_is_an_experiment_with_equal_weights_and_our_hash(fake: FakeGrowthBook) -> None:
    platform, test = opened(fake), live_test(shop(), "exp-1")
    platform.start(test, "start")
    (made,) = fake.experiments.values()
    assert (made["trackingKey"], made["status"], made["hashVersion"]) == ("exp-1", "running", 2)
    (phase,) = made["phases"]
    assert (phase["seed"], phase["coverage"], phase["variationWeights"]) == ("exp-1", 0.2, [0.5, 0.5])
    assert [each["key"] for each in made["variations"]] == ["0", "1"]
    assert (made["metrics"], made["guardrailMetrics"]) == (["met_active"], ["met_dislikes"])
    assert platform.status("exp-1") == TestStatus(experiment_id="exp-1", state="running", coverage=0.2)
    assert platform.running() == [platform.status("exp-1")]


def test_users_get_the_arms_that_our_assigner_gives_them_and_keep_them_when_coverage_rises(
    fake: FakeGrowthBook,
) -> None:
    platform, test = opened(fake), live_test(shop(), "exp-1")
    names = {OUTSIDE: ORIGINAL, 0: CONTROL, 1: CANDIDATE}

    def expected(coverage: float) -> list[str]:
        return [names[arm] for arm in HashAssigner().assign(test.allocation(coverage), USERS)]

    platform.start(test, "start")
    at_start = [fake.shown(user) for user in USERS]
    assert at_start == expected(0.2)
    platform.ramp("exp-1", 1.0, "ramp")
    ramped = [fake.shown(user) for user in USERS]
    assert ramped == expected(1.0)
    assert set(ramped) == {CONTROL, CANDIDATE}
    assert len(next(iter(fake.experiments.values()))["phases"]) == 1
    platform.stop("exp-1", "stop")
    assert {fake.shown(user) for user in USERS} == {ORIGINAL}


def test_slots_are_a_namespace_and_nobody_is_in_two_tests(fake: FakeGrowthBook) -> None:
    surface = shop(fake, namespace="ns-layer")
    surface = served(
        Path("nowhere"), "growthbook", options=surface.spec.online.options, holdback=0.0, slots=2
    )
    platform = open_platform(surface, no_load)
    for slot in (0, 1):
        arms = {"control": f"control-{slot}", "candidate": f"candidate-{slot}", "coverage": 1.0}
        platform.start(live_test(surface, f"exp-{slot}", slot, **arms), f"start {slot}")
    assert [each.experiment_id for each in platform.running()] == ["exp-0", "exp-1"]
    shown = [fake.shown(user) for user in USERS]
    assert set(shown) == {"control-0", "candidate-0", "control-1", "candidate-1"}
    assert all(100 < shown.count(value) < 200 for value in set(shown))
    with pytest.raises(PlatformError, match="overlaps"):
        platform.start(live_test(surface, "exp-2", 1), "start 2")
    assert len(fake.experiments) == 2


def test_rules_of_other_people_are_left_alone(fake: FakeGrowthBook) -> None:
    platform, before = opened(fake), list(rules(fake))
    platform.start(live_test(shop(), "exp-1"), "start")
    assert rules(fake)[1:] == before
    assert rules(fake)[0]["experimentId"] == "exp_0"
    platform.stop("exp-1", "stop")
    assert rules(fake) == before


def test_a_launch_is_the_default_value_and_the_holdback_keeps_version_0(fake: FakeGrowthBook) -> None:
    platform = opened(fake, holdback=0.05, holdout="hld_1", namespace="ns-layer")
    platform.launch("artifacts/v0", 0, "launch 0")
    platform.launch("artifacts/v1", 1, "launch 1")
    platform.launch("artifacts/v0", 0, "launch 0")
    assert fake.features["ranker"]["defaultValue"] == "artifacts/v1"
    assert fake.features["ranker"]["holdout"] == {"id": "hld_1", "value": "artifacts/v0"}
    assert fake.features["ranker"]["description"].startswith("Which ranker serves\n")
    with pytest.raises(PlatformError, match="'launch 1' was used for"):
        platform.launch("artifacts/v2", 2, "launch 1")
    with pytest.raises(PlatformError, match="'launch 1' was used for"):
        platform.start(live_test(shop(), "exp-1", slot=0), "launch 1")


def test_a_version_that_is_trained_again_takes_the_place_of_its_model(fake: FakeGrowthBook) -> None:
    platform = opened(fake, holdback=0.05, holdout="hld_1", namespace="ns-layer")

    def served() -> tuple[str, str]:
        feature = fake.features["ranker"]
        return feature["defaultValue"], feature["holdout"]["value"]

    platform.launch("artifacts/v0", 0, "launch 0")
    platform.launch("artifacts/v0-newer", 0, "refresh 0")
    assert served() == ("artifacts/v0-newer", "artifacts/v0-newer")
    platform.launch("artifacts/v1", 1, "launch 1")
    platform.launch("artifacts/v0-newest", 0, "refresh 0 again")
    assert served() == ("artifacts/v1", "artifacts/v0-newest")
    platform.launch("artifacts/v1-newer", 1, "refresh 1")
    platform.launch("artifacts/v0-newer", 0, "refresh 0")
    assert served() == ("artifacts/v1-newer", "artifacts/v0-newest")


def test_without_version_0_the_holdback_keeps_what_served_before(fake: FakeGrowthBook) -> None:
    platform = opened(fake, holdback=0.05, holdout="hld_1", namespace="ns-layer")
    platform.launch("artifacts/v1", 1, "launch 1")
    with pytest.raises(PlatformError, match="first launch"):
        platform.launch("artifacts/other", 0, "late")
    platform.launch("artifacts/v1-newer", 1, "refresh 1")
    assert fake.features["ranker"]["defaultValue"] == "artifacts/v1-newer"
    assert fake.features["ranker"]["holdout"]["value"] == ORIGINAL


# ------------------------------------------------------------------------------------------ when it fails

FAILURES = [{"status": 500}, {"status": 429}, {"lost": True}, {"text": "<html>nonsense"}]


def everything(platform: GrowthBookPlatform) -> None:
    """One life: what the loop does between a proposal and a launch, with the keys that it would use."""
    platform.start(live_test(shop(), "exp-1"), "start")
    platform.ramp("exp-1", 1.0, "ramp")
    platform.stop("exp-1", "stop")
    platform.launch(CANDIDATE, 1, "launch")


@pytest.mark.heavy
def test_every_request_may_fail_or_lose_its_answer_and_the_same_calls_end_in_the_same_state(
    fake: FakeGrowthBook,
) -> None:
    def state() -> tuple:
        (made,) = fake.experiments.values()
        (phase,) = made["phases"]
        return made | {"phases": [phase | {"dateStarted": "at some moment"}]}, fake.features

    everything(opened(fake))
    count, whole = len(fake.requests), copy.deepcopy(state())
    assert count < 30
    first, later = opened(fake, tries=1), opened(fake)
    for number in range(count):
        for failure in FAILURES:
            fake.reset()
            fake.fail(*[{}] * number, failure)
            with pytest.raises(PlatformError) as failed:
                everything(first)
            assert KEY not in str(failed.value)
            everything(later)
            assert state() == whole, (number, failure)


@pytest.mark.parametrize("failure", FAILURES[:3], ids=str)
def test_what_passes_is_tried_again_at_once(fake: FakeGrowthBook, failure: dict) -> None:
    platform = opened(fake)
    for number in range(6):  # the requests of a start
        fake.fail(*[{}] * number, failure)
        platform.start(live_test(shop(), f"exp-{number}"), f"start {number}")
        assert fake.failures == []
        platform.stop(f"exp-{number}", f"stop {number}")
    assert len(fake.experiments) == 6


def test_a_server_that_hangs_is_given_up_and_a_creation_that_it_hid_is_found(fake: FakeGrowthBook) -> None:
    fake.fail({}, {}, {"hang": True})
    opened(fake, timeout_s=0.3).start(live_test(shop(), "exp-1"), "start")
    assert [each["status"] for each in fake.experiments.values()] == ["running"]
    fake.fail(*[{"hang": True}] * 2)
    with pytest.raises(PlatformError, match=r"GET http://127.*ReadTimeout.*Tried 2 times"):
        opened(fake, timeout_s=0.2, tries=2).status("exp-1")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('{"experiments": 3}', ["experiments", "valid list", "online.options.url"]),
        ('{"experiments": [{"trackingKey": "exp-1"}], "hasMore": false}', ["`id`", "required"]),
        ('{"experiments": [], "hasMore": true, "nextOffset": 0}', ["nextOffset", "0"]),
        (
            '{"experiments": [{"id": "e", "trackingKey": "exp-1", "status": "paused"}], "hasMore": false}',
            ["status"],
        ),
        ("", ["no JSON object", "nothing"]),
    ],
)
def test_nonsense_is_named_and_never_taken_for_an_unknown_test(
    fake: FakeGrowthBook, answer: str, words: list[str]
) -> None:
    fake.fail({"text": answer})
    with pytest.raises(PlatformError) as refused:
        opened(fake).status("exp-1")
    assert [word for word in words if word not in str(refused.value)] == [], refused.value


def test_a_key_that_is_not_valid_is_told_without_showing_it(
    fake: FakeGrowthBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROWTHBOOK_API_KEY", "secret_wrong_key")
    with pytest.raises(PlatformError, match=r"answered 401.*new one") as refused:
        opened(fake).status("exp-1")
    assert "secret_wrong" not in str(refused.value)
    assert "***" in str(refused.value)


def test_a_list_of_many_pages_is_read_to_its_end(fake: FakeGrowthBook) -> None:
    fake.page = 2
    platform = opened(fake)
    for number in range(5):
        platform.start(live_test(shop(), f"exp-{number}"), f"start {number}")
        if number < 4:
            platform.stop(f"exp-{number}", f"stop {number}")
    with pytest.raises(PlatformError, match="'start 0' was used for"):
        platform.ramp("exp-4", 1.0, "start 0")
    assert [each.experiment_id for each in platform.running()] == ["exp-4"]


# ------------------------------------------------------------------------------------ what people change


def test_what_somebody_changed_by_hand_is_told(fake: FakeGrowthBook) -> None:
    platform = opened(fake)
    platform.start(live_test(shop(), "exp-1"), "start")
    made = fake.experiments["exp_0"]
    whole = {name: made[name] for name in ("phases", "description")}
    for change, words in (
        ({"phases": whole["phases"] * 2}, "2 phases"),
        ({"phases": [whole["phases"][0] | {"variationWeights": [0.9, 0.1]}]}, "weights"),
        ({"description": "evorank: lost"}, "restore it"),
        ({"description": "mine now"}, "not made here"),
    ):
        made.update(change)
        with pytest.raises(PlatformError, match=words):
            platform.status("exp-1")
        made.update(whole)
    fake.experiments["copy"] = made | {"id": "copy"}
    with pytest.raises(PlatformError, match="Two experiments"):
        platform.status("exp-1")
    del fake.experiments["copy"]
    made["description"] = "Please do not touch.\n" + made["description"]
    platform.ramp("exp-1", 0.5, "ramp")
    assert made["description"].startswith("Please do not touch.\n")
    made["phases"] = [made["phases"][0], made["phases"][0]]
    platform.stop("exp-1", "stop")  # whatever was done to it, everybody goes back to production
    assert made["status"] == "stopped"


def test_a_feature_that_cannot_serve_is_told_before_anything_runs(fake: FakeGrowthBook) -> None:
    fake.feature("flag", "true", "boolean")
    with pytest.raises(PlatformError, match="type string, got 'boolean'"):
        opened(fake, feature="flag").start(live_test(shop(), "exp-1"), "start")
    assert fake.experiments == {}
    for options, words in (
        ({"environment": "prod"}, r"one of \['dev', 'production'\], got 'prod'"),
        ({"environment": "dev"}, "off in 'dev'"),
        ({"feature": "gone"}, "404"),
    ):
        with pytest.raises(PlatformError, match=words):
            opened(fake, **options).start(live_test(shop(), "exp-1"), "start")
        assert "running" not in [each["status"] for each in fake.experiments.values()]
        assert opened(fake).status("exp-1").state == "unknown"
    opened(fake).start(live_test(shop(), "exp-1"), "start")
    assert opened(fake).status("exp-1").state == "running"


# ----------------------------------------------------------------------------------------------- results


def result(*metrics: dict) -> dict:
    return {
        "dateUpdated": "2026-03-16T04:00:00Z",
        "results": [{"dimension": "All", "metrics": list(metrics)}],
    }


def metric(name: str, users: tuple[int, int] = (1000, 1010), lift: float = 0.0625, **changes: Any) -> dict:
    def of(arm: int, **analysis: float) -> dict:
        numbers = {"engine": "frequentist", "mean": 1.0, "stddev": 1.0, "numerator": 1, "denominator": 1}
        found = [numbers | {"percentChange": 0, "ciLow": 0, "ciHigh": 0} | analysis]
        return {"variationId": f"var_exp_0_{arm}", "users": users[arm], "analyses": found}

    moved = {"percentChange": lift, "ciLow": lift - 0.03125, "ciHigh": lift + 0.03125} | changes
    return {"metricId": name, "variations": [of(0), of(1, **moved)]}


def test_results_become_estimates_that_say_how_they_were_made(fake: FakeGrowthBook) -> None:
    platform = opened(fake, level=0.9)
    assert platform.estimates("exp-1") == []
    platform.start(live_test(shop(), "exp-1"), "start")
    assert platform.estimates("exp-1") == []
    fake.results["exp_0"] = result(
        metric("met_active"), metric("met_dislikes", (0, 0), 0), metric("met_other")
    )
    assert platform.estimates("exp-1") == [
        Estimate(
            metric="active_days",
            lift=0.0625,
            low=0.03125,
            high=0.09375,
            level=0.9,
            method="GrowthBook, frequentist, as of 2026-03-16T04:00:00Z",
            users_control=1000,
            users_candidate=1010,
        )
    ]
    fake.results["exp_0"] = result(metric("met_active", ciLow=float("nan")))
    with pytest.raises(PlatformError, match="ciLow"):
        platform.estimates("exp-1")
    with pytest.raises(PlatformError, match=r"online.options.tables"), platform.connect():
        pass


def test_where_tables_are_given_they_are_read(fake: FakeGrowthBook, tmp_path: Path) -> None:
    (tmp_path / "days.csv").write_text("user_id,timestamp\n1,2026-03-02\n")
    platform = opened(fake, tables={"days": {"path": str(tmp_path / "*.csv")}}, metrics=None)
    assert platform.estimates("exp-1") is None
    with platform.connect() as connection:
        assert connection.execute("SELECT count(*) FROM days").fetchone() == (1,)
    assert platform.exposures == "exposures"
    assert fake.requests == []


# ----------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"feature": None}, ["online.options.feature", "required"]),
        ({"url": "https://me:pw@growthbook.example/api"}, ["online.options.url", "without a user"]),
        ({"url": "growthbook.example"}, ["online.options.url", "http"]),
        ({"metrics": {"active_days": "met_active"}}, ["dislikes", "missing", "tables"]),
        ({"metrics": {"clicks": "met_clicks"}}, ["clicks", "active_days"]),
        ({"datasource": None}, ["datasource"]),
        ({"holdback": 0.05}, ["namespace", "0.05"]),
        ({"holdback": 0.05, "namespace": "ns-layer"}, ["holdout", "holdback = 0"]),
        ({"api_key": "secret_123"}, ["online.options.api_key", "Options are"]),
    ],
)
def test_a_wrong_option_is_named_when_the_platform_is_opened(
    monkeypatch: pytest.MonkeyPatch, options: dict, words: list[str]
) -> None:
    monkeypatch.setenv("GROWTHBOOK_API_KEY", KEY)
    with pytest.raises(ConfigurationError) as refused:
        open_platform(shop(**options), no_load)
    assert [word for word in words if word not in str(refused.value)] == [], refused.value
    assert "me:pw" not in str(refused.value)
    assert "secret_123" not in str(refused.value)


def test_a_key_that_is_missing_is_asked_for_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GROWTHBOOK_API_KEY", KEY)
    monkeypatch.delenv("SHOP_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="SHOP_KEY must hold an API key"):
        open_platform(shop(key_variable="SHOP_KEY"), no_load)
