"""Several processes: who is who, and how data gets from the first to the others."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

_PATIENCE = timedelta(days=1)  # the first process may take long over data and downloads; launchers end dead ones


def size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def meet(work: bool) -> bool:
    """Join the others (NCCL on GPUs, else gloo); returns the first process' `work` on all of them."""
    if size() == 1:
        return work
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    return bool(_from_first([work])[0])


def same_rows(train: Dataset | None, validation: Dataset | None) -> tuple[Dataset, Dataset | None]:
    """The first process' rows, on all of them."""
    if size() == 1:
        assert train is not None  # noqa: S101 - for the type checker
        return train, validation
    sent = _from_first([_packed(train), _packed(validation)])
    if train is not None:
        return train, validation
    return _unpacked(sent[0]), _unpacked(sent[1])


def from_first(value: Any) -> Any:
    """The first process' value, on all of them."""
    return value if size() == 1 else _from_first([value])[0]


def same_start(parameters: Iterable[torch.Tensor]) -> None:
    """Give all processes the first one's values: what adapters begin with may be computed differently elsewhere."""
    if size() > 1:
        import torch.distributed as dist

        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def _from_first(values: list[Any]) -> list[Any]:
    from accelerate.utils import broadcast_object_list

    return list(broadcast_object_list(values, from_process=0))


def _packed(rows: Dataset | None) -> bytes | None:
    import pyarrow as pa

    if rows is None:
        return None
    sink = pa.BufferOutputStream()
    table = rows.with_format("arrow")[:]
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _unpacked(data: bytes | None) -> Any:
    import pyarrow as pa
    from datasets import Dataset

    return None if data is None else Dataset(pa.ipc.open_stream(data).read_all())
