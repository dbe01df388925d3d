"""Run one command with less of the machine: no network, read-only files, a process table of its own, limits.

A program, not a module: `python -I -S jail.py SPEC COMMAND…`, standard library only, so that it starts in milliseconds
and works under whatever Python the tests want. SPEC is JSON: `write` (folders that may be written), `network`,
`memory`, `file` (bytes), `processes`, `cpu` (seconds) and `report`, a file that is told, one JSON object a line, which
parts of the isolation could not be had (`gaps`) and why the command was killed (`killed`).

Namespaces are those of namespaces(7), made with unshare(2); files become read-only by mount_setattr(2), Linux 5.12.
Where the system refuses, the command runs with what could be had.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_REC, MS_BIND, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x4000, 0x1000, 1 << 18, 2, 4
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
TICK = 0.05  # seconds between looks at memory and processes
KILLED = 137


class Kernel:
    """The few system calls Python does not offer."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._libc, name)(*arguments) != 0:
            number = self._ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    def unshare(self, flags: int) -> None:
        """unshare(2)."""
        self._call("unshare", flags)

    def mount(self, source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
        """mount(2)."""
        texts = [text.encode() if text is not None else None for text in (source, target, kind, data)]
        self._call("mount", *texts[:3], self._ctypes.c_ulong(flags), texts[3])

    def read_only(self, target: str, on: bool) -> None:
        """Make every mount below `target` read-only, or this one mount writable again."""
        attributes = (self._ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY if on else 0, 0 if on else MOUNT_ATTR_RDONLY, 0, 0)
        flags = AT_RECURSIVE if on else 0
        self._call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), flags, attributes, 32)

    def prctl(self, option: int, value: int) -> bool:
        """prctl(2); whether it worked."""
        return bool(self._libc.prctl(option, value, 0, 0, 0) == 0)


def main() -> int:
    """Isolate, run, and give the command's exit code."""
    spec, command = json.loads(sys.argv[1]), sys.argv[2:]
    report = os.open(spec["report"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    gaps: list[str] = []
    if not sys.platform.startswith("linux"):
        tell(report, gaps=["network", "files", "processes"])
        limit(spec)
        os.execvp(command[0], command)  # noqa: S606
    kernel = Kernel()
    kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    own_table = enter_namespaces(kernel, spec, gaps)
    if not own_table:
        tell(report, gaps=gaps)
        limit(spec)
        os.execvp(command[0], command)  # noqa: S606
    first = os.fork()  # the first process of the new table: when it ends, so does everything in it
    if first:
        return exit_code(os.waitpid(first, 0)[1])
    kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not spec["network"]:
        attempt(own_loopback)
    if not attempt(lambda: restrict_files(kernel, spec["write"])):
        gaps.append("files")
    watching = attempt(lambda: kernel.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV))
    if not watching:
        gaps.append("processes")
    tell(report, gaps=gaps)
    os._exit(watch(kernel, spec, command, report, watching))


def enter_namespaces(kernel: Kernel, spec: dict[str, Any], gaps: list[str]) -> bool:
    """Leave the shared network, mounts and process table; False where the system allows no own process table."""
    ids = os.getuid(), os.getgid()
    wanted = NEWNS | NEWIPC | NEWPID | (0 if spec["network"] else NEWNET)
    if attempt(lambda: kernel.unshare(NEWUSER | wanted)):
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{ids[0]} {ids[0]} 1")
        write("/proc/self/gid_map", f"{ids[1]} {ids[1]} 1")
        return True
    if attempt(lambda: kernel.unshare(wanted)):  # a container's root without user namespaces
        return True
    gaps += ["files", "processes"]
    if not spec["network"] and not attempt(lambda: kernel.unshare(NEWNET)):
        gaps.append("network")
    return False


def own_loopback() -> None:
    """Bring up `lo` of the new network, for tests that talk to themselves; it leads nowhere else."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def restrict_files(kernel: Kernel, writable: list[str]) -> None:
    """All files read-only but those below `writable`, and a small /dev/shm of one's own."""
    here = os.getcwd()  # noqa: PTH109
    kernel.mount("none", "/", None, MS_REC | MS_PRIVATE)
    for folder in writable:
        kernel.mount(folder, folder, None, MS_BIND)
    kernel.read_only("/", on=True)
    for folder in writable:
        kernel.read_only(folder, on=False)
    os.chdir(here)  # the folder this process stands in is still the one below the new mounts
    attempt(lambda: kernel.mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m"))  # noqa: S108


def watch(kernel: Kernel, spec: dict[str, Any], command: list[str], report: int, watching: bool) -> int:
    """Run the command below this process; end everything where it takes too much."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        drop_powers(kernel)
        limit(spec)
        try:
            os.execvp(command[0], command)  # noqa: S606
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
            os._exit(127)
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, TICK)
        while (ended := wait_any()) is not None:
            if ended[0] == child:
                return exit_code(ended[1])
        if watching and (reason := too_much(spec)):
            tell(report, killed=reason)
            return KILLED


def wait_any() -> tuple[int, int] | None:
    """A process that has ended and its status, or None."""
    try:
        done = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return done if done[0] else None


def too_much(spec: dict[str, Any]) -> str | None:
    """`memory` or `processes` where all processes in this table together take more than allowed."""
    pages = count = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes longer to import than this program to run
        if name.isdecimal() and name != "1":
            with contextlib.suppress(OSError), open(f"/proc/{name}/statm") as file:  # noqa: PTH123
                _, resident, shared, *_ = map(int, file.read().split())
                pages, count = pages + resident - shared, count + 1
    if count > spec["processes"]:
        return "processes"
    return "memory" if pages * os.sysconf("SC_PAGE_SIZE") > spec["memory"] else None


def drop_powers(kernel: Kernel) -> None:
    """What root may do in its own namespaces (mount, for one) is gone with the next exec."""
    kernel.prctl(PR_SET_NO_NEW_PRIVS, 1)
    number = 0
    while kernel.prctl(PR_CAPBSET_DROP, number):
        number += 1


def limit(spec: dict[str, Any]) -> None:
    """Resource limits of setrlimit(2), inherited by all that follows."""
    import resource

    wanted = {"RLIMIT_AS": spec["memory"], "RLIMIT_FSIZE": spec["file"], "RLIMIT_CORE": 0,
              "RLIMIT_NPROC": spec["processes"], "RLIMIT_CPU": spec["cpu"]}  # fmt: skip
    for name, value in wanted.items():
        if value is not None and hasattr(resource, name):
            with contextlib.suppress(ValueError, OSError):  # a hard limit below ours, or one the system does not keep
                resource.setrlimit(getattr(resource, name), (value, value))


def attempt(action: Callable[[], None]) -> bool:
    """Whether the system allowed it."""
    try:
        action()
    except OSError:
        return False
    return True


def write(path: str, text: str) -> None:
    """Write to a file of /proc."""
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)


def tell(report: int, **facts: Any) -> None:
    """One line to the report."""
    os.write(report, json.dumps(facts).encode() + b"\n")


def exit_code(status: int) -> int:
    """As shells give it: 128 and the signal's number where one ended the process."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
