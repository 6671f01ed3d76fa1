"""Where attacks are run: a process that imports torch once and forks a child, locked as told, per attack."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import attacks
from attacks import ATTACKS, CPU_SECONDS, FILE_BYTES, MEMORY, SECRET, Stage

WALL_SECONDS = 60.0
BYSTANDER = f"""
import ctypes, sys, time
secret = ctypes.create_string_buffer({SECRET!r})
print(ctypes.addressof(secret), flush=True)
time.sleep(1e6)
"""


class Arena:
    """The parent's end: a stage with a bystander and open sockets, and the process that forks attackers."""

    def __init__(self, home: Path) -> None:
        self._home = home
        home.mkdir()
        (home / "labels.npy").write_bytes(SECRET)
        (home / "hostile_module.py").write_text("LOADED = True\n")
        (home / "folder").mkdir()
        import _ctypes

        shutil.copy(_ctypes.__file__, home / "code.so")
        environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._bystander = subprocess.Popen(
            [sys.executable, "-S", "-c", BYSTANDER], stdout=subprocess.PIPE, text=True, env={"API_KEY": "x"}
        )
        assert self._bystander.stdout is not None
        address = int(self._bystander.stdout.readline())
        self._sockets = [socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)]
        self._sockets[1].bind(("127.0.0.1", 0))
        abstract = f"evorank{home}"
        for name in (str(home / "socket"), "\0" + abstract):
            unix = socket.socket(socket.AF_UNIX)
            unix.bind(name)
            unix.listen(100)
            self._sockets.append(unix)
        self.stage = Stage(
            home=home,
            bystander=self._bystander.pid,
            address=address,
            tcp=self._sockets[0].getsockname()[1],
            udp=self._sockets[1].getsockname()[1],
            unix=str(home / "socket"),
            abstract=abstract,
        )
        self._forker = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        self._ask({"stage": asdict(self.stage) | {"home": str(home)}})

    def run(self, name: str, layers: tuple[str, ...]) -> dict[str, Any]:
        """{"succeeded": bool, "said": exception or what killed it}."""
        (self._home / "victim").touch()
        return self._ask({"attack": name, "layers": layers})

    def unharmed(self) -> bool:
        """Whether everything outside is as it was."""
        names = {"labels.npy", "hostile_module.py", "folder", "code.so", "victim", "socket"}
        alive = self._bystander.poll() is None
        intact = (self._home / "labels.npy").read_bytes() == SECRET
        for quiet in self._sockets:
            alive &= not select.select([quiet], [], [], 0)[0]
        return alive and intact and {path.name for path in self._home.iterdir()} == names

    def close(self) -> None:
        for process in (self._forker, self._bystander):
            process.kill()
            process.communicate()
        for each in self._sockets:
            each.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(json.dumps(request) + "\n")
        self._forker.stdin.flush()
        answer: dict[str, Any] = json.loads(self._forker.stdout.readline())
        return answer


def main() -> None:
    """The forking process: requests as lines of JSON on stdin, answers on stdout."""
    import torch
    import torch.distributed
    import torch.utils.cpp_extension

    torch.set_num_threads(1)
    from evorank.tools.evaluator import lock

    readable = lock.readable_code()
    request = json.loads(sys.stdin.readline())["stage"]
    stage = Stage(**request | {"home": Path(request["home"])})
    print("{}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_duel(request["attack"], request["layers"], stage, readable)), flush=True)


def _duel(name: str, layers: list[str], stage: Stage, readable: list[Path]) -> dict[str, Any]:
    told, telling = os.pipe()
    os.set_inheritable(telling, True)
    output = os.memfd_create("output")
    child = os.fork()
    if child == 0:
        try:
            _attacker(name, layers, stage, readable, telling, output)
        finally:
            os._exit(0)
    os.close(telling)
    os.close(output)
    handle = os.pidfd_open(child)
    if not select.select([handle], [], [], WALL_SECONDS)[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.set_blocking(told, False)
    with suppress(BlockingIOError):
        said = os.read(told, 1 << 16).decode()
    os.close(told)
    os.close(handle)
    if os.WIFSIGNALED(status):
        return {"succeeded": False, "said": signal.Signals(os.WTERMSIG(status)).name}
    return {"succeeded": said == "true", "said": said}


def _attacker(
    name: str, layers: list[str], stage: Stage, readable: list[Path], telling: int, output: int
) -> None:
    from evorank.tools.evaluator import lock

    os.environ.clear()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2), (telling, 3)):
        os.dup2(source, target)
    os.closerange(4, 4096)
    attacks.RESULT = 3
    limits = lock.Limits(cpu_seconds=CPU_SECONDS, memory=MEMORY, file_bytes=FILE_BYTES)
    missing = lock._put_on(limits, readable, False, layers)
    said = f"layers are missing: {missing}"
    if not missing:
        try:
            said = "true" if ATTACKS[name].act(stage) else "false"
        except BaseException:
            said = traceback.format_exc(limit=-2)
    os.write(3, said.encode()[:4000])


if __name__ == "__main__":
    main()
