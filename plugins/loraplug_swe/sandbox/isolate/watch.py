"""The first process of the jail: it runs the command below itself and ends everything where it takes too much."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import time
from collections.abc import Callable
from typing import Any

import filter as calls
from kernel import PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, Kernel

TICK = 0.05  # seconds between looks
KILLED = 137
_DISK_SHARE = 20.0  # a look at all files may take 1/20 of the time
_IN_FLIGHT = 16  # descriptors that are on their way through sockets, and are no process' own meanwhile
_BLOCK = 512
_SMALLEST = 1024  # bytes that even an empty file is counted as


class Watch:
    """Looks at what all processes of this table take together.

    Memory is that of the processes, shared pages once, and what they hold in memory files (memfd) that may be mapped
    nowhere. Disk is what the folders to write in have grown by, and files that are deleted but still open. What files
    hold whose descriptors wait in a socket cannot be seen: more than a few of them count as too much memory.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._memory_device = _memory_device()
        self._folders = [*spec["write"], "/dev/shm"]  # noqa: S108
        self._before, self._next = self._files(), 0.0

    def too_much(self) -> str | None:
        """`memory`, `processes` or `disk` where more is taken than allowed."""
        own = whole = count = 0
        waiting: dict[tuple[int, int], int] = {}
        held: dict[tuple[int, int], int] = {}
        deleted: dict[tuple[int, int], int] = {}
        numbers = [name for name in os.listdir("/proc") if name.isdecimal() and name != "1"]
        for name in numbers:
            with contextlib.suppress(OSError, ValueError):
                with open(f"/proc/{name}/statm") as file:
                    _, resident, shared, *_ = map(int, file.read().split())
                own, whole, count = own + resident - shared, whole + resident, count + 1
                self._open_files(name, held, deleted, waiting)
        if count > self._spec["processes"]:
            return "processes"
        most = self._spec["memory"]
        if own * self._page + sum(held.values()) > most or sum(waiting.values()) > _IN_FLIGHT:
            return "memory"
        if whole * self._page > most and sum(map(_share, numbers)) > most:  # exact, and slow
            return "memory"
        if time.monotonic() >= self._next:
            begun = time.monotonic()
            taken = self._files() - self._before
            self._next = time.monotonic() + max(0.3, _DISK_SHARE * (time.monotonic() - begun))
            if taken + sum(deleted.values()) > self._spec["disk"]:
                return "disk"
        return "disk" if sum(deleted.values()) > self._spec["disk"] else None

    def _open_files(
        self,
        process: str,
        held: dict[tuple[int, int], int],
        deleted: dict[tuple[int, int], int],
        waiting: dict[tuple[int, int], int],
    ) -> None:
        place = f"/proc/{process}/fd"
        for number in os.listdir(place):
            with contextlib.suppress(OSError):
                facts = os.stat(f"{place}/{number}")
                key = facts.st_dev, facts.st_ino
                if stat.S_ISSOCK(facts.st_mode):
                    waiting[key] = _in_flight(process, number)
                elif stat.S_ISREG(facts.st_mode):
                    if facts.st_dev == self._memory_device:
                        held[key] = facts.st_blocks * _BLOCK
                    elif facts.st_nlink == 0:
                        deleted[key] = facts.st_blocks * _BLOCK

    def _files(self) -> int:
        """Bytes of all files in the folders to write in."""
        total, waiting = 0, list(self._folders)
        while waiting:
            with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        facts = entry.stat(follow_symlinks=False)
                        total += max(facts.st_blocks * _BLOCK, _SMALLEST)
                        if stat.S_ISDIR(facts.st_mode):
                            waiting.append(entry.path)
        return total


def _memory_device() -> int:
    """The device that files in memory are on."""
    try:
        number = os.memfd_create("probe")
    except (OSError, AttributeError):
        return -1
    try:
        return os.fstat(number).st_dev
    finally:
        os.close(number)


def _in_flight(process: str, number: str) -> int:
    """Descriptors that were sent to a socket and not yet taken out of it."""
    with open(f"/proc/{process}/fdinfo/{number}") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("scm_fds:"))


def _share(process: str) -> int:
    """Bytes of a process' memory, its part of what is shared."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{process}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def run(
    kernel: Kernel, spec: dict[str, Any], command: list[str], tell: Callable[..., None], watching: bool, owner: bool
) -> int:
    """Run the command below this process; end everything where it takes too much.

    Args:
        owner: this process is root inside, and the command must not be.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    watch = Watch(spec) if watching else None
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        start(kernel, spec, command, owner)
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, TICK)
        while (ended := wait_any()) is not None:
            if ended[0] == child:
                return exit_code(ended[1])
        if watch is not None and (reason := watch.too_much()):
            tell(killed=reason)
            return KILLED


def start(kernel: Kernel, spec: dict[str, Any], command: list[str], owner: bool) -> None:
    """Become the command, without any power and any descriptor but the first three."""
    try:
        number = 0
        while kernel.prctl(PR_CAPBSET_DROP, number):
            number += 1
        if owner:
            os.setgroups([])
            os.setresgid(spec["owner"], spec["owner"], spec["owner"])
            os.setresuid(spec["owner"], spec["owner"], spec["owner"])
        with contextlib.suppress(OSError, KeyError):  # where there are no keyrings, there are none to reach
            kernel.fresh_keyring()
        limit(spec)
        kernel.prctl(PR_SET_NO_NEW_PRIVS, 1)
        if spec["filter"]:
            calls.install(kernel)
        os.closerange(3, 65536)
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror or error}\n".encode())
        os._exit(127)


def limit(spec: dict[str, Any]) -> None:
    """Resource limits of setrlimit(2), inherited by all that follows."""
    import resource

    wanted = {"RLIMIT_AS": spec["memory"], "RLIMIT_FSIZE": spec["file"], "RLIMIT_CORE": 0,
              "RLIMIT_NPROC": spec["processes"], "RLIMIT_MEMLOCK": 0}  # fmt: skip
    for name, value in wanted.items():
        if hasattr(resource, name):
            with contextlib.suppress(ValueError, OSError):  # a hard limit below ours, or one the system does not keep
                resource.setrlimit(getattr(resource, name), (value, value))


def wait_any() -> tuple[int, int] | None:
    """A process that has ended and its status, or None."""
    try:
        done = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return done if done[0] else None


def exit_code(status: int) -> int:
    """As shells give it: 128 and the signal's number where one ended the process."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def report(number: int, **facts: Any) -> None:
    """One line to the report."""
    os.write(number, json.dumps(facts).encode() + b"\n")
