"""The few kernel calls that Python has no name for. ctypes, because no well-kept library offers them.

Landlock beyond its first version has no Python binding at all, and the bindings of seccomp need a C library
that must be installed by root. What is needed of both is a dozen calls and four small structures, stable
kernel interface for ever, so they are written out here, in `landlock.py` and in `seccomp.py`.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["COLLAPSE", "PARENT_DEATH", "capget", "capset", "madvise", "prctl", "syscall"]

PARENT_DEATH = 1
"""prctl: the signal to get when the thread that started this process ends."""
DUMPABLE = 4
CAPABILITY_READ = 23
CAPABILITY_DROP = 24
NO_NEW_PRIVILEGES = 38
AMBIENT = 47
AMBIENT_CLEAR = 4
COLLAPSE = 25
"""madvise: gather what lies in a range into huge pages, at once (Linux 6.1)."""

_CAPABILITIES_V3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """A raw system call; integers are passed as they are, bytes as a pointer to them. OSError if it fails."""
    _only_linux()
    _libc.syscall.restype = ctypes.c_long
    passed = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *passed))


def prctl(option: int, *arguments: int | bytes) -> int:
    """prctl(2) with its unused arguments zero. OSError if it fails."""
    _only_linux()
    passed = [ctypes.c_ulong(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    passed += [ctypes.c_ulong(0)] * (4 - len(passed))
    return _checked(_libc.prctl(ctypes.c_int(option), *passed))


def madvise(start: int, length: int, advice: int) -> None:
    """madvise(2) on a range of addresses. OSError if it fails."""
    _only_linux()
    place = ctypes.c_void_p(start), ctypes.c_size_t(length)
    _checked(_libc.madvise(*place, ctypes.c_int(advice)))


def capset() -> None:
    """Give up every capability: effective, permitted and inheritable."""
    _only_linux()
    _checked(_libc.capset((ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()))


def capget() -> list[int]:
    """Six words: effective, permitted, inheritable of the capabilities 0-31, then of 32-63."""
    _only_linux()
    words = (ctypes.c_uint32 * 6)()
    _checked(_libc.capget((ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), words))
    return list(words)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _only_linux() -> None:
    if sys.platform != "linux":
        raise OSError(f"there is no such call on {sys.platform}")
