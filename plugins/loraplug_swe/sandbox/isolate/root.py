"""A root of its own: nothing is there but what is named, and all of it read-only but for the folders to write in."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from kernel import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, Kernel

_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
          "ptmx": "pts/ptmx"}  # fmt: skip
_EMPTY = ("/tmp", "/run", "/var", "/var/tmp", "/home", "/root", "/sys")  # noqa: S108
_MOST_LINKS = 40
_HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost\n"
_USERS = "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:{home}:/bin/sh\n"
_GROUPS = "root:x:0:\nnogroup:x:65534:\n"
_SWITCH = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"


def build(kernel: Kernel, spec: dict[str, Any]) -> None:
    """Make the root in `spec["root"]`, an empty folder, and enter it.

    Raises:
        OSError: the system does not allow it.
    """
    here, top = os.getcwd(), spec["root"]
    kernel.mount("none", "/", None, MS_REC | MS_PRIVATE)
    kernel.mount("tmpfs", top, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=16m,nr_inodes=20k")
    for folder in _EMPTY:
        os.makedirs(top + folder, exist_ok=True)
    _settings(top, spec)
    for path in sorted(spec["read"], key=len):
        if os.path.lexists(path):
            bind(kernel, top, path)
    read = [top + path for path in spec["read"] if os.path.lexists(top + path) and not os.path.islink(top + path)]
    for path in spec["write"]:
        bind(kernel, top, path)
    for path in sorted(read, key=len):
        if _is_mount(path):
            kernel.read_only(path)
    for path in spec["write"]:
        kernel.writable(top + path)
    _devices(kernel, top, spec)
    os.mkdir(top + "/proc")
    kernel.mount("proc", top + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    kernel.enter(top)
    kernel.mount("none", "/", None, 32 | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)  # 32: as it is, but read-only
    os.chdir(here)


def bind(kernel: Kernel, top: str, path: str) -> None:
    """Show `path` of the old root at the same place below `top`, with the symbolic links that lead there."""
    real = lay(top, path)
    place = top + real
    if _is_mount(place) or (os.path.lexists(place) and os.path.exists(real) and os.path.samefile(place, real)):
        return  # a folder above is there already
    if os.path.isdir(real):
        os.makedirs(place, exist_ok=True)
    elif os.path.isfile(real):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "a"):
            pass
    else:
        return  # no socket, pipe or device comes in
    kernel.mount(real, place, None, MS_BIND | MS_REC)


def lay(top: str, path: str) -> str:
    """Make the symbolic links on the way to `path` below `top` as well; the path without links."""
    waiting, at = [part for part in path.split("/") if part][::-1], ""
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            at = os.path.dirname(at)
            continue
        step = f"{at}/{part}"
        if not os.path.islink(step):
            at = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(f"too many symbolic links: {path}")
        target = os.readlink(step)
        if not os.path.lexists(top + step):
            os.makedirs(top + at, exist_ok=True)
            os.symlink(target, top + step)
        waiting += [one for one in target.split("/") if one not in ("", ".")][::-1]
        at = "" if target.startswith("/") else at
    return at or "/"


def _is_mount(path: str) -> bool:
    return os.path.exists(path) and os.path.ismount(path)


def _settings(top: str, spec: dict[str, Any]) -> None:
    """The few files of /etc that libraries look for, with nothing of this machine in them."""
    os.makedirs(top + "/etc", exist_ok=True)
    texts = {"passwd": _USERS.format(home=spec["home"]), "group": _GROUPS, "nsswitch.conf": _SWITCH}
    if not spec["network"]:
        texts["hosts"] = _HOSTS
    for name, text in texts.items():
        with open(f"{top}/etc/{name}", "w") as file:
            file.write(text)


def _devices(kernel: Kernel, top: str, spec: dict[str, Any]) -> None:
    os.makedirs(top + "/dev/pts", exist_ok=True)
    for name in _DEVICES:
        with open(f"{top}/dev/{name}", "w"):
            pass
        kernel.mount(f"/dev/{name}", f"{top}/dev/{name}", None, MS_BIND)
    for name, target in _LINKS.items():
        os.symlink(target, f"{top}/dev/{name}")
    os.mkdir(top + "/dev/shm")  # noqa: S108
    kernel.mount(spec["shm"], top + "/dev/shm", None, MS_BIND)  # noqa: S108 - a folder of the box, which is emptied
    kernel.writable(top + "/dev/shm")  # noqa: S108
    with contextlib.suppress(OSError):  # for tests of terminals
        kernel.mount("devpts", top + "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
