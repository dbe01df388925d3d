"""Distributed training: rank and world size, and broadcasts from the first process."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

from attrs import frozen

T = TypeVar("T")
_PATIENCE = timedelta(days=1)  # the first process may take long over data and downloads; launchers end dead ones


@frozen
class Distributed:
    """The processes that train together, as their launcher (`accelerate launch`, `torchrun`) says.

    Attributes:
        rank: which of them this is; 0 leads: it alone reads data, speaks and writes.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def launched(cls) -> Distributed:
        """As the environment has it; one process where nobody launched several."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def join(self) -> None:
        """Initialise the process group, by NCCL on GPUs, else gloo; the other methods call it."""
        if self.world_size > 1:
            import torch
            from accelerate import PartialState  # type: ignore[import-untyped, unused-ignore]

            PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            self.join()
            import torch.distributed as dist

            dist.barrier()

    def broadcast(self, value: T) -> T:
        """The first process' value, on all of them. Any object that can be pickled; every process must call it."""
        if self.world_size == 1:
            return value
        self.join()
        from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped, unused-ignore]

        values: list[Any] = list(broadcast_object_list([value], from_process=0))
        return values[0]  # type: ignore[no-any-return]
