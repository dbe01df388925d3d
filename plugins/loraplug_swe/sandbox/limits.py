"""What a command in the sandbox may take and reach, and how it ended."""

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
    """What a command in the sandbox may take and reach.

    Attributes:
        weak: run commands even where the system cannot shut them in.
        readable: further files and folders of this machine that commands may read.
        links: names in the copy, and the absolute paths they are symbolic links to; commands may read these as well.
        python: the interpreter whose library and packages are there beside those of this one; "" is this one.
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
    """How a command ended.

    Attributes:
        returncode: its exit code; 128 and the signal's number where a signal ended it.
        output: stdout and stderr as one text; a long one without its middle.
        seconds: wall-clock time.
        killed: the limit it was killed for, or None.
    """

    returncode: int
    output: str
    seconds: float
    killed: Killed | None = None
