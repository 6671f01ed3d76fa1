"""What hostile code would try from inside a locked process: an attack returns True if it got what it wanted.

Plain Python, torch, ctypes and raw system calls. An attack that is refused raises, dies or returns False.
Those marked `control` need nothing but an ordinary process of this user: they must succeed where only limits
hold, or their being contained elsewhere would prove nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import mmap
import os
import pickle
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SECRET = b"what the held-out labels are"
MEMORY = 128 << 20
"""The memory limit under which attacks run."""
FILE_BYTES = 1 << 20
CPU_SECONDS = 1


@dataclass(frozen=True)
class Stage:
    """What lies around an attacker. Nothing of it may be read, changed or reached."""

    home: Path
    """A folder with `labels.npy` (the secret), `code.so`, and room to write."""
    bystander: int
    """A process of the same user that waits."""
    address: int
    """Where the secret lies in the bystander's memory."""
    tcp: int
    udp: int
    unix: str
    abstract: str

    @property
    def labels(self) -> Path:
        return self.home / "labels.npy"


@dataclass(frozen=True)
class Attack:
    act: Callable[[Stage], bool]
    control: bool
    root: bool
    """Whether only root does it where limits hold: others may start no process, or the machine forbids it."""


ATTACKS: dict[str, Attack] = {}


def attack(*, control: bool = True, root: bool = False) -> Callable[..., Callable[[Stage], bool]]:
    def register(act: Callable[[Stage], bool]) -> Callable[[Stage], bool]:
        ATTACKS[act.__name__] = Attack(act, control, root)
        return act

    return register


libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    # name: (x86-64, aarch64)
    "mount": (165, 40),
    "ptrace": (101, 117),
    "chroot": (161, 51),
    "vfork": (58, None),
    "unshare": (272, 97),
    "add_key": (248, 217),
    "perf_event_open": (298, 241),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "seccomp": (317, 277),
    "memfd_create": (319, 279),
    "bpf": (321, 280),
    "execveat": (322, 281),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "pidfd_open": (434, 434),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "pidfd_getfd": (438, 438),
    "memfd_secret": (447, 447),
}


def call(name: str, *arguments: object) -> int:
    """A raw system call, past everything that Python or libc might check."""
    number = NUMBERS[name][platform.machine() == "aarch64"]
    libc.syscall.restype = ctypes.c_long
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return int(result)


# ---------------------------------------------------------------------------------------------------- files


@attack()
def read_the_labels(stage):
    return stage.labels.read_bytes() == SECRET


@attack()
def read_the_users_of_this_machine(stage):
    return b"root:" in Path("/etc/passwd").read_bytes()


@attack()
def list_the_home(stage):
    return "labels.npy" in os.listdir(stage.home)


@attack()
def write_a_file(stage):
    (stage.home / "mine").write_bytes(b"x")
    return True


@attack()
def overwrite_the_labels(stage):
    with open(stage.labels, "r+b") as stream:
        stream.write(SECRET)
    return True


@attack()
def append_to_the_labels(stage):
    os.close(os.open(stage.labels, os.O_WRONLY | os.O_APPEND))
    return True


@attack()
def truncate_by_path(stage):
    (stage.home / "labels.npy").stat()
    os.truncate(stage.labels, len(SECRET))
    return True


@attack()
def change_the_mode_of_the_labels(stage):
    os.chmod(stage.labels, 0o644)
    return True


@attack()
def change_the_time_of_the_labels(stage):
    os.utime(stage.labels)
    return True


@attack()
def link_the_labels_to_a_readable_folder(stage):
    os.symlink(stage.labels, stage.home / "link")
    os.link(stage.labels, stage.home / "hard")
    os.rename(stage.home / "hard", stage.home / "moved")
    return True


@attack()
def delete_a_file(stage):
    (stage.home / "victim").unlink()
    return True


@attack()
def open_for_reading_with_truncation(stage):
    os.close(os.open(stage.home / "scrap", os.O_RDONLY | os.O_TRUNC | os.O_CREAT))
    return True


@attack()
def open_by_the_newest_call(stage):
    how = struct.pack("=QQQ", os.O_RDONLY, 0, 0)
    opened = call("openat2", -100, os.fsencode(stage.labels), how, len(how))
    return os.read(opened, 100) == SECRET


@attack()
def map_a_file_through_torch(stage):
    import torch

    found = torch.from_file(str(stage.labels), shared=True, size=len(SECRET), dtype=torch.uint8)
    return bytes(found.tolist()) == SECRET


@attack()
def save_a_tensor(stage):
    import torch

    torch.save(torch.ones(2), stage.home / "tensor.pt")
    return True


@attack()
def use_shared_memory_of_the_machine(stage):
    path = f"/dev/shm/evorank-{os.getpid()}"
    with open(path, "w"):
        os.unlink(path)
    return True


@attack()
def walk_upwards_from_readable_code(stage):
    """A readable folder must not be a way out by `..`."""
    found = os.open(os.path.dirname(os.__file__), os.O_RDONLY | os.O_DIRECTORY)
    out = "../" * 30 + str(stage.labels).lstrip("/")
    return os.read(os.open(out, os.O_RDONLY, dir_fd=found), 100) == SECRET


# ------------------------------------------------------------------------------------------------- network


@attack()
def connect_by_tcp(stage):
    with socket.create_connection(("127.0.0.1", stage.tcp), timeout=5):
        return True


@attack()
def listen_on_tcp(stage):
    with socket.create_server(("127.0.0.1", 0)):
        return True


@attack()
def send_by_udp(stage):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        return udp.sendto(SECRET, ("127.0.0.1", stage.udp)) == len(SECRET)


@attack()
def connect_to_a_unix_socket(stage):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(stage.unix)
        return True


@attack()
def connect_to_an_abstract_socket(stage):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect("\0" + stage.abstract)
        return True


@attack()
def ask_the_kernel_by_netlink(stage):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        return True


@attack()
def make_a_pair_of_sockets(stage):
    for end in socket.socketpair():
        end.close()
    return True


# ---------------------------------------------------------------------------------- processes and threads


@attack(root=True)
def fork_many(stage):
    for _ in range(20):
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
    return True


@attack(root=True)
def fork_by_a_raw_call(stage):
    arguments = struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, *[0] * 6)
    if (child := call("clone3", arguments, len(arguments))) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return True


@attack(root=True)
def start_threads(stage):
    """Two small ones: more would meet the memory limit."""
    threading.stack_size(1 << 18)
    threads = [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    return True


@attack(root=True)
def run_a_program(stage):
    return subprocess.run([sys.executable, "-c", "0"], check=True).returncode == 0


@attack()
def become_a_program(stage):
    os.execv(sys.executable, [sys.executable, "-S", "-c", f"import os; os.write({RESULT}, b'true')"])


@attack()
def run_a_program_from_memory(stage):
    memory = call("memfd_create", b"program", 0)
    os.write(memory, f"#!{sys.executable} -S\nimport os; os.write({RESULT}, b'true')".encode())
    call("execveat", memory, b"", (ctypes.c_char_p * 2)(b"program", None), None, 0x1000)
    return True


@attack(root=True)
def run_a_shell(stage):
    os.system(f"echo > '{stage.home}/shell'")
    return (stage.home / "shell").exists()


RESULT = 1
"""The descriptor on which a process says that it succeeded; set by the arena."""


# ---------------------------------------------------------------------------------------- other processes


@attack()
def kill_a_bystander(stage):
    os.kill(stage.bystander, signal.SIGURG)  # ignored: it shall still be there for the next attack
    return True


@attack()
def kill_the_parent(stage):
    os.kill(os.getppid(), signal.SIGURG)
    return True


@attack()
def kill_through_a_handle(stage):
    signal.pidfd_send_signal(call("pidfd_open", stage.bystander, 0), signal.SIGURG)
    return True


@attack()
def let_a_descriptor_send_the_signal(stage):
    """F_SETOWN makes the kernel send signals to others: a way round a filter of kill."""
    fcntl.fcntl(RESULT, fcntl.F_SETOWN, stage.bystander)
    return fcntl.fcntl(RESULT, fcntl.F_GETOWN) == stage.bystander


@attack()
def trace_a_bystander(stage):
    call("ptrace", 0x4206, stage.bystander, 0, 0)  # PTRACE_SEIZE; ends with this process
    return True


@attack()
def read_the_memory_of_a_bystander(stage):
    into = ctypes.create_string_buffer(len(SECRET))
    here = struct.pack("=QQ", ctypes.addressof(into), len(SECRET))
    there = struct.pack("=QQ", stage.address, len(SECRET))
    call("process_vm_readv", stage.bystander, here, 1, there, 1, 0)
    return into.raw == SECRET


@attack()
def read_the_memory_of_a_bystander_as_a_file(stage):
    with open(f"/proc/{stage.bystander}/mem", "rb", buffering=0) as memory:
        memory.seek(stage.address)
        return memory.read(len(SECRET)) == SECRET


@attack()
def write_the_memory_of_a_bystander(stage):
    here = ctypes.create_string_buffer(SECRET, len(SECRET))
    source = struct.pack("=QQ", ctypes.addressof(here), len(SECRET))
    target = struct.pack("=QQ", stage.address, len(SECRET))
    return call("process_vm_writev", stage.bystander, source, 1, target, 1, 0) == len(SECRET)


@attack()
def read_the_environment_of_a_bystander(stage):
    return b"API_KEY" in Path(f"/proc/{stage.bystander}/environ").read_bytes()


@attack()
def read_the_command_of_the_parent(stage):
    return bool(Path(f"/proc/{os.getppid()}/cmdline").read_bytes())


@attack()
def take_a_descriptor_of_a_bystander(stage):
    call("pidfd_getfd", call("pidfd_open", stage.bystander, 0), 0, 0)
    return True


@attack()
def read_ones_own_memory_as_a_file(stage):
    with open("/proc/self/mem", "r+b", buffering=0):
        return True


@attack()
def reopen_a_descriptor(stage):
    os.close(os.open(f"/proc/self/fd/{RESULT}", os.O_WRONLY))
    return True


# ------------------------------------------------------------------------------------------------- limits


@attack(control=False)
def take_memory(stage):
    held = []
    for _ in range(16):
        held.append(bytearray(MEMORY // 8))
    return True


@attack(control=False)
def take_memory_through_torch(stage):
    import torch

    held = []
    for _ in range(16):
        held.append(torch.ones(MEMORY // 8, dtype=torch.uint8))
    return True


@attack(control=False)
def take_shared_memory(stage):
    shared = mmap.mmap(-1, 2 * MEMORY)
    shared[:: mmap.PAGESIZE] = bytes(len(range(0, len(shared), mmap.PAGESIZE)))
    return True


@attack()
def take_memory_that_no_limit_counts(stage):
    """A shared anonymous mapping counts as no data, only as address space: little enough may pass."""
    mmap.mmap(-1, 1 << 20)
    return True


@attack()
def take_memory_that_grows_downwards(stage):
    libc.mmap.restype = ctypes.c_void_p
    found = libc.mmap(None, ctypes.c_size_t(1 << 20), 3, 0x122, -1, ctypes.c_long(0))
    return found not in (None, ctypes.c_void_p(-1).value)


@attack(control=False)
def compute_for_ever_and_ignore_signals(stage):
    for number in range(1, signal.NSIG):
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    while time.process_time() < CPU_SECONDS + 3:
        pass
    return True


@attack(control=False)
def flood_the_output(stage):
    line = b"x" * (1 << 16)
    for _ in range(4 * FILE_BYTES // len(line)):
        os.write(1, line)
    return os.fstat(1).st_size >= 4 * FILE_BYTES


@attack(control=False)
def open_many_descriptors(stage):
    for _ in range(200):
        os.dup(0)
    return True


@attack(control=False)
def raise_the_limits(stage):
    """Not in the control: root may do it, but not root of every container."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (hard + 100, hard + 100))
    return True


@attack()
def raise_a_soft_limit(stage):
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    return True


@attack()
def raise_the_limits_of_a_bystander(stage):
    soft, hard = resource.prlimit(stage.bystander, resource.RLIMIT_CORE)
    resource.prlimit(stage.bystander, resource.RLIMIT_CORE, (soft, hard))
    return True


@attack(root=True)
def come_first(stage):
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1)
    return True


# ------------------------------------------------------------------------------------------- code and torch


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return exec, (self.command,)


@attack()
def hide_a_payload_in_weights(stage):
    import torch

    path = str(stage.home / "payload")
    weights = io.BytesIO()
    torch.save(Payload(f"open({path!r}, 'w').close()"), weights)
    weights.seek(0)
    torch.load(weights, weights_only=False)
    return os.path.exists(path)


@attack(root=True)
def hide_a_payload_in_a_pickle(stage):
    command = f"import os; os.system('echo > {stage.home}/pickled')"
    pickle.loads(pickle.dumps(Payload(command)))
    return (stage.home / "pickled").exists()


@attack()
def load_a_library_into_torch(stage):
    import torch

    torch.ops.load_library(str(stage.home / "code.so"))
    return True


@attack()
def load_a_library(stage):
    ctypes.CDLL(str(stage.home / "code.so"))
    return True


@attack(control=False)
def compile_an_extension(stage):
    """Not in the control: a minute of compiling. That its parts work is: programs, files, libraries."""
    from torch.utils import cpp_extension

    folder = str(stage.home)
    cpp_extension.load_inline("mine", "int f() { return 1; }", functions=["f"], build_directory=folder)
    return True


@attack()
def import_code_from_the_home(stage):
    sys.path.insert(0, str(stage.home))
    import hostile_module

    return hostile_module.LOADED


@attack()
def start_a_store_for_other_machines(stage):
    import torch.distributed as distributed

    distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return True


@attack()
def share_a_tensor_with_other_processes(stage):
    import torch

    torch.ones(4).share_memory_()
    return True


# --------------------------------------------------------------------------------------- kernel and the lock


@attack(control=False)
def call_by_the_other_interface_of_x86_64(stage):
    """x32: another set of numbers. Few kernels have it (so no control); a filter must not rely on that."""
    libc.syscall.restype = ctypes.c_long
    return libc.syscall(ctypes.c_long(0x40000000 + 39)) == os.getpid()


@attack()
def call_as_a_32_bit_program(stage):
    """int 0x80 has numbers of its own: there, 20 is getpid, which as a 64-bit number would be writev."""
    if platform.machine() != "x86_64":
        raise OSError("no int 0x80 here")
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid()


@attack()
def survive_the_parent(stage):
    return libc.prctl(1, 0, 0, 0, 0) == 0


@attack()
def allow_a_debugger(stage):
    return libc.prctl(4, 1, 0, 0, 0) == 0


@attack()
def add_a_filter(stage):
    """A second filter could make calls fail that trusted code after candidate code relies on."""
    libc.prctl(38, 1, 0, 0, 0)
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000), 8)
    call("seccomp", 1, 0, struct.pack("@HP", 1, ctypes.addressof(program)))
    return True


@attack()
def make_memory_without_a_file(stage):
    return call("memfd_create", b"mine", 0) >= 0


@attack()
def make_pipes(stage):
    return len(os.pipe()) == 2


@attack(root=True)
def submit_calls_through_a_ring(stage):
    return call("io_uring_setup", 4, ctypes.create_string_buffer(120)) >= 0


@attack()
def keep_a_key_in_the_kernel(stage):
    return call("add_key", b"user", b"evorank", SECRET, len(SECRET), -2) >= 0


@attack(root=True)
def watch_the_machine_by_counters(stage):
    attributes = ctypes.create_string_buffer(struct.pack("=IIQ", 1, 128, 0), 128)
    return call("perf_event_open", attributes, 0, -1, -1, 0) >= 0


@attack(root=True)
def load_a_program_into_the_kernel(stage):
    return call("bpf", 0, ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 4, 1), 72), 72) >= 0


@attack(root=True)
def stop_the_kernel_at_a_page(stage):
    return call("userfaultfd", 0) >= 0


@attack(root=True)
def mount_a_file_system(stage):
    call("unshare", 0x00020000)  # a mount namespace, so that the machine never sees it
    call("mount", b"none", b"/", None, 0x40000 | 0x4000, None)  # private
    call("mount", b"none", os.fsencode(stage.home / "folder"), b"tmpfs", 0, None)
    return True


@attack(root=True)
def change_the_root(stage):
    return call("chroot", b"/") == 0


@attack(root=True)
def become_somebody_else(stage):
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
    return os.getuid() == 65534


@attack(root=True)
def make_a_device(stage):
    os.mknod(stage.home / "device", 0o600 | 0o020000, os.makedev(1, 5))
    return True


@attack()
def enter_a_new_world(stage):
    call("unshare", 0x10000000 | 0x00020000)  # as root of one's own user namespace
    return True


@attack()
def move_to_another_core(stage):
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    return True


@attack()
def start_a_clock_that_signals(stage):
    signal.setitimer(signal.ITIMER_REAL, 1000.0)
    return True
