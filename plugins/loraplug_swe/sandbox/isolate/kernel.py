"""The few system calls Python does not offer, and what differs between machines."""

from __future__ import annotations

import os
from typing import Any

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    0x1000,
    0x2000,
    0x4000,
    1 << 18,
)
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_JOIN_SESSION_KEYRING = 1
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
# pivot_root and keyctl; 442 is mount_setattr everywhere
_NUMBERS = {"x86_64": (155, 250), "aarch64": (41, 219), "riscv64": (41, 219)}


class Kernel:
    """System calls; each raises OSError where the system refuses."""

    def __init__(self) -> None:
        import ctypes

        self.ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.machine = os.uname().machine

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._libc, name)(*arguments) < 0:
            number = self.ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    def unshare(self, flags: int) -> None:
        """unshare(2)."""
        self._call("unshare", flags)

    def mount(self, source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
        """mount(2)."""
        texts = [os.fsencode(text) if text is not None else None for text in (source, target, kind, data)]
        self._call("mount", *texts[:3], self.ctypes.c_ulong(flags), texts[3])

    def read_only(self, target: str) -> None:
        """Make every mount below `target` read-only, without devices and set-user-id programs; Linux 5.12."""
        self._attributes(target, _RDONLY | _NOSUID | _NODEV, 0, _AT_RECURSIVE)

    def writable(self, target: str) -> None:
        """Make this one mount writable, still without devices and set-user-id programs."""
        self._attributes(target, _NOSUID | _NODEV, _RDONLY, 0)

    def _attributes(self, target: str, on: int, off: int, flags: int) -> None:
        attributes = (self.ctypes.c_uint64 * 4)(on, off, 0, 0)
        self._call("syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), flags, attributes, 32)

    def enter(self, top: str) -> None:
        """Make `top`, a mount, the root of all there is; the old root is gone from this namespace."""
        os.chdir(top)
        try:
            if self.machine not in _NUMBERS:
                raise OSError("pivot_root: unknown on this machine")
            self._call("syscall", _NUMBERS[self.machine][0], b".", b".")
            self._call("umount2", b".", MNT_DETACH)
        except OSError:  # the root is the initial one, which cannot be moved: cover it
            self.mount(top, "/", None, MS_MOVE)
            os.chroot(".")
        os.chdir("/")

    def fresh_keyring(self) -> None:
        """A session keyring of one's own."""
        self._call("syscall", _NUMBERS[self.machine][1], _JOIN_SESSION_KEYRING, None)

    def hostname(self, name: str) -> None:
        """sethostname(2)."""
        self._call("sethostname", name.encode(), len(name))

    def prctl(self, option: int, value: Any, more: Any = 0) -> bool:
        """prctl(2); whether it worked."""
        return bool(self._libc.prctl(option, self.ctypes.c_ulong(value), more, 0, 0) == 0)

    def keep_private(self) -> None:
        """Others of the same user cannot read this process' memory, nor open its descriptors through /proc."""
        self.prctl(PR_SET_DUMPABLE, 0)
