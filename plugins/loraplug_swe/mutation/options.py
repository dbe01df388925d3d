"""Options shared by the sources of this package."""

from __future__ import annotations

from typing import Annotated

from attrs import field, frozen, validators

from loraplug import Doc


@frozen
class BoxLimits:
    """Limits for the code under test."""

    suite_seconds: Annotated[float, Doc("seconds for one run of the whole suite")] = field(
        default=900.0, validator=validators.gt(0)
    )
    memory_mb: Annotated[int, Doc("total memory of one worker's processes, in MiB")] = field(
        default=2048, validator=validators.ge(64)
    )
    processes: Annotated[int, Doc("processes of one worker at a time")] = field(default=64, validator=validators.ge(4))
    file_mb: Annotated[int, Doc("maximum size of a written file, in MiB")] = field(
        default=64, validator=validators.ge(1)
    )
    disk_mb: Annotated[int, Doc("total size of the files that one worker writes, in MiB")] = field(
        default=1024, validator=validators.ge(1)
    )
    output_mb: Annotated[int, Doc("output, in MiB, above which a run is killed")] = field(
        default=64, validator=validators.ge(1)
    )
    network: Annotated[bool, Doc("allow network access")] = False
