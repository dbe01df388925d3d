"""Run one command with less of the machine: a root, network, process table and user of its own, and limits.

A program, not a module: `python -I -S FOLDER SPEC COMMAND…`, standard library only, so that it starts in milliseconds
and works under whatever Python the tests want. SPEC is JSON:

    root      an empty folder that the new root is mounted on
    read      what else of the machine is there, read-only, with the symbolic links that lead there
    write     folders that may be written; shm becomes /dev/shm; home is told in /etc/passwd
    owner     the user the command runs as where this program runs as root, else null
    network   leave the network on
    memory, disk, file (bytes), processes
    weak      run the command even where a part of the isolation cannot be had
    report    a file that is told, one JSON object a line, which parts could not be had (`gaps`) and why (`why`), and
              why the command was killed (`killed`)

Namespaces are those of namespaces(7), made with unshare(2). Whoever started this program ends everything inside by
SIGTERM: when this program is gone, so is all that it ran.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import root
import watch
from kernel import (
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    Kernel,
)

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
REFUSED = 125
NOBODY = 65534


class Gaps:
    """What of the isolation could not be had, and why."""

    def __init__(self) -> None:
        self.why: dict[str, str] = {}

    def attempt(self, gap: str, action: Callable[[], object]) -> bool:
        """Whether the system allowed it."""
        try:
            action()
        except OSError as error:
            self.why.setdefault(gap, str(error))
            return False
        return True


def main() -> int:
    """Isolate, run, and give the command's exit code."""
    spec, command = json.loads(sys.argv[1]), sys.argv[2:]
    tell = partial(watch.report, os.open(spec["report"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    tell(process=os.getpid())
    gaps = Gaps()
    if not sys.platform.startswith("linux"):
        gaps.why = dict.fromkeys(("network", "files", "processes", "filter"), "this is not Linux")
        return bare(spec, command, gaps, tell)
    kernel = Kernel()
    kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not namespaces(kernel, spec, gaps):
        return bare(spec, command, gaps, tell)
    kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of users clears it
    kernel.keep_private()
    first = os.fork()  # the first process of the new table: when it ends, so does everything in it
    if first:
        signal.signal(signal.SIGTERM, lambda *_: kill(first))
        return int(watch.exit_code(os.waitpid(first, 0)[1]))
    kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.keep_private()
    if not spec["network"]:
        gaps.attempt("network", own_loopback)
    own_root = gaps.attempt("files", lambda: root.build(kernel, spec))
    spec["filter"] = gaps.attempt("filter", lambda: filters(kernel))
    tell(gaps=list(gaps.why), why=gaps.why)
    if gaps.why and not spec["weak"]:
        os._exit(REFUSED)
    os._exit(watch.run(kernel, spec, command, tell, own_root, os.getuid() == 0))


def kill(process: int) -> None:
    """End a process that may have ended by itself just now."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def bare(spec: dict[str, Any], command: list[str], gaps: Gaps, tell: Callable[..., None]) -> int:
    """Run the command with limits alone."""
    tell(gaps=list(gaps.why), why=gaps.why)
    if not spec["weak"]:
        return REFUSED
    watch.limit(spec)
    return os.execvp(command[0], command)  # noqa: S606 - does not return


def namespaces(kernel: Kernel, spec: dict[str, Any], gaps: Gaps) -> bool:
    """Leave the shared network, mounts, users and process table; False where the system does not allow it.

    Started by root, root and `owner` are the users there are inside, and the command runs as `owner`: what belongs to
    root is then not its own. Started by anyone else, that one user is nobody inside.
    """
    wanted = NEWNS | NEWIPC | NEWPID | NEWUTS | NEWCGROUP | (0 if spec["network"] else NEWNET)
    user, group = os.getuid(), os.getgid()
    several = spec["owner"] is not None and user == 0
    ready, go = os.pipe() if several else (-1, -1)
    helper = os.fork() if several else -1
    if helper == 0:  # whose powers are those of the users outside
        os.close(go)
        os._exit(_map_users(os.getppid(), spec["owner"]) if os.read(ready, 1) else 1)
    made = gaps.attempt("processes", lambda: kernel.unshare(NEWUSER | wanted))
    if several:
        os.write(go, b"x" if made else b"")
        os.close(go)
        mapped = os.waitpid(helper, 0)[1] == 0
        os.close(ready)
    else:
        mapped = False
    if made and not mapped:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{NOBODY} {user} 1")
        write("/proc/self/gid_map", f"{NOBODY} {group} 1")
    if not made and user == 0:  # a container's root without user namespaces
        made = gaps.attempt("processes", lambda: kernel.unshare(wanted))
    if made:
        gaps.why.pop("processes", None)
        gaps.attempt("processes", lambda: kernel.hostname("sandbox"))
        return True
    gaps.why |= dict.fromkeys(("files", "network", "filter"), gaps.why["processes"])
    return False


def _map_users(process: int, owner: int) -> int:
    try:
        for kind in ("uid", "gid"):
            write(f"/proc/{process}/{kind}_map", f"0 0 1\n{owner} {owner} 1")
    except OSError:
        return 1
    return 0


def own_loopback() -> None:
    """Bring up `lo` of the new network, for tests that talk to themselves; it leads nowhere else."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def filters(kernel: Kernel) -> None:
    """Whether system calls can be filtered: tried in a child, since it cannot be undone."""
    child = os.fork()
    if not child:
        try:
            kernel.prctl(PR_SET_NO_NEW_PRIVS, 1)
            watch.calls.install(kernel)
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise OSError("seccomp: refused")


def write(path: str, text: str) -> None:
    """Write to a file of /proc."""
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
