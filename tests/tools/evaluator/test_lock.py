"""What a lock leaves to a process, what it takes, and what it says where it cannot be had."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from evorank.tools.evaluator.lock import LAYERS, Limits, LockError, lock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks are Linux's")
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    "OPENBLAS_NUM_THREADS": "1",
}
PREAMBLE = """
import json, os, sys, time
from pathlib import Path
from evorank.tools.evaluator.lock import *
MB = 1 << 20
def show(**found): print(json.dumps(found), flush=True)
def error(act):
    try: act()
    except BaseException as error: return type(error).__name__
"""


def run(code, *, check=True):
    """What a fresh Python process shows that runs `code`, and how it ended."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PREAMBLE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=120,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else {}, done


def test_a_locked_process_computes_imports_and_uses_the_descriptors_it_has(tmp_path):
    shown, _ = run(
        f"""
        import mmap
        stream = open({str(tmp_path / "output")!r}, "w+b")
        stream.truncate(mmap.PAGESIZE)
        lock(Limits(cpu_seconds=20, memory=256 * MB), readable=readable_code())
        import colorsys, sqlite3, numpy as np
        mapped = mmap.mmap(stream.fileno(), mmap.PAGESIZE)
        mapped[:3] = b"abc"
        os.pwrite(stream.fileno(), b"de", 3)
        show(sum=float(np.arange(10.0).sum()), time=time.time() > 0, zone=time.localtime().tm_year > 2000)
        """
    )
    assert shown == {"sum": 45.0, "time": True, "zone": True}
    assert (tmp_path / "output").read_bytes()[:5] == b"abcde"


def test_a_socket_that_is_open_still_carries_reads_and_writes():
    shown, _ = run(
        """
        import socket
        ours, theirs = socket.socketpair()
        lock(Limits(cpu_seconds=20, memory=64 * MB))
        os.write(ours.fileno(), b"hello")
        show(read=os.read(theirs.fileno(), 10).decode(), send=error(lambda: ours.send(b"x")))
        """
    )
    assert shown == {"read": "hello", "send": "PermissionError"}


def test_what_the_kernel_says_of_a_locked_process():
    """Seen from outside, where the process cannot lie: no capabilities, nothing to gain, a filter."""
    code = "lock(Limits(cpu_seconds=20, memory=64 * MB)); show(); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PREAMBLE + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    with process:
        process.stdout.readline()
        status = dict(
            line.split(":\t") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        )
        process.stdin.close()
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb", *(["CapBnd"] if os.geteuid() == 0 else [])):
        assert int(status[kind], 16) == 0, kind
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")


def test_no_descriptor_is_left_behind():
    shown, _ = run(
        """
        before = sorted(os.listdir("/proc/self/fd"))
        readable = readable_code()
        lock(Limits(cpu_seconds=20, memory=64 * MB), readable=readable)
        def is_open(number):
            return error(lambda: os.fstat(number)) is None
        show(before=len(before) - 1, after=sum(map(is_open, range(64))))  # listing opened one
        """
    )
    assert shown["before"] == shown["after"]


def test_memory_is_what_may_come_on_top_of_what_is_held():
    shown, _ = run(
        """
        held = bytearray(300 * MB)
        lock(Limits(cpu_seconds=20, memory=100 * MB))
        more = bytearray(50 * MB)
        show(too_much=error(lambda: bytearray(100 * MB)), fits=error(lambda: bytearray(20 * MB)))
        """
    )
    assert shown == {"too_much": "MemoryError", "fits": None}


def test_memory_given_back_can_be_taken_again():
    shown, _ = run(
        """
        lock(Limits(cpu_seconds=20, memory=100 * MB))
        for _ in range(10): bytearray(60 * MB)
        show(well=True)
        """
    )
    assert shown == {"well": True}


def test_a_process_beyond_its_cpu_seconds_is_killed_by_the_kernel():
    _, done = run("lock(Limits(cpu_seconds=1, memory=64 * MB))\nwhile True: pass", check=False)
    assert done.returncode == -signal.SIGXCPU


def test_cpu_used_before_the_lock_does_not_count():
    shown, _ = run(
        """
        while time.process_time() < 2.2: pass
        lock(Limits(cpu_seconds=1, memory=64 * MB))
        start = time.process_time()
        while time.process_time() - start < 0.7: pass
        show(alive=True)
        """
    )
    assert shown == {"alive": True}


def test_cpu_can_be_left_to_the_parents_clock():
    shown, _ = run(
        """
        import resource
        before = resource.getrlimit(resource.RLIMIT_CPU)
        lock(Limits(cpu_seconds=None, memory=64 * MB))
        show(same=resource.getrlimit(resource.RLIMIT_CPU) == before)
        """
    )
    assert shown == {"same": True}


def test_a_file_grows_to_its_limit_and_no_further(tmp_path):
    shown, _ = run(
        f"""
        stream = open({str(tmp_path / "output")!r}, "wb", buffering=0)
        lock(Limits(cpu_seconds=20, memory=64 * MB, file_bytes=MB))
        def flood():
            for _ in range(100): stream.write(bytes(MB // 8))
        show(error=error(flood))
        """
    )
    assert shown == {"error": "OSError"}
    assert (tmp_path / "output").stat().st_size == 1 << 20


def test_descriptors_are_counted():
    shown, _ = run(
        """
        lock(Limits(cpu_seconds=20, memory=64 * MB, open_files=16))
        show(error=error(lambda: [os.dup(0) for _ in range(20)]))
        """
    )
    assert shown == {"error": "OSError"}


def test_threads_start_only_where_they_may():
    shown, _ = run(
        """
        import threading
        def thread(): threading.Thread(target=int).start()
        lock(Limits(cpu_seconds=20, memory=256 * MB), threads=True)
        show(thread=error(thread), fork=error(os.fork))
        """
    )
    assert shown == {"thread": None, "fork": "PermissionError"}
    shown, _ = run(
        """
        import threading
        lock(Limits(cpu_seconds=20, memory=256 * MB))
        show(thread=error(threading.Thread(target=int).start))
        """
    )
    assert shown == {"thread": "RuntimeError"}


def test_a_process_can_abort():
    _, done = run("lock(Limits(cpu_seconds=20, memory=64 * MB)); os.abort()", check=False)
    assert done.returncode == -signal.SIGABRT


def test_files_and_folders_that_are_readable_are_read_and_nothing_beside_them(tmp_path):
    for name in ("alone.py", "secret.py", "folder/inside.py", "folder-not/secret.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    shown, _ = run(
        f"""
        root = Path({str(tmp_path)!r})
        lock(Limits(cpu_seconds=20, memory=64 * MB), readable=[root / "alone.py", root / "folder"])
        names = ("alone.py", "secret.py", "folder/inside.py", "folder-not/secret.py")
        show(read={{name: error((root / name).read_bytes) for name in names}},
             listed=error(lambda: os.listdir(root)), inside=os.listdir(root / "folder"))
        """
    )
    assert shown["read"] == {
        "alone.py": None,
        "secret.py": "PermissionError",
        "folder/inside.py": None,
        "folder-not/secret.py": "PermissionError",
    }
    assert shown["listed"] == "PermissionError"
    assert shown["inside"] == ["inside.py"]


def test_whether_a_path_exists_can_still_be_asked(tmp_path):
    """The known leak of the tier `locked`, told in the documentation; `contained` has it not."""
    (tmp_path / "labels.npy").write_bytes(b"12345")
    shown, _ = run(
        f"""
        lock(Limits(cpu_seconds=20, memory=64 * MB))
        show(size=os.stat({str(tmp_path / "labels.npy")!r}).st_size)
        """
    )
    assert shown == {"size": 5}


@pytest.mark.parametrize("tied", [True, False])
def test_a_locked_child_dies_with_the_process_that_forked_it(tied):
    """... also where it is deaf to everything; and it would not without that layer."""
    code = f"""
    import signal, threading
    if os.fork() == 0:
        for number in (1, 2, 3, 13, 15): signal.signal(number, signal.SIG_IGN)
        lock(Limits(cpu_seconds=60, memory=64 * MB), dies_with_parent={tied})
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(1e6)
    sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PREAMBLE + textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    child = os.pidfd_open(int(process.stdout.readline()))
    process.kill()
    process.wait()
    died = bool(select.select([child], [], [], 60 if tied else 0.5)[0])
    if not died:
        signal.pidfd_send_signal(child, signal.SIGKILL)
    os.close(child)
    process.stdin.close()
    process.stdout.close()
    assert died == tied


def test_locking_twice_takes_away_and_never_gives(tmp_path):
    (tmp_path / "code.py").touch()
    shown, _ = run(
        f"""
        path = Path({str(tmp_path / "code.py")!r})
        lock(Limits(cpu_seconds=20, memory=64 * MB))
        try: lock(Limits(cpu_seconds=900, memory=900 * MB), readable=[path.parent])
        except LockError as refusal: show(said=str(refusal), read=error(path.read_bytes))
        """
    )
    assert shown["read"] == "PermissionError"
    assert "`privileges` is missing" in shown["said"]


def test_a_process_with_several_threads_is_not_locked():
    """Landlock and seccomp bind the calling thread alone: the others would stay free."""
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        with pytest.raises(LockError, match="one thread"):
            lock(Limits(cpu_seconds=20, memory=1 << 26), degraded=True)
    finally:
        go.set()
        thread.join()


def test_a_missing_layer_is_an_error_that_names_it_unless_degraded_is_accepted():
    code = """
    import platform
    platform.machine = lambda: "riscv64"
    said = ""
    try: lock(Limits(cpu_seconds=20, memory=64 * MB), degraded={})
    except LockError as refusal: said = str(refusal)
    show(said=said, read=error(lambda: open("/etc/passwd")), pipe=error(os.pipe))
    """
    strict, _ = run(code.format(False))
    assert "`seccomp` is missing" in strict["said"]
    assert "riscv64" in strict["said"]
    degraded, _ = run(code.format(True))
    assert degraded == {"said": "", "read": "PermissionError", "pipe": None}  # what there is, is put on


def test_a_readable_folder_that_is_not_there_is_a_missing_layer(tmp_path):
    shown, _ = run(
        f"""
        try: lock(Limits(cpu_seconds=20, memory=64 * MB), readable=[Path({str(tmp_path / "no")!r})])
        except LockError as refusal: show(said=str(refusal))
        """
    )
    assert "`landlock`" in shown["said"]
    assert "No such file" in shown["said"]


def test_the_order_of_the_layers_is_the_order_in_which_they_can_be_put_on():
    assert LAYERS == ("privileges", "limits", "landlock", "seccomp")
