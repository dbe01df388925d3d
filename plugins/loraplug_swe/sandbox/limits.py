"""Limits of a sandboxed command, and its result."""

from __future__ import annotations

from typing import Annotated, Literal

from attrs import field, frozen, validators

from loraplug import Doc

Killed = Literal["time", "memory", "processes", "disk", "output"]
LIMITS = {"time": "limits.suite_seconds", "memory": "limits.memory_mb", "processes": "limits.processes",
          "disk": "limits.disk_mb", "output": "limits.output_mb"}  # fmt: skip
"""The option that each limit is set by."""


@frozen
class Limits:
    """Limits of a sandboxed command.

    Attributes:
        weak: run commands even if the system cannot isolate them.
        readable: additional files and folders that commands may read.
        links: names in the copy, and the absolute paths they are symbolic links to; commands may read these as well.
        python: an interpreter whose library and packages are shown besides those of this one; "": this one.
    """

    seconds: Annotated[float, Doc("wall-clock seconds for one run")] = field(default=60.0, validator=validators.gt(0))
    memory_mb: Annotated[int, Doc("memory per process, and in total, in MiB")] = field(
        default=2048, validator=validators.ge(64)
    )
    processes: Annotated[int, Doc("processes at a time")] = field(default=64, validator=validators.ge(1))
    file_mb: Annotated[int, Doc("maximum size of a written file, in MiB")] = field(
        default=64, validator=validators.ge(1)
    )
    output_bytes: Annotated[int, Doc("bytes of output kept: the first and the last half")] = field(
        default=200_000, validator=validators.ge(1000)
    )
    network: Annotated[bool, Doc("allow network access")] = False
    disk_mb: Annotated[int, Doc("total size of written files, in MiB")] = field(
        default=1024, validator=validators.ge(1)
    )
    output_mb: Annotated[int, Doc("output, in MiB, above which a command is killed")] = field(
        default=64, validator=validators.ge(1)
    )
    weak: bool = False
    readable: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    python: str = ""


@frozen
class Result:
    """The result of a command.

    Attributes:
        returncode: its exit code; 128 and the signal's number where a signal ended it.
        output: stdout and stderr as one text; truncated in the middle if too long.
        seconds: wall-clock time.
        killed: the limit that it exceeded, or None.
    """

    returncode: int
    output: str
    seconds: float
    killed: Killed | None = None
