"""landlock: a process gives up the file system but for reading some folders, TCP, and signals to others.

What it does not cover: asking whether a path exists (stat, readlink), descriptors that are open already, and
UDP and unix sockets by path, which `seccomp.py` refuses. See landlock(7) and linux/landlock.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from evorank.tools.evaluator import kernel

__all__ = ["restrict", "version"]

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
ASK_VERSION = 1
PATH_BENEATH = 1
WRITE_FILE, READ_FILE, READ_DIRECTORY, ASK_DEVICE = 1 << 1, 1 << 2, 1 << 3, 1 << 15
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights on files a version knows, execute to ioctl; all later ones know the same 16."""
TCP_BIND_AND_CONNECT = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


def version() -> int:
    """The version of Landlock's interface (1 to 7 were tried), 0 where the kernel has none or it is off."""
    try:
        return kernel.syscall(CREATE_RULESET, None, 0, ASK_VERSION)
    except OSError:
        return 0


def ruleset(version: int) -> bytes:
    """`struct landlock_ruleset_attr` as that version knows it: everything is handled, so all is forbidden."""
    files = (1 << FILE_RIGHTS.get(version, 16)) - 1
    if version < 4:
        return struct.pack("=Q", files)
    if version < 6:
        return struct.pack("=QQ", files, TCP_BIND_AND_CONNECT)
    return struct.pack("=QQQ", files, TCP_BIND_AND_CONNECT, ABSTRACT_SOCKETS_AND_SIGNALS)


def restrict(readable: Iterable[Path], devices: Iterable[Path] = ()) -> None:
    """For ever: nothing of the file system but reading `readable` (files, or folders and all below them), and
    reading, writing and asking `devices` (files).

    Needs no-new-privileges. Binds the calling thread and those it starts. OSError if the kernel has no
    Landlock, FileNotFoundError if a path is not there.
    """
    known = version()
    attributes = ruleset(known)
    write = READ_FILE | WRITE_FILE | (ASK_DEVICE if known >= 5 else 0)
    rules = kernel.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    try:
        rules_of = [(path, READ_FILE | READ_DIRECTORY if path.is_dir() else READ_FILE) for path in readable]
        for path, rights in [*rules_of, *((path, write) for path in devices)]:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                kernel.syscall(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", rights, beneath), 0)
            finally:
                os.close(beneath)
        kernel.syscall(RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
