"""The filter program decides as it should, on both architectures: it is interpreted here, call by call."""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evorank.tools.evaluator import seccomp
from evorank.tools.evaluator.seccomp import DEVICES, FREE, JUDGED, MACHINES, packed, program

PID = 4242
MACHINE_NAMES = sorted(MACHINES)
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ALLOWED, KILLED = "allowed", "killed"
NOT_LISTED = {
    # name: (x86-64, aarch64): some that must never be on the list
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "memfd_create": (319, 279),
    "prctl": (157, 167),
    "setrlimit": (160, 164),
    "openat2": (437, 437),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chmod": (90, None),
    "fchmodat": (268, 53),
    "ftruncate": (77, 46),
    "truncate": (76, 45),
    "unlinkat": (263, 35),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "tkill": (200, 130),
    "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444),
}


def decide(code, mark, number, *arguments):
    """What the kernel would do: an interpreter of the few instructions that `program` uses."""
    words = [argument & (1 << 64) - 1 for argument in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, mark, 0, *words)
    accumulator, position = 0, 0
    while True:
        instruction, if_true, if_false, value = code[position]
        position += 1
        if instruction == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif instruction == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= value
        elif instruction == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            position += if_true if accumulator == value else if_false
        elif instruction == 0x35:  # BPF_JMP | BPF_JGE | BPF_K
            position += if_true if accumulator >= value else if_false
        elif instruction == 0x06:  # BPF_RET | BPF_K
            if value == 0x80000000:
                return KILLED
            return ALLOWED if value == 0x7FFF0000 else value & 0xFFFF
        else:
            raise AssertionError(f"the kernel's interpreter is asked for {instruction:#x}")


@pytest.fixture(scope="module", params=MACHINE_NAMES)
def machine(request):
    return request.param


@pytest.fixture(scope="module")
def ask(machine):
    """ask(name, *arguments, threads=False): the decision on a call by its name."""
    programs = {threads: program(machine, PID, threads=threads) for threads in (False, True)}
    column, mark = MACHINES[machine]

    def ask(name, *arguments, threads=False):
        number = {**FREE, **JUDGED, **NOT_LISTED}[name][column]
        assert number is not None
        return decide(programs[threads], mark, number, *arguments)

    return ask


def there(names, machine):
    """Of a table of names, those of calls that the machine has."""
    return [name for name, numbers in names.items() if numbers[MACHINES[machine][0]] is not None]


def test_what_is_on_the_list_is_allowed_with_any_arguments(ask, machine):
    for name in there(FREE, machine):
        assert ask(name) == ALLOWED, name
        assert ask(name, *[(1 << 64) - 1] * 6) == ALLOWED, name


def test_what_is_not_on_the_list_is_refused(ask, machine):
    for name in there(NOT_LISTED, machine):
        assert ask(name) == errno.EPERM, name
        assert ask(name, 1, 2, 3, 4, 5, 6, threads=True) == errno.EPERM, name


@given(st.integers(0, 1023), st.lists(st.integers(0, (1 << 64) - 1), max_size=6))
def test_no_number_off_the_list_is_ever_allowed(number, arguments):
    for machine, (column, mark) in MACHINES.items():
        listed = {numbers[column] for numbers in (*FREE.values(), *JUDGED.values())}
        decision = decide(program(machine, PID, threads=True), mark, number, *arguments)
        assert (decision == errno.EPERM) or number in listed


@given(st.integers(0, (1 << 32) - 1), st.sampled_from(sorted({*[n[0] for n in FREE.values()], 59})))
def test_any_other_architecture_is_killed(mark, number):
    for machine, (_, own) in MACHINES.items():
        if mark != own:
            assert decide(program(machine, PID, threads=False), mark, number) == KILLED


@pytest.mark.parametrize("foreign", [0x40000003, 0xC000003E, 0x40000028, 0xC00000B7, 0x800000B7])
def test_32_bit_programs_and_other_byte_orders_are_killed(machine, foreign):
    if foreign != MACHINES[machine][1]:
        assert decide(program(machine, PID, threads=False), foreign, 0) == KILLED


@pytest.mark.parametrize("number", [0x40000000, 0x40000000 + 39, 0x40000000 + 520, 0x7FFFFFFF, 0xFFFFFFFF])
def test_the_x32_interface_is_killed(machine, number):
    assert decide(program(machine, PID, threads=True), MACHINES[machine][1], number) == KILLED


@pytest.mark.parametrize("flags", ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"])
def test_nothing_is_opened_for_writing(ask, flags):
    writing = getattr(os, flags) | (os.O_RDWR if flags == "O_TMPFILE" else 0)
    assert ask("openat", -100, 0, writing, 0o600) == errno.EACCES
    assert ask("openat", -100, 0, writing | os.O_CLOEXEC) == errno.EACCES
    assert ask("openat", -100, 0, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY) == ALLOWED


@pytest.mark.parametrize("machine", ["x86_64"], indirect=True)
def test_the_old_open_is_judged_by_its_own_argument(ask):
    assert ask("open", 0, os.O_RDONLY, os.O_WRONLY) == ALLOWED
    assert ask("open", 0, os.O_RDWR) == errno.EACCES


def test_a_mapping_is_private_or_of_a_file(ask):
    private, shared, anonymous, downwards = 2, 1, 0x20, 0x100
    assert ask("mmap", 0, 4096, 3, private | anonymous, -1) == ALLOWED
    assert ask("mmap", 0, 4096, 3, private, 5) == ALLOWED
    assert ask("mmap", 0, 4096, 3, shared, 5) == ALLOWED
    assert ask("mmap", 0, 4096, 3, shared | anonymous, -1) == errno.EPERM
    assert ask("mmap", 0, 4096, 3, 3 | anonymous, -1) == errno.EPERM  # MAP_SHARED_VALIDATE
    assert ask("mmap", 0, 4096, 3, private | anonymous | downwards, -1) == errno.EPERM


def test_signals_reach_oneself_alone(ask):
    for call in ("kill", "tgkill"):
        assert ask(call, PID, signal.SIGABRT) == ALLOWED
        for other in (0, 1, -1, -PID, PID + 1, PID - 1):
            assert ask(call, other, signal.SIGABRT) == errno.EPERM


def test_limits_are_read_and_never_set(ask):
    assert ask("prlimit64", 0, 7, 0, 1 << 47) == ALLOWED
    assert ask("prlimit64", PID, 7, 0, 1 << 47) == ALLOWED
    assert ask("prlimit64", 0, 7, 1, 0) == errno.EPERM
    assert ask("prlimit64", 0, 7, 1 << 32, 0) == errno.EPERM  # a pointer whose low word is zero
    assert ask("prlimit64", 1, 7, 0, 1 << 47) == errno.EPERM


def test_threads_start_only_where_they_may_and_processes_never(ask):
    thread = 0x3D0F00
    assert ask("clone", thread) == errno.EPERM
    assert ask("clone", thread, threads=True) == ALLOWED
    assert ask("clone", thread | 0x400000, threads=True) == ALLOWED
    assert ask("clone", signal.SIGCHLD, threads=True) == errno.EPERM
    assert ask("clone", 0x4111, threads=True) == errno.EPERM  # vfork, as posix_spawn does
    for extra in (0x10000000, 0x20000, 0x2000, 0x4000, 1 << 33):  # namespaces, tracing, a cgroup
        assert ask("clone", thread | extra, threads=True) == errno.EPERM
    assert ask("clone3", 1 << 47, 88, threads=True) == errno.ENOSYS


@pytest.mark.parametrize(
    ("command", "decision"), [(1, ALLOWED), (1030, ALLOWED), (4, 1), (6, 1), (8, 1), (10, 1)]
)
def test_descriptors_are_duplicated_and_never_made_to_send_signals(ask, command, decision):
    assert ask("fcntl", 5, command, 1) == decision


def test_devices_answer_that_they_are_no_terminal(ask):
    assert ask("ioctl", 0, 0x5401) == errno.ENOTTY


@pytest.mark.parametrize("machine", ["x86_64"], indirect=True)
def test_matrix_registers_may_be_asked_for_and_segments_not_moved(ask):
    assert ask("arch_prctl", 0x1023, 18) == ALLOWED
    assert ask("arch_prctl", 0x1002, 1 << 40) == errno.EPERM


def test_jumps_fit_their_bytes_and_the_program_the_kernel(machine):
    code = program(machine, PID, threads=True)
    assert len(code) < 4096
    assert all(0 <= jump < 256 for each in code for jump in (each.if_true, each.if_false))
    assert code[-1].code == seccomp.RETURN


def test_a_gpu_needs_files_devices_and_shared_memory_and_still_no_process_and_no_network(machine):
    column, mark = MACHINES[machine]
    code = program(machine, PID, threads=True, devices=True)

    def allowed(name, *arguments):
        number = {**FREE, **JUDGED, **DEVICES, **NOT_LISTED}[name][column]
        return decide(code, mark, number, *arguments) == ALLOWED

    assert all(allowed(name, *[(1 << 64) - 1] * 6) for name in there({**FREE, **DEVICES}, machine))
    assert not any(allowed(name) for name in there(NOT_LISTED, machine))
    assert allowed("clone", 0x3D0F00)
    assert not allowed("clone", signal.SIGCHLD)
    assert not allowed("kill", PID + 1, signal.SIGKILL)
    assert not allowed("prlimit64", 0, 7, 1, 0)
    for threads in (False, True):  # and without one nothing of it is there
        plain = program(machine, PID, threads=threads)
        for name in there({n: DEVICES[n] for n in DEVICES if n not in JUDGED}, machine):
            assert decide(plain, mark, DEVICES[name][column]) == errno.EPERM


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("pid", [1, PID, 1 << 22])
def test_a_filter_is_packed_as_its_program_whoever_asked_before(machine, pid, threads):
    code = program(machine, pid, threads=threads)
    assert packed(machine, pid, threads=threads) == b"".join(struct.pack("=HBBI", *each) for each in code)


@pytest.mark.parametrize("name", MACHINE_NAMES)
def test_the_numbers_are_those_of_the_kernels_headers(name):
    if not HEADERS[name].exists():
        pytest.skip(f"no {HEADERS[name]} here")
    pattern = r"#define __NR(?:3264)?_(\w+)\s+(\d+)$"
    known = {m[1]: int(m[2]) for m in re.finditer(pattern, HEADERS[name].read_text(), re.MULTILINE)}
    if name == "aarch64":
        known["newfstatat"] = known.pop("fstatat")
    column = MACHINES[name][0]
    for call, numbers in {**FREE, **JUDGED, **DEVICES, **NOT_LISTED}.items():
        if numbers[column] is not None:
            assert known[call] == numbers[column], call


def test_other_machines_have_no_program():
    with pytest.raises(KeyError):
        program("riscv64", PID, threads=False)
