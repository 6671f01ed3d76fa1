"""seccomp: the system calls a locked process may make, as a filter. An allow-list: all else is refused.

Enough for Python and eager torch, numpy or DuckDB to compute, to import more code, and to read and write
descriptors that are open already; not enough to open anything for writing, to start a process, to reach a
network, another process or a device, or to undo a limit. Refused calls fail with EPERM, so that careless
code gets an exception; a call of a foreign architecture (32-bit, x32) can only be an attack and ends the
process. Numbers and flags are those of x86-64 and of little-endian aarch64; the latter is checked against
the kernel's tables only, not on hardware.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from evorank.tools.evaluator import kernel

__all__ = ["MACHINES", "Instruction", "install", "packed", "program"]

# name: (x86-64, aarch64), None where an architecture has no such call.
# fmt: off
FREE: dict[str, tuple[int | None, int | None]] = {
    # Memory. `mmap` is below.
    "futex": (202, 98), "munmap": (11, 215), "mprotect": (10, 226), "madvise": (28, 233),
    "brk": (12, 214), "membarrier": (324, 283), "get_mempolicy": (239, 236),
    # Descriptors that are open already. `fcntl` is below.
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "lseek": (8, 62), "close": (3, 57), "dup": (32, 23), "fstat": (5, 80),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    # Names of files: what import and open(2) ask before they open. That a path exists is not a secret here.
    "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78),
    "getdents": (78, None), "getdents64": (217, 61), "getcwd": (79, 17),
    # Clocks, and what one may know of oneself.
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getrlimit": (97, 163),
    "getrusage": (98, 165), "sysinfo": (99, 179), "uname": (63, 160), "getrandom": (318, 278),
    "getcpu": (309, 168), "sched_getaffinity": (204, 123), "sched_yield": (24, 124),
    # Signals to oneself, threads that exist, the end.
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "set_robust_list": (273, 99),
    "set_tid_address": (218, 96), "rseq": (334, 293), "exit": (60, 93), "exit_group": (231, 94),
}
JUDGED: dict[str, tuple[int | None, int | None]] = {
    "mmap": (9, 222), "openat": (257, 56), "open": (2, None), "fcntl": (72, 25), "ioctl": (16, 29),
    "prlimit64": (302, 261), "kill": (62, 129), "tgkill": (234, 131), "clone": (56, 220),
    "clone3": (435, 435), "arch_prctl": (158, None), "mremap": (25, 216),
}
# fmt: on
# fmt: off
DEVICES: dict[str, tuple[int | None, int | None]] = {
    # What CUDA's libraries ask for beyond that, from what is known of them and not from a trial on hardware.
    # Which files are opened for writing, and which devices answer an ioctl, is left to Landlock.
    "openat": (257, 56), "open": (2, None), "ioctl": (16, 29), "mmap": (9, 222), "mremap": (25, 216),
    "fcntl": (72, 25), "eventfd2": (290, 19), "pipe2": (293, 59), "mlock": (149, 228), "munlock": (150, 229),
    "mincore": (27, 232), "mbind": (237, 235), "set_mempolicy": (238, 237), "statfs": (137, 43),
    "fstatfs": (138, 44),
}
# fmt: on
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column in the tables, and the kernel's mark of the architecture (AUDIT_ARCH)."""
X32 = 0x40000000
"""Set in the numbers of x86-64's other interface, which would pass a filter by other names."""

LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`; an argument is 8 bytes, low word first."""
SET_SECCOMP, FILTER = 22, 2

WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND
SHARED, ANONYMOUS, GROWS_DOWN = 0x01, 0x20, 0x100
WORD = 0xFFFFFFFF
WHOLE = 0xFFFFFFFFFFFFFFFF
THREAD = 0x3D0F00
"""The flags with which a C library starts a thread, no others; CLONE_DETACHED, long without effect, may be
added."""
DETACHED = 0x400000
DUPLICATE_AND_ASK = (0, 1, 2, 3, 1030, 1034)
"""fcntl: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC, F_GET_SEALS. Not F_SETOWN: it sends signals."""
VECTOR_STATE = (0x1021, 0x1022, 0x1023)
"""arch_prctl: ask for and get the registers of AMX, which matrix kernels do when they are first used."""


NOBODY = 0x7FFFFFFE
"""No process has this number, and nothing else in a filter looks like it."""
SOCK_FILTER = struct.Struct("=HBBI")


class Instruction(NamedTuple):
    """`struct sock_filter`."""

    code: int
    if_true: int
    if_false: int
    value: int


class Condition(NamedTuple):
    """Holds if `arguments[argument] & mask == value`."""

    argument: int
    mask: int
    value: int


@dataclass(frozen=True)
class Judgement:
    """The call is allowed if every condition of one alternative holds; otherwise it fails with `error`."""

    alternatives: tuple[tuple[Condition, ...], ...] = ()
    error: int = errno.EPERM


def judgements(pid: int, threads: bool) -> dict[str, Judgement]:
    """Calls that depend on their arguments. Where the kernel reads an int, only the low word is compared."""
    oneself = Condition(0, WORD, pid)
    thread = Judgement(((Condition(0, WHOLE & ~DETACHED, THREAD),),) if threads else ())
    return {
        "openat": Judgement(((Condition(2, WRITES, 0),),), errno.EACCES),
        "open": Judgement(((Condition(1, WRITES, 0),),), errno.EACCES),
        # RLIMIT_DATA counts neither shared anonymous memory nor a stack that grows.
        "mmap": Judgement(
            ((Condition(3, GROWS_DOWN | SHARED, 0),), (Condition(3, GROWS_DOWN | ANONYMOUS, 0),))
        ),
        "fcntl": Judgement(tuple((Condition(1, WORD, command),) for command in DUPLICATE_AND_ASK)),
        "ioctl": Judgement(error=errno.ENOTTY),  # so isatty() is False
        "prlimit64": Judgement(
            tuple((Condition(0, WORD, who), Condition(2, WHOLE, 0)) for who in (0, pid)),
        ),
        "kill": Judgement(((oneself,),)),
        "tgkill": Judgement(((oneself,),)),  # abort()
        "clone": thread,
        "clone3": Judgement(error=errno.ENOSYS),  # its flags cannot be seen; C libraries then try clone
        # It would grow a mapping over rows of a file that were not mapped; realloc(3) then copies instead.
        "mremap": Judgement(error=errno.ENOMEM),
        "arch_prctl": Judgement(tuple((Condition(0, WHOLE, option),) for option in VECTOR_STATE)),
    }


def program(machine: str, pid: int, *, threads: bool, devices: bool = False) -> list[Instruction]:
    """The filter for a `machine` of MACHINES and the process `pid`; with `threads` it may start threads, with
    `devices` it may use a GPU: open files for writing, ask devices, share memory."""
    column, mark = MACHINES[machine]
    code = [
        Instruction(LOAD, 0, 0, ARCHITECTURE),
        Instruction(EQUAL, 1, 0, mark),
        Instruction(RETURN, 0, 0, KILL),
        Instruction(LOAD, 0, 0, NUMBER),
        Instruction(AT_LEAST, 0, 1, X32),
        Instruction(RETURN, 0, 0, KILL),
    ]
    free = FREE | DEVICES if devices else FREE  # found first, they are not judged
    for name in free:
        if (number := free[name][column]) is not None:
            code += [Instruction(EQUAL, 0, 1, number), Instruction(RETURN, 0, 0, ALLOW)]
    for name, judgement in judgements(pid, threads).items():
        if (number := JUDGED[name][column]) is not None:
            body = _judge(judgement)
            code += [Instruction(EQUAL, 0, len(body), number), *body]
    return [*code, Instruction(RETURN, 0, 0, REFUSE | errno.EPERM)]


def _judge(judgement: Judgement) -> list[Instruction]:
    body: list[Instruction] = []
    for conditions in judgement.alternatives:
        words = [
            (ARGUMENTS + 8 * argument + 4 * half, mask >> 32 * half & WORD, value >> 32 * half & WORD)
            for argument, mask, value in conditions
            for half in (0, 1)
            if mask >> 32 * half & WORD
        ]
        for position, (offset, mask, value) in enumerate(words):
            to_the_next_alternative = 3 * (len(words) - position - 1) + 1
            body += [
                Instruction(LOAD, 0, 0, offset),
                Instruction(AND, 0, 0, mask),
                Instruction(EQUAL, 0, to_the_next_alternative, value),
            ]
        body.append(Instruction(RETURN, 0, 0, ALLOW))
    return [*body, Instruction(RETURN, 0, 0, REFUSE | judgement.error)]


def packed(machine: str, pid: int, *, threads: bool, devices: bool = False) -> bytes:
    """`program` as the kernel reads it. All but the first of a `machine` and `threads` cost next to nothing,
    in children of the first one's process as well."""
    return _packed(machine, threads, devices).replace(struct.pack("=I", NOBODY), struct.pack("=I", pid))


@cache
def _packed(machine: str, threads: bool, devices: bool) -> bytes:
    code = program(machine, NOBODY, threads=threads, devices=devices)
    return b"".join(SOCK_FILTER.pack(*each) for each in code)


def install(packed: bytes) -> None:
    """Put the calling thread, and those it starts, under the filter for ever. Needs no-new-privileges."""
    kept = ctypes.create_string_buffer(packed, len(packed))
    count = len(packed) // SOCK_FILTER.size
    kernel.prctl(SET_SECCOMP, FILTER, struct.pack("@HP", count, ctypes.addressof(kept)))
