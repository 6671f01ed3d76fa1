"""Whatever an attacker tries from inside a lock fails; what a layer is for shows where it is left out."""

from __future__ import annotations

import ast
import os
import platform
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the forking process imports `attacks` from here

from arena import Arena
from attacks import ATTACKS

from evorank.tools.evaluator.lock import LAYERS, self_test

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="locks are Linux's"),
    pytest.mark.skipif(
        sys.platform == "linux" and self_test().tier == "degraded", reason=f"{self_test().missing}"
    ),
]
ROOT = Path(__file__).resolve().parents[3]
CONTROL = [
    name
    for name, attack in ATTACKS.items()
    if attack.control
    and (os.geteuid() == 0 or not attack.root)
    and (platform.machine() == "x86_64" or name != "call_as_a_32_bit_program")
]
NEEDED = {
    "limits": [
        "take_memory",
        "take_memory_through_torch",
        "compute_for_ever_and_ignore_signals",
        "flood_the_output",
        "open_many_descriptors",
    ],
    "landlock": [
        "read_the_labels",
        "list_the_home",
        "load_a_library",
        "load_a_library_into_torch",
        "import_code_from_the_home",
        "walk_upwards_from_readable_code",
    ],
    "seccomp": [
        "send_by_udp",
        "connect_to_a_unix_socket",
        "change_the_mode_of_the_labels",
        "start_threads" if os.geteuid() == 0 else "make_pipes",
        "take_memory_that_no_limit_counts",
        "call_as_a_32_bit_program" if platform.machine() == "x86_64" else "make_pipes",
        "survive_the_parent",
    ],
}
"""What passes where one layer alone is left out."""


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    arena = Arena(tmp_path_factory.mktemp("attacks") / "home")
    yield arena
    arena.close()


@pytest.fixture(scope="module")
def ruins(tmp_path_factory):
    """An arena whose attackers may win."""
    arena = Arena(tmp_path_factory.mktemp("ruins") / "home")
    yield arena
    arena.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_from_a_locked_process_fails(arena, name):
    outcome = arena.run(name, LAYERS)
    assert not outcome["succeeded"], outcome
    assert "layers are missing" not in outcome["said"]
    assert arena.unharmed()


@pytest.mark.parametrize("name", CONTROL)
def test_the_same_attack_succeeds_where_only_limits_hold(ruins, name):
    outcome = ruins.run(name, ("limits",))
    assert outcome["succeeded"], outcome["said"]


@pytest.mark.parametrize(("layer", "name"), [(layer, name) for layer in NEEDED for name in NEEDED[layer]])
def test_without_one_layer_what_it_is_for_succeeds(ruins, layer, name):
    outcome = ruins.run(name, tuple(other for other in LAYERS if other != layer))
    assert outcome["succeeded"], outcome["said"]


def test_foreign_calls_end_the_process(arena):
    assert arena.run("call_by_the_other_interface_of_x86_64", LAYERS)["said"] == "SIGSYS"
    assert arena.run("call_as_a_32_bit_program", LAYERS)["said"] == "SIGSYS"


def test_layers_are_chosen_by_no_code_but_the_self_test():
    """Products lock with `lock`, all of it or LockError: only there and in the self-test are layers named."""
    users = set()
    for folder in ("graph", "model", "personas", "surfaces", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
            if "_put_on" in names:
                users.add(path.name)
    assert users == {"lock.py", "trial.py"}
