"""Which device candidates get, what the lock gives up for a GPU, and that nothing changes without one.

No GPU is needed: /dev/null plays the device file, and the trial that it leads to is a real one, which torch
ends. CUDA itself is not run here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from evorank.model.errors import ConfigurationError, LockError, ToolError
from evorank.model.system import Objective
from evorank.tools.evaluator import gpu, local
from evorank.tools.evaluator.executor import Job
from evorank.tools.evaluator.gpu import DeviceChoice, choose_device
from evorank.tools.evaluator.local import LocalPool

linux = pytest.mark.skipif(sys.platform != "linux", reason="locks are Linux's")


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """A machine without a GPU."""
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)


@pytest.fixture
def something(monkeypatch):
    """A machine with a device file. What is tried on it is tried afresh."""
    monkeypatch.setattr(gpu, "PATTERN", "null")
    tried = gpu._tried
    tried.cache_clear()
    yield
    tried.cache_clear()


# --------------------------------------------------------------------------- the choice


@pytest.mark.usefixtures("nothing")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_one_clear_error():
    found = choose_device("auto", allow_degraded=True)
    assert found.device == "cpu"
    assert "there is no" in found.why
    assert choose_device("cpu", allow_degraded=True) == DeviceChoice("cpu", "the CPU, as asked")
    for allowed in (False, True):
        with pytest.raises(ConfigurationError, match=r"`device` \(--device\) cuda: no GPU can be used.*auto"):
            choose_device("cuda", allow_degraded=allowed)


@pytest.mark.usefixtures("something")
def test_a_gpu_is_not_used_while_its_lock_is_not_permitted(monkeypatch):
    monkeypatch.setattr(gpu, "_tried", lambda: pytest.fail("nothing may be tried"))
    found = choose_device("auto", allow_degraded=False)
    assert found.device == "cpu"
    assert "--allow-degraded" in found.why
    with pytest.raises(LockError, match=r"cuda leaves the lock degraded: privileges stay.*--allow-degraded"):
        choose_device("cuda", allow_degraded=False)
    assert choose_device("cpu", allow_degraded=False).device == "cpu"


@linux
def test_a_gpu_that_fails_its_trial_is_not_used_and_the_reason_is_torchs(something):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("here it would not fail")
    found = choose_device("auto", allow_degraded=True)
    assert found.device == "cpu"
    assert "CUDA" in found.why
    with pytest.raises(ConfigurationError, match="CUDA"):
        choose_device("cuda", allow_degraded=True)


@pytest.mark.usefixtures("something")
def test_a_gpu_that_passes_its_trial_is_used_and_says_what_is_left_of_the_lock(monkeypatch):
    monkeypatch.setattr(gpu, "_tried", lambda: ("NVIDIA X", ""))
    for asked in ("auto", "cuda"):
        found = choose_device(asked, allow_degraded=True)
        assert found.device == "cuda"
        assert found.why.startswith("NVIDIA X; the lock is degraded")


# --------------------------------------------------------------------------- the lock

PREAMBLE = """
import json, mmap, os, resource, socket, sys, threading
from pathlib import Path
from evorank.tools.evaluator.lock import Limits, lock, readable_code
def error(act):
    try: act()
    except BaseException as error: return type(error).__name__
"""


@linux
def test_a_lock_with_a_device_gives_up_what_cuda_needs_and_nothing_else(tmp_path):
    secret = tmp_path / "labels"
    secret.write_text("1")
    program = f"""
    lock(Limits(cpu_seconds=20, memory=256 << 20), readable=readable_code(), devices=[Path("/dev/null")])
    thread = threading.Thread(target=lambda: None)
    found = dict(
        device=error(lambda: os.write(os.open("/dev/null", os.O_RDWR), b"x")),
        threads=error(lambda: (thread.start(), thread.join())),
        shared=error(lambda: mmap.mmap(-1, 4096)),
        space=resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY,
        other=error(lambda: os.open("/dev/zero", os.O_RDWR)),
        read=error(lambda: open({str(secret)!r})),
        write=error(lambda: open({str(tmp_path / "new")!r}, "w")),
        socket=error(socket.socket),
        fork=error(os.fork),
        memory=error(lambda: bytearray(1 << 30)),
        limits=error(lambda: resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40))),
        kill=error(lambda: os.kill(os.getppid(), 0)),
    )
    print(json.dumps(found))
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", PREAMBLE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        timeout=120,
    )
    found = json.loads(done.stdout or "{}")
    given = {name: found.pop(name) for name in ("device", "threads", "shared", "space")}
    assert given == {"device": None, "threads": None, "shared": None, "space": True}, done.stderr
    assert found.pop("memory") == "MemoryError"
    assert set(found) == {"other", "read", "write", "socket", "fork", "limits", "kill"}
    assert set(found.values()) <= {"PermissionError", "ValueError"}


# --------------------------------------------------------------------------- the way to a child


def job(dataset, system="on_device:OnDevice"):
    train, score = dataset.bounds["train"], dataset.bounds["validation"]
    return Job(
        dataset=dataset.directory,
        system=system,
        production={"lr": 0.5},
        phi={"lr": 0.5},
        label_path=dataset.label_path(Objective("click"), "train"),
        loss="bce",
        seed=0,
        train=(train.start, train.stop),
        score=(score.start, score.stop),
    )


def test_a_system_is_told_its_device_before_it_trains_and_scores(dataset, monkeypatch):
    with LocalPool(workers=1, device="cpu") as pool:
        assert pool.device == "cpu"
        assert pool.result(pool.submit(job(dataset)), 60).parameters == 1000
    monkeypatch.setattr(local, "choose_device", lambda *_, **__: DeviceChoice("cuda", ""))
    with LocalPool(workers=1) as pool:
        assert (pool.device, pool.tier) == ("cuda", "degraded")
        found = pool.check(dataset.directory, "on_device:OnDevice", {"lr": 0.5}, {"lr": 0.5})
        assert found.parameters == 1000
        with pytest.raises(ToolError, match="trained on cuda, 1024 files"):
            pool.result(pool.submit(job(dataset)), 60)
        assert pool.result(pool.submit(job(dataset, "linear_system:LinearSystem")), 60).parameters == 1000


def test_a_gpu_that_is_asked_for_and_not_there_keeps_a_pool_from_starting(nothing):
    with pytest.raises(ConfigurationError, match="no GPU can be used"):
        LocalPool(workers=1, device="cuda", allow_degraded=True)
    with LocalPool(workers=1, allow_degraded=True) as pool:
        assert pool.device == "cpu"
        assert pool.tier != "degraded" or local.self_test().tier == "degraded"


def test_the_zygote_has_never_asked_for_a_gpu(dataset):
    """CUDA that was asked for once does not survive a fork."""
    program = """
    import sys
    from evorank.tools.evaluator.zygote import warm
    warm("evorank.model.ranker:NeuralRanker")
    import torch
    assert not torch.cuda.is_initialized()
    assert not torch.cuda._is_in_bad_fork()
    import os
    if os.fork() == 0:
        os._exit(7 if torch.cuda._is_in_bad_fork() else 0)
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    path = os.pathsep.join(path or os.getcwd() for path in sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_what_cuda_reads_is_of_the_machine_and_never_of_a_home():
    for path in gpu.read_by_cuda():
        assert path.parts[1] in ("proc", "sys")
    assert all(path.is_char_device() for path in gpu.devices() if path != Path("/dev/null"))
