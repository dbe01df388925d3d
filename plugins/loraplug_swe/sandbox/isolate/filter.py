"""System calls that no test needs and that lead out, or to what no namespace and no limit holds: refused by seccomp(2).

Written out by hand: the bindings of libseccomp on the package index are not kept any more, and the program is short.
Refused are other address families than unix, internet and netlink (vsock reaches the host of a virtual machine), keys,
System V and message queue memory (it would outlast a job), new namespaces, mounts, tracing of other processes, limits
and priorities of other processes (the one that jobs are forked from would hand them on to the next), and the parts of
the kernel that are attacked most.
"""

from __future__ import annotations

import errno
from typing import Any

from kernel import PR_SET_SECCOMP, Kernel

_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_NAMES = (
    "add_key", "request_key", "keyctl", "shmget", "msgget", "semget", "mq_open", "unshare", "setns", "mount", "umount2",
    "pivot_root", "chroot", "ptrace", "process_vm_readv", "process_vm_writev", "bpf", "perf_event_open", "userfaultfd",
    "init_module", "finit_module", "delete_module", "kexec_load", "open_by_handle_at", "name_to_handle_at", "swapon",
    "reboot", "acct", "quotactl", "syslog",
)  # fmt: skip
_X86 = (248, 249, 250, 29, 68, 64, 240, 272, 308, 165, 166, 155, 161, 101, 310, 311, 321, 298, 323, 175, 313, 176, 246,
        304, 303, 167, 169, 163, 179, 103)  # fmt: skip
_GENERIC = (217, 218, 219, 194, 186, 190, 180, 97, 268, 40, 39, 41, 51, 117, 270, 271, 280, 241, 282, 105, 273, 106,
            104, 265, 264, 224, 142, 89, 60, 116)  # fmt: skip
_EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442)  # io_uring, the newer mount calls, pidfd_getfd
# which process is meant, told by the first argument (prlimit64 and the scheduler's calls) or by the second
_ITS_FIRST = {
    "x86_64": (302, 203, 144, 142, 314),
    "aarch64": (261, 122, 119, 118, 274),
    "riscv64": (261, 122, 119, 118, 274),
}
_ITS_SECOND = {"x86_64": (141, 251), "aarch64": (140, 30), "riscv64": (140, 30)}  # setpriority, ioprio_set
_SOCKET = {"x86_64": (41, 53, 56), "aarch64": (198, 199, 220), "riscv64": (198, 199, 220)}  # socket, socketpair, clone
_CLONE3, _X32 = 435, 0x40000000
_FAMILIES = (1, 2, 10, 16)  # unix, internet, internet 6, netlink
_NEW_NAMESPACES = 0x7E020000
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_Step = tuple[int, int, int, int]


def install(kernel: Kernel) -> None:
    """Filter the calls of this process and all it starts, for good.

    Raises:
        OSError: the machine is not known here, or the kernel has no filters.
    """
    if kernel.machine not in _ARCH:
        raise OSError(f"seccomp: no filter for {kernel.machine}")
    steps = program(kernel.machine)
    ctypes: Any = kernel.ctypes

    class Step(ctypes.Structure):  # type: ignore[misc]
        _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint))

    class Program(ctypes.Structure):  # type: ignore[misc]
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.POINTER(Step)))

    kind: Any = Step
    whole = Program(len(steps), (kind * len(steps))(*(Step(*step) for step in steps)))
    if not kernel.prctl(PR_SET_SECCOMP, 2, ctypes.byref(whole)):
        raise OSError(f"seccomp: {errno.errorcode.get(ctypes.get_errno(), 'refused')}")


def program(machine: str) -> list[_Step]:
    """The filter of a machine, as (code, jump if so, jump if not, operand)."""
    socket, pair, clone = _SOCKET[machine]
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _ARCH[machine]), (_RETURN, 0, 0, _KILL),
             (_LOAD, 0, 0, _NUMBER)]  # fmt: skip
    if machine == "x86_64":
        steps += [(_AT_LEAST, 0, 1, _X32), _refuse(errno.ENOSYS)]
    for number in sorted({*(_X86 if machine == "x86_64" else _GENERIC), *_EVERYWHERE}):
        steps += [(_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    steps += [(_EQUAL, 0, 1, _CLONE3), _refuse(errno.ENOSYS)]  # its flags cannot be seen; libraries then use clone
    for numbers, argument in ((_ITS_FIRST, _FIRST_ARGUMENT), (_ITS_SECOND, _SECOND_ARGUMENT)):
        for number in numbers[machine]:  # 0 is the process itself
            steps += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, argument), (_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _ALLOW),
                      _refuse(errno.EPERM)]  # fmt: skip
    families = [(_EQUAL, len(_FAMILIES) - at, 0, family) for at, family in enumerate(_FAMILIES)]
    return [
        *steps,
        (_EQUAL, 0, 4, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        _refuse(errno.EPERM), (_RETURN, 0, 0, _ALLOW),
        (_EQUAL, 1, 0, socket), (_EQUAL, 0, len(families) + 2, pair), (_LOAD, 0, 0, _FIRST_ARGUMENT),
        *families, _refuse(errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip


def _refuse(number: int) -> _Step:
    return _RETURN, 0, 0, _ERRNO | number
