"""What views say: functions of records, so records with a known answer are all they need."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from evorank.graph.activity import Activity, Doing
from evorank.graph.leases import this_process
from evorank.graph.runs import Plan
from evorank.graph.schedule import Entry
from evorank.graph.state import Experiment, Usage
from evorank.graph.versions import Version
from evorank.model.delta import fingerprint
from evorank.ui.source import Run, Snapshot
from evorank.ui.views import experiments as listing
from evorank.ui.views.attempt import attempt_view
from evorank.ui.views.common import in_words
from evorank.ui.views.compare import compare
from evorank.ui.views.difference import flat, side_by_side
from evorank.ui.views.experiment import experiment_view
from evorank.ui.views.journal import Query, journal
from evorank.ui.views.lineage import lineage
from evorank.ui.views.overview import overview, run_line
from evorank.ui.views.rates import rate, wilson

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def snapshot(attempts=(), **fields) -> Snapshot:
    known = {"surface": "simulated", "surfaces": ["simulated"], "at": NOW, "now": NOW, "spec": None}
    return Snapshot(**(known | {"experiments": [], "attempts": list(attempts)} | fields))


def run(activity=None, summary=None) -> Run:
    plan = Plan(
        run="r", steps=10, context={"surface": "simulated"}, data_version="d", production="p",
        created_at=(NOW - timedelta(hours=1)).isoformat(), versions={},
    )  # fmt: skip
    return Run(plan, activity, summary)


def activity(minutes: float, process: str | None = None, **fields) -> Activity:
    at = NOW - timedelta(minutes=minutes)
    doing = Doing(persona="reward", node="tool", text="seed 2 of 8", since=at, at=at)
    known = {
        "run": "r",
        "surface": "simulated",
        "begun": NOW - timedelta(hours=1),
        "at": at,
        "steps": {3: doing},
    }
    return Activity(process=this_process() if process is None else process, **(known | fields))


def dead() -> str:
    """A process of this machine that is no more."""
    machine, _, _ = this_process().rpartition("/")[0].rpartition("/")
    return f"{machine}/999999999/1"


@pytest.mark.parametrize(
    ("known", "state"),
    [
        (run(activity(0.1)), "working"),
        (run(activity(5)), "silent"),
        (run(activity(0.1, process=dead())), "gone"),
        (run(activity(5, process=dead()), {"stopped": "budget: 5 of 5 calls spent"}), "stopped"),
        (run(activity(5, ended=True), {"stopped": None}), "finished"),
        (run(activity(5, ended=True), {"stopped": "interrupted"}), "stopped"),
        (run(activity(0.1), {"stopped": "interrupted"}), "working"),
        (run(None, {"stopped": None}), "finished"),
        (run(None, None), "gone"),
    ],
)
def test_a_run_that_works_hangs_died_stopped_or_finished_is_told_apart(known, state):
    line = run_line(known, snapshot())
    assert line.state == state
    assert bool(line.doing) == (state in ("working", "silent"))
    assert bool(line.resume) == (state in ("gone", "stopped"))


def test_what_nobody_reported_is_not_zero(attempt):
    view = overview(snapshot([attempt(0, usage=Usage(calls=1, cpu_seconds=2.0))]))
    assert view.cost.input_tokens is None
    assert view.cost.usd is None
    assert view.cost.cpu_seconds == 2.0


def test_imported_attempts_count_in_no_rate(attempt):
    told = {"by": "somebody"}
    found = [attempt(0, gain=0.1, outcome="better"), attempt(1, outcome="better", imported=told)]
    assert overview(snapshot(found)).attempts.tried == 1
    assert journal(snapshot(found)).total == 2


def test_a_rate_has_its_interval_also_where_little_was_tried(attempt):
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(5, 10)
    assert low == pytest.approx(0.2366, abs=1e-4)
    assert high == pytest.approx(0.7634, abs=1e-4)
    found = rate(
        "all", [attempt(0, gain=1, outcome="better"), attempt(1), attempt(2, gain=0, outcome="equal")]
    )
    assert (found.won, found.compared, found.tried) == (1, 2, 3)


def test_a_search_takes_what_holds_all_words_and_a_page_is_cut_from_it(attempt):
    found = snapshot(
        [attempt(step, gain=0.001 * step, hypothesis=f"Idea {step} of gating") for step in range(30)]
    )
    assert journal(found, Query(q="GATING idea 7")).total >= 1
    assert journal(found, Query(q="gating nothing")).total == 0
    page = journal(found, Query(per=10, page=3, sort="oldest"))
    assert [row.step for row in page.rows] == list(range(20, 30))
    assert page.pages == 3
    assert journal(found, Query(per=10, page=99)).query.page == 3
    assert journal(found, Query(sort="gain", per=1)).rows[0].step == 29


def test_a_change_is_put_in_words_and_code_is_not_quoted():
    changes = [
        {"op": "test", "path": "/a", "value": 1},
        {"op": "replace", "path": "/optimizer/args/lr", "value": 0.1},
        {"op": "add", "path": "/components/a~1b", "value": {"kind": "layer", "source": "class X"}},
        {"op": "remove", "path": "/reward/factors/x"},
        {"op": "move", "from": "/a/b", "path": "/c"},
    ]
    assert in_words(changes) == (
        "optimizer.args.lr = 0.1; components.a/b = code (layer); reward.factors.x removed; c from a.b"
    )
    assert in_words(changes, 20) == "optimizer.args.lr =…"


def test_two_configurations_are_compared_field_by_field_and_code_line_by_line():
    source = "\n".join(f"line {number}" for number in range(20))
    before = {"a": 1, "b": {}, "c": {"source": source, "x": None}, "gone": [1, 2]}
    after = {"a": 1, "b": {"k": 2}, "c": {"source": source.replace("line 10", "LINE 10"), "x": {"n": 1}}}
    fields, same = side_by_side(before, after)
    assert same == 1
    assert [(each.path, each.kind) for each in fields] == [
        ("b.k", "added"), ("c.source", "changed"), ("c.x.n", "added"), ("gone", "removed"),
    ]  # fmt: skip
    lines = fields[1].lines
    assert [each.kind for each in lines] == ["gap", *["same"] * 3, "changed", *["same"] * 3, "gap"]
    assert (lines[4].before, lines[4].after, lines[4].before_number) == ("line 10", "LINE 10", 11)
    assert flat({}) == {"": "{}"}
    assert flat({"l": [{"a": 1}, 2]}) == {"l[0].a": "1", "l[1]": "2"}


def test_an_attempt_is_compared_with_its_parent_and_with_production(attempt):
    base, middle, last = ({"lr": value} for value in (0.1, 0.2, 0.3))
    versions = [version(1, base)]
    parent = attempt(0, gain=0.1, phi=middle, fingerprint=fingerprint(middle), production=fingerprint(base))
    known = {"base": fingerprint(middle), "production": fingerprint(base)}
    child = attempt(1, gain=0.1, phi=last, fingerprint=fingerprint(last), **known)
    view = attempt_view(child, snapshot([parent, child], versions=versions))
    told = [
        (each.against, each.attempt, each.fields[0].before, each.fields[0].after) for each in view.differences
    ]
    assert told == [("parent", parent.id, "0.2", "0.3"), ("production", None, "0.1", "0.3")]
    orphan = child.model_copy(update={"base": "unknown" * 8})
    assert not attempt_view(orphan, snapshot([orphan], versions=versions)).differences[0].known
    assert [each.id for each in attempt_view(parent, snapshot([parent, child])).children] == [child.id]


def test_every_metric_has_its_interval_and_those_of_two_labels_are_not_compared(attempt):
    arm = {"loss": 0.5, "auc": 0.7, "alignment": None, "latency_ms": 4.0}
    known = {"production": arm, "candidate": arm | {"auc": 0.72}}
    others = {"auc": {"difference": 0.02, "low": 0.01, "high": 0.03}}
    one = attempt(0, gain=0.1, width=0.01)
    one.comparison |= known | {"others": others}
    loss, auc, latency = attempt_view(one, snapshot([one])).measured
    assert (loss.low, loss.difference, loss.high) == pytest.approx((-0.11, -0.1, -0.09))
    assert (auc.low, auc.difference, auc.high) == (0.01, 0.02, 0.03)
    assert (latency.difference, latency.own_label) == (None, False)
    reward = attempt(1, gain=0.1)
    reward.comparison |= known | {"metric": "alignment", "candidate": arm | {"alignment": 0.1}}
    lines = {each.name: each for each in attempt_view(reward, snapshot([reward])).measured}
    assert lines["alignment"].difference == reward.comparison["difference"]
    assert lines["auc"].own_label
    assert lines["loss"].difference is None


def version(number: int, phi, experiment=None) -> Version:
    return Version(
        version=number,
        phi=phi,
        fingerprint=fingerprint(phi),
        artifact="a",
        experiment=experiment,
        why="why",
        at=NOW,
        serving="a",
        trained=None,
    )


METRICS = [
    {"name": "visits", "higher_is_better": True, "success": True, "margin": None},
    {"name": "dislikes", "higher_is_better": False, "success": False, "margin": 0.2},
]


def experiment(number: int, lift=None, **fields) -> Experiment:
    effect = {"metric": "visits", "level": 0.95, "lift": lift, "lift_low": 0.0, "lift_high": 2 * (lift or 0)}
    known = {
        "id": f"{number:08d}-0000-0000-0000-000000000000", "surface": "simulated", "proposed_by": "ada",
        "production": "p", "phi": {}, "fingerprint": "f", "effects": [effect] if lift else [],
        "plan": {"metrics": METRICS, "start": "2026-02-01T00:00:00", "horizon_days": 14},
    }  # fmt: skip
    return Experiment(**(known | fields))


def entry(of: Experiment, waiting: str = "") -> Entry:
    known = {"fingerprint": "f", "data": {}, "due": None, "paused": False, "opened_at": NOW, "version": 1}
    known |= {"closed_at": NOW if of.result else None, "position": 1 if of.phase == "proposed" else 0}
    return Entry(experiment=of.id, phase=of.phase, waiting=waiting, **known)


def several_tests() -> Snapshot:
    tests = [
        experiment(1, 0.1, phase="completed", result="launched", category="explore", hypothesis="A Gate"),
        experiment(2, 0.3, phase="completed", result="no_launch", run="r1"),
        experiment(3, phase="completed", result="rejected", proposed_by="bob"),
        experiment(4, phase="live", changes=[{"op": "replace", "path": "/optimizer/name", "value": "Adam"}]),
        experiment(5, phase="live"),
        experiment(6),
        experiment(7),
    ]
    entries = [entry(each, "approval" if each is tests[4] else "") for each in tests]
    entries[5], entries[6] = entries[6], entries[5]  # somebody ranked the second of the queue first
    return snapshot(experiments=tests, entries=entries)


def test_live_tests_stand_open_ones_first_and_are_sorted_by_what_people_did():
    found = several_tests()

    def order(**query) -> list[int]:
        return [int(row.id[:8]) for row in listing.experiments(found, listing.Query(**query)).rows]

    assert order() == [4, 5, 7, 6, 3, 2, 1]
    assert order(sort="oldest") == [1, 2, 3, 4, 5, 7, 6]
    assert order(sort="newest") == [6, 7, 5, 4, 3, 2, 1]
    assert order(sort="lift")[:2] == [2, 1]
    assert order(sort="state")[:3] == [1, 2, 3]
    less_is_better = [METRICS[0] | {"higher_is_better": False}]
    for each in found.experiments[:2]:
        each.plan["metrics"] = less_is_better
    assert order(sort="lift")[:2] == [1, 2]


def test_live_tests_are_filtered_searched_and_cut_into_pages_as_attempts_are():
    found = several_tests()

    def those(**query) -> list[int]:
        return [int(row.id[:8]) for row in listing.experiments(found, listing.Query(**query)).rows]

    assert those(state="waiting") == [5]
    assert those(state="live") == [4]
    assert those(state="rejected", proposed_by="bob") == [3]
    assert those(category="explore") == those(q="gate") == [1]
    assert those(run="none", state="proposed") == [7, 6]
    assert those(q="OPTIMIZER adam") == [4]
    assert those(q="00000002") == [2]
    page = listing.experiments(found, listing.Query(per=3, page=9))
    assert (page.query.page, page.pages, page.total, len(page.rows)) == (3, 3, 7, 1)
    assert page.choices["state"] == ["launched", "live", "no_launch", "proposed", "rejected", "waiting"]
    assert page.choices["run"] == ["none", "r1"]


def test_what_nobody_ever_saw_is_not_counted_among_the_tests_that_ended(attempt):
    queued, tried = attempt(0, gain=0.01), attempt(1, gain=0.01)
    seen = experiment(
        1,
        0.1,
        result="launched",
        started=True,
        attempt=tried.id,
        times={"completed": "2026-02-16T00:00:00+00:00"},
    )
    unseen = experiment(2, result="rejected", attempt=queued.id)
    view = overview(snapshot([queued, tried], experiments=[seen, unseen]))
    assert view.experiments == {"launched": 1, "rejected": 1}
    assert view.never_live == 1
    (generation,) = lineage(snapshot([queued, tried], experiments=[seen, unseen])).generations
    assert [(each.result, each.live) for each in generation.candidates] == [
        ("rejected", False),
        ("launched", True),
    ]


def test_why_there_is_no_audit_is_told(source):
    told = source.snapshot()
    assert overview(snapshot()).unaudited == "Nothing was launched yet."
    assert "`holdback` in surface.toml" in overview(told).unaudited
    held = told.spec.model_copy(update={"online": told.spec.online.model_copy(update={"holdback": 0.05})})
    first = min(each.times["completed"] for each in told.experiments if each.result == "launched")
    early = dataclasses.replace(told, spec=held, now=datetime.fromisoformat(first))
    assert "No day of traffic" in overview(early).unaudited
    assert overview(dataclasses.replace(told, spec=held)).unaudited == ""


def test_the_sum_of_launches_leaves_out_what_was_rolled_back():
    tests = [
        experiment(n, lift, version=n + 1, result="launched", phase="completed")
        for n, lift in ((1, 0.1), (2, 0.2), (3, 0.3))
    ]
    phis = [{"lr": value} for value in (1, 2, 3, 2, 4)]
    owners = [None, tests[0].id, tests[1].id, tests[0].id, tests[2].id]
    versions = [version(n, phi, owner) for n, (phi, owner) in enumerate(zip(phis, owners, strict=True), 1)]
    tests[2] = tests[2].model_copy(update={"version": 5})
    view = lineage(snapshot(experiments=tests, versions=versions))
    assert [step.returned for step in view.steps] == [False, False, False, True, False]
    (total,) = view.totals
    assert total.launches == 2
    assert total.lift == pytest.approx(1.1 * 1.3 - 1)
    assert view.sum == [{"op": "replace", "path": "/lr", "value": 4}]


def test_of_many_candidates_those_that_led_somewhere_are_drawn(attempt):
    found = [attempt(step, gain=-0.1, outcome="worse", fingerprint=f"f{step}") for step in range(3000)]
    found[5] = found[5].model_copy(update={"outcome": "better"})
    tested = experiment(1, attempt=found[7].id)
    (generation,) = lineage(snapshot(found, experiments=[tested])).generations
    drawn = {each.step for each in generation.candidates}
    assert {5, 7} <= drawn
    assert len(drawn) == 600
    assert generation.hidden == 2400


def test_a_phase_has_its_days_and_one_that_was_left_out_says_so():
    begun = {"live": 10, "validated": 3, "proposed": 1, "training": 10}
    times = {phase: f"2026-02-{day:02}T00:00:00+00:00" for phase, day in begun.items()}
    view = experiment_view(experiment(1, phase="live", times=times), snapshot())
    told = [(each.phase, each.state, each.days) for each in view.phases]
    assert told == [
        ("proposed", "done", 2.0),
        ("validated", "done", 7.0),
        ("training", "done", 0.0),
        ("live", "now", 19.5),
        ("completed", "next", None),
    ]
    ended = {"proposed": times["proposed"], "completed": times["validated"]}
    view = experiment_view(experiment(1, phase="completed", result="withdrawn", times=ended), snapshot())
    assert [each.state for each in view.phases] == ["done", "skipped", "skipped", "skipped", "done"]


@pytest.mark.parametrize(("higher", "margin"), [(True, -0.2), (False, 0.2)])
def test_the_sequential_interval_and_its_boundary_follow_from_what_was_looked_at(higher, margin):
    """A look keeps z, the distance to the margin in errors: the error, and the interval, must come back."""
    lift, error, bound = 0.05, 0.03, 2.5
    sign = 1.0 if higher else -1.0
    look = {
        "metric": "dislikes", "until": "2026-02-05T00:00:00", "fraction": 0.3, "margin": 0.2, "lift": lift,
        "information": 1.0, "z": -sign * (lift - margin) / error, "bound": bound, "broken": False,
    }  # fmt: skip
    untested = look | {"until": "2026-02-04T00:00:00", "bound": None, "lift": None, "z": None}
    reading = {"until": look["until"], "users": [1000, 1010], "failures": [], "looks": [untested, look]}
    metrics = [METRICS[0], METRICS[1] | {"higher_is_better": higher}]
    tested = experiment(1, readings=[reading])
    tested.plan["metrics"] = metrics
    view = experiment_view(tested, snapshot())
    (series,) = view.series
    first, point = series.points
    assert (first.low, first.boundary) == (None, None)
    assert point.low == pytest.approx(lift - bound * error)
    assert point.high == pytest.approx(lift + bound * error)
    # At the boundary, z would have been the bound.
    assert -sign * (point.boundary - margin) / error == pytest.approx(bound)
    assert series.margin == margin
    assert [each.basis for each in view.forest] == ["sequential"]
    assert view.unread == ["visits"]
    assert view.days[0].p > 0.5


def test_unequal_arms_are_told_with_their_p():
    reading = {
        "until": "2026-02-05T00:00:00",
        "users": [900, 1100],
        "failures": [{"reason": "lost"}],
        "looks": [],
    }
    (day,) = experiment_view(experiment(1, readings=[reading]), snapshot()).days
    assert day.p < 0.001
    assert day.failures == ["lost"]


def test_at_the_horizon_metrics_have_fixed_intervals_by_their_role():
    view = experiment_view(experiment(1, 0.1, result="launched", phase="completed"), snapshot())
    assert [(each.metric, each.role, each.basis) for each in view.forest] == [("visits", "success", "fixed")]
    assert view.unread == []
    assert view.end == datetime(2026, 2, 15)


def test_two_sides_are_compared_and_the_best_is_the_surest(attempt):
    found = [
        attempt(0, gain=0.05, width=0.049, outcome="better", persona="a", usage=Usage(cpu_seconds=4)),
        attempt(1, gain=0.02, width=0.001, outcome="better", persona="a"),
        attempt(2, gain=-0.02, outcome="worse", persona="b"),
    ]
    view = compare(snapshot(found), "persona")
    one, two = view.sides
    assert (one.name, two.name) == ("a", "b")
    assert one.best["log_loss"].step == 1
    assert one.cpu_per_win == 2
    assert two.best == {}
    assert two.cpu_per_win is None
    assert compare(snapshot(found), "persona", ["b"]).sides[0].name == "b"
    assert compare(snapshot([]), "run").sides == []
    # The form sends what was chosen of personas along when runs are asked for.
    assert [side.name for side in compare(snapshot(found), "run", ["a", "b"]).sides] == ["r"]
    other = snapshot(found[:1], surface="other", surfaces=["other", "simulated"])
    both = snapshot(found, surfaces=["other", "simulated"])
    sides = compare(both, "surface", [], lambda _: other).sides
    assert [(side.name, side.rate.tried) for side in sides] == [("other", 1), ("simulated", 3)]


def test_pace_counts_decided_tests_by_both_clocks(attempt):
    times = {"live": (NOW - timedelta(days=14)).isoformat(), "completed": NOW.isoformat()}
    tests = [
        experiment(n, result=result, started=True, times=times)
        for n, result in enumerate(("launched", "no_launch", "withdrawn"))
    ]
    working = run(activity(0))
    pace = overview(snapshot([attempt(0)], experiments=tests, runs=[working])).pace
    assert pace.days == 14
    assert pace.per_week == 1
    assert pace.hours == pytest.approx(1)
    assert pace.per_hour == pytest.approx(2)
