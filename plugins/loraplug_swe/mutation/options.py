"""What the sources of this package share as options."""

from __future__ import annotations

from typing import Annotated

from attrs import field, frozen, validators

from loraplug import Doc


@frozen
class BoxLimits:
    """What the code under test may take."""

    suite_seconds: Annotated[float, Doc("seconds for one run of the whole suite")] = field(
        default=900.0, validator=validators.gt(0)
    )
    memory_mb: Annotated[int, Doc("memory of one worker's processes together, in MiB")] = field(
        default=2048, validator=validators.ge(64)
    )
    processes: Annotated[int, Doc("processes of one worker at once")] = field(default=64, validator=validators.ge(4))
    file_mb: Annotated[int, Doc("size of one file written, in MiB")] = field(default=64, validator=validators.ge(1))
    disk_mb: Annotated[int, Doc("all files written by one worker, in MiB")] = field(
        default=1024, validator=validators.ge(1)
    )
    output_mb: Annotated[int, Doc("output, in MiB, for which a run is ended")] = field(
        default=64, validator=validators.ge(1)
    )
    network: Annotated[bool, Doc("leave the network on")] = False
