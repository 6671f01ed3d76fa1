"""The file of allocations: one effect per key, whole or not at all, and a service that follows it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature.api import get_client, set_provider
from openfeature.evaluation_context import EvaluationContext

from evorank.model.errors import PlatformError
from evorank.surfaces.allocations import AllocationFile, LiveAllocations, Traffic
from evorank.surfaces.assignment import OUTSIDE, HashAssigner, hash_v2
from evorank.surfaces.platform import LiveTest
from evorank.tools.abtest.provider import ExperimentProvider

sys.path.append(str(Path(__file__).parent))
from served import live_test, served

SURFACE = served(Path("nowhere"), slots=2)
EMPTY = Traffic(layer=SURFACE.layer, holdback=0.05)


def file_in(folder: Path, **changes: object) -> AllocationFile:
    return AllocationFile(folder / "allocations.json", **{"layer": SURFACE.layer, "holdback": 0.05} | changes)


# ------------------------------------------------------------------------------------------------ rules

CALLS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(["a", "b", "c"]), st.sampled_from([0, 1])),
    st.tuples(st.just("ramp"), st.sampled_from(["a", "b", "c"]), st.sampled_from([0.1, 0.2, 0.5, 1.0])),
    st.tuples(st.just("stop"), st.sampled_from(["a", "b", "c"]), st.none()),
    st.tuples(st.just("launch"), st.sampled_from(["x", "y"]), st.sampled_from([0, 1, 2])),
)


def called(traffic: Traffic, call: tuple, key: str) -> Traffic:
    kind, name, value = call
    if kind == "start":
        return traffic.start(live_test(SURFACE, name, slot=value), key)
    if kind == "ramp":
        return traffic.ramp(name, value, key)
    if kind == "stop":
        return traffic.stop(name, key)
    return traffic.launch(name, value, key)


@given(st.lists(st.tuples(CALLS, st.sampled_from(["k1", "k2", "k3", "k4", "k5", "k6"])), max_size=25))
def test_whatever_is_called_a_key_is_one_effect_and_no_promise_of_traffic_is_broken(steps: list) -> None:
    traffic, used = EMPTY, {}
    for call, key in steps:
        before = traffic
        try:
            traffic = called(traffic, call, key)
        except PlatformError:
            assert used.get(key) != call
            assert traffic is before
            continue
        if key in used:
            assert used[key] == call
            assert traffic is before
        used[key] = call
        for name, was in before.experiments.items():
            now = traffic.experiments[name]
            assert now.test == was.test
            assert was.state == "running" or now == was
            assert now.coverage >= was.coverage or now.state == "stopped"
        slots = [each.test.slot for each in traffic.running()]
        assert len(set(slots)) == len(slots)
        assert before.first in (None, traffic.first) or call[::2] == ("launch", 0)
        assert Traffic.model_validate_json(traffic.model_dump_json()) == traffic


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: t.start(live_test(SURFACE, "b"), "k"), ["slot", "'a'", "runs on"]),
        (lambda t: t.start(live_test(SURFACE, "b", slot=0, seed="other"), "k"), ["overlaps"]),
        (lambda t: t.start(live_test(SURFACE, "a", slot=1), "k"), ["experiment_id", "before"]),
        (
            lambda t: t.start(live_test(SURFACE, "b").model_copy(update={"slot": (0.0, 0.05)}), "k"),
            ["0.05", "holdback"],
        ),
        (lambda t: t.start(live_test(SURFACE, "b", 1, layer="other"), "k"), ["layer", "other"]),
        (lambda t: t.ramp("a", 0.1, "k"), ["0.2..1", "0.1", "stop"]),
        (lambda t: t.ramp("a", 1.1, "k"), ["0.2..1", "1.1"]),
        (lambda t: t.ramp("nobody", 0.5, "k"), ["nobody", "unknown"]),
        (lambda t: t.stop("a", "s").ramp("a", 0.5, "k"), ["'a'", "stopped"]),
        (lambda t: t.ramp("a", 0.5, "start"), ["'start'", "start {", "ramp a 0.5"]),
        (lambda t: t.launch("x", 1, "l").launch("y", 0, "k"), ["version", "first"]),
    ],
)
def test_what_cannot_be_says_why(call: Callable[[Traffic], Traffic], words: list[str]) -> None:
    traffic = EMPTY.start(live_test(SURFACE, "a"), "start")
    with pytest.raises(PlatformError) as refused:
        call(traffic)
    assert [word for word in words if word not in str(refused.value)] == [], refused.value


# ------------------------------------------------------------------------------------------------- file


def test_a_change_is_there_for_the_next_reader_and_one_that_raises_is_not(tmp_path: Path) -> None:
    file_in(tmp_path).change(lambda traffic: traffic.start(live_test(SURFACE, "a"), "start"))
    written = (tmp_path / "allocations.json").read_bytes()
    with pytest.raises(PlatformError, match="got 0"):
        file_in(tmp_path).change(lambda traffic: traffic.ramp("a", 0.1, "down"))
    file_in(tmp_path).change(lambda traffic: traffic.start(live_test(SURFACE, "a"), "start"))
    assert (tmp_path / "allocations.json").read_bytes() == written
    assert [each.test.experiment_id for each in file_in(tmp_path).read().running()] == ["a"]


def test_a_writer_that_was_killed_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file_in(tmp_path).change(lambda traffic: traffic.launch("x", 0, "k"))

    def killed(traffic: Traffic) -> Traffic:
        os._exit(9)

    child = multiprocessing.get_context("fork").Process(target=lambda: file_in(tmp_path).change(killed))
    child.start()
    child.join()
    assert child.exitcode == 9
    (tmp_path / ".allocations.json.1.tmp").write_text('{"layer": "half a')
    file_in(tmp_path).change(lambda traffic: traffic.launch("y", 1, "l"))
    assert file_in(tmp_path).read().artifact == "y"
    assert file_in(tmp_path).read().first == "x"


def _ramp_many(folder: Path, worker: int) -> None:
    for number in range(20):
        file_in(folder).change(
            lambda traffic, n=number: traffic.launch(f"{worker}/{n}", n + 1, f"{worker}/{n}")
        )


def test_changes_of_several_processes_at_once_are_all_there(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_ramp_many, args=(tmp_path, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(file_in(tmp_path).read().keys) == 80


def test_a_lock_that_is_held_too_long_is_told(tmp_path: Path) -> None:
    def nested(traffic: Traffic) -> Traffic:
        file_in(tmp_path, patience_s=0.05).change(lambda inner: inner)
        return traffic

    with pytest.raises(PlatformError, match="another process"):
        file_in(tmp_path).change(nested)


def test_a_folder_that_is_gone_a_damaged_file_and_another_holdback_are_told(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot be written: No such file"):
        file_in(tmp_path / "gone").change(lambda traffic: traffic.stop("a", "k"))
    file_in(tmp_path).change(lambda traffic: traffic.launch("x", 0, "k"))
    with pytest.raises(PlatformError, match=r"`holdback` must stay 0.05.*got 0.1"):
        file_in(tmp_path, holdback=0.1).read()
    (tmp_path / "allocations.json").write_text('{"layer": 3')
    with pytest.raises(PlatformError, match="Restore it from a backup"):
        file_in(tmp_path).read()


# ---------------------------------------------------------------------------------------------- service


def test_a_service_follows_the_file_through_openfeature_without_a_restart(tmp_path: Path) -> None:
    file, allocations = file_in(tmp_path), LiveAllocations(tmp_path / "allocations.json", tmp_path)
    set_provider(ExperimentProvider(allocations), "follows")
    client = get_client("follows")
    users = [str(number) for number in range(400)]

    def seen() -> np.ndarray:
        answers = [client.get_string_value("a", "-1", EvaluationContext(user)) for user in users]
        return np.array(answers, np.int8)

    assert list(allocations) == []
    assert set(seen()) == {OUTSIDE}
    test = live_test(SURFACE, "a")
    file.change(lambda traffic: traffic.start(test, "start"))
    assert list(allocations) == ["a"]
    assert len(allocations) == 1
    at_start = seen()
    assert np.array_equal(at_start, HashAssigner().assign(test.allocation(), users))
    file.change(lambda traffic: traffic.ramp("a", 1.0, "ramp"))
    ramped = seen()
    assert np.array_equal(ramped, HashAssigner().assign(test.allocation(1.0), users))
    assert np.count_nonzero(ramped != OUTSIDE) > 2 * np.count_nonzero(at_start != OUTSIDE) > 0
    assert np.array_equal(ramped[at_start != OUTSIDE], at_start[at_start != OUTSIDE])
    folders = {"0": str(tmp_path / test.control), "1": str(tmp_path / test.candidate)}
    assert allocations.artifacts("a") == folders
    file.change(lambda traffic: traffic.stop("a", "stop"))
    assert set(seen()) == {OUTSIDE}
    assert "a" not in allocations
    (tmp_path / "allocations.json").write_text("nonsense")
    assert set(seen()) == {OUTSIDE}


def test_the_holdback_keeps_version_0_and_everybody_else_gets_what_was_launched_last(tmp_path: Path) -> None:
    file, allocations = file_in(tmp_path), LiveAllocations(tmp_path / "allocations.json")
    users = [str(number) for number in range(2000)]
    assert {allocations.production(user) for user in users} == {None}
    for version, artifact in enumerate(["first", "second", "third"]):
        file.change(lambda traffic, v=version, a=artifact: traffic.launch(a, v, f"launch/{v}"))
    held = [user for user in users if allocations.held_back(user)]
    assert held == [
        user for user, place in zip(users, hash_v2(SURFACE.layer, users), strict=True) if place < 0.05
    ]
    assert 60 < len(held) < 140
    rest = set(users) - set(held)

    def served() -> list[set[str]]:
        return [{Path(allocations.production(user)).name for user in each} for each in (held, rest)]

    assert served() == [{"first"}, {"third"}]
    file.change(lambda traffic: traffic.launch("first, newer", 0, "refresh/0"))
    assert served() == [{"first, newer"}, {"third"}]
    file.change(lambda traffic: traffic.launch("third, newer", 2, "refresh/2"))
    assert served() == [{"first, newer"}, {"third, newer"}]


def test_version_0_trained_again_before_any_other_launch_is_for_everybody(tmp_path: Path) -> None:
    traffic = EMPTY.launch("first", 0, "launch/0").launch("newer", 0, "refresh/0")
    assert (traffic.artifact, traffic.first, traffic.version) == ("newer", "newer", 0)


def test_a_live_test_is_what_its_file_says(tmp_path: Path) -> None:
    test = live_test(SURFACE, "a", slot=1)
    file_in(tmp_path).change(lambda traffic: traffic.start(test, "start"))
    found = file_in(tmp_path).read().experiments["a"]
    assert isinstance(found.test, LiveTest)
    assert found.test == test
    assert found.status.model_dump() == {"experiment_id": "a", "state": "running", "coverage": 0.2}
