from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evorank.tools.evaluator import tier
from evorank.tools.evaluator.lock import LAYERS, self_test, wrapped
from evorank.tools.evaluator.readable import readable_code

boxed = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")


@pytest.fixture
def fresh():
    """The self-test, not remembered from or for other tests."""
    self_test.cache_clear()
    yield self_test
    self_test.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="locks are Linux's")
def test_on_this_linux_every_layer_holds(fresh):
    report = fresh()
    assert {layer: said.split()[0] for layer, said in report.layers.items()} == dict.fromkeys(
        [*LAYERS, *(["bubblewrap"] if shutil.which("bwrap") else [])], "holds"
    )
    assert report.tier == ("contained" if shutil.which("bwrap") else "locked")
    assert not report.missing
    assert fresh() is report


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_a_layer_that_does_not_hold_is_noticed_and_named(fresh, layer, monkeypatch, tmp_path):
    """The process really locks itself without it: what the layer alone stops is then possible."""
    program = (
        "from evorank.tools.evaluator import trial\n"
        "all_layers, put_on = trial.LAYERS, trial._put_on\n"
        f"def weaker(limits, readable, threads, layers):\n"
        f"    return put_on(limits, readable, threads, [each for each in layers if each != {layer!r}])\n"
        "trial._put_on = weaker\n"
        "trial.main()\n"
    )
    real = tier._outcome
    monkeypatch.setattr(tier, "_outcome", lambda command: real([sys.executable, "-P", "-c", program]))
    report = fresh()
    assert report.tier == "degraded"
    assert next(iter(report.missing)) == layer
    assert "possible" in report.missing[layer]


def test_a_self_test_that_cannot_run_is_degraded_with_its_reason(fresh, monkeypatch):
    real = tier._outcome
    broken = [sys.executable, "-c", "raise SystemExit('no such kernel')"]
    monkeypatch.setattr(tier, "_outcome", lambda command: real(broken))
    assert fresh().tier == "degraded"
    assert "no such kernel" in fresh().missing["self-test"]


def test_a_bubblewrap_that_does_not_work_leaves_the_lock_and_says_why(fresh, monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    report = fresh()
    assert report.tier == "locked"
    assert "No permissions" in report.layers["bubblewrap"]


def box(code, *, readable=(), descriptors=(), **options):
    command = wrapped([sys.executable, "-c", code], [*readable_code(), *readable], descriptors)
    done = subprocess.run(
        command, capture_output=True, text=True, pass_fds=descriptors, env={}, timeout=60, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@boxed
def test_in_the_box_code_is_there_and_nothing_else_even_exists(tmp_path):
    (tmp_path / "labels.npy").touch()
    paths = [str(tmp_path / "labels.npy"), "/etc/passwd", str(Path.cwd() / "tests")]
    code = f"import os, numpy, evorank.model.errors; print([os.path.exists(p) for p in {paths}])"
    assert box(code) == "[False, False, False]"


@boxed
def test_in_the_box_nothing_can_be_written_and_nobody_else_is_there():
    code = (
        "import os, sysconfig\n"
        "try:\n    open(sysconfig.get_paths()['purelib'] + '/x', 'w')\n"
        "except OSError as error: print(error.errno)\n"
        "print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit())[-1] < 10)\n"
        "print([line.split(':')[0].strip() for line in open('/proc/net/dev')][2:])"
    )
    assert box(code).splitlines() == ["30", "True", "['lo']"]


@boxed
def test_descriptors_reach_into_the_box(tmp_path):
    (tmp_path / "data").write_bytes(b"rows")
    with open(tmp_path / "data", "rb") as stream:
        number = stream.fileno()
        assert box(f"import os; print(os.read({number}, 10))", descriptors=(number,)) == "b'rows'"


@boxed
def test_a_box_can_be_locked_from_within():
    code = (
        "from evorank.tools.evaluator.lock import Limits, lock\n"
        "lock(Limits(cpu_seconds=10, memory=1 << 26))\n"
        "print('locked')"
    )
    assert box(code) == "locked"


@boxed
def test_killing_the_box_ends_what_runs_in_it():
    read, write = os.pipe()
    code = f"import os, time; os.write({write}, b'.'); time.sleep(1e6)"
    command = wrapped([sys.executable, "-c", code], readable_code(), (write,))
    process = subprocess.Popen(command, pass_fds=(write,), env={})
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        assert (
            stream.read(1) == b"."
        )  # it runs: a box that is killed before it is closed leaves its inside behind
        process.kill()
        process.wait()
        assert stream.read() == b""  # until the last holder of the other end is gone
