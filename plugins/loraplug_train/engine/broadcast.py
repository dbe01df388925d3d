"""Broadcasts of rows and parameters from the first process to the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from attrs import evolve

from loraplug import Distributed, Encoded

if TYPE_CHECKING:
    import torch


def broadcast_rows(
    processes: Distributed, train: Encoded | None, validation: Encoded | None
) -> tuple[Encoded, Encoded | None]:
    """Broadcast the first process' encoded rows to all processes."""
    if processes.world_size > 1:
        sent = processes.broadcast([_packed(train), _packed(validation)])
        if train is None:
            train, validation = (_unpacked(one) for one in sent)
    assert train is not None  # noqa: S101 - for the type checker
    return train, validation


def broadcast_parameters(processes: Distributed, parameters: Iterable[torch.Tensor]) -> None:
    """Broadcast the first process' values, in place: initial adapters may differ in rounding between machines."""
    if processes.world_size > 1:
        import torch.distributed as dist

        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def _packed(encoded: Encoded | None) -> tuple[Encoded, bytes] | None:
    import pyarrow as pa

    if encoded is None:
        return None
    sink = pa.BufferOutputStream()
    table = encoded.dataset.with_format("arrow")[:]
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return evolve(encoded, dataset=None), sink.getvalue().to_pybytes()


def _unpacked(sent: tuple[Encoded, bytes] | None) -> Any:
    import pyarrow as pa
    from datasets import Dataset

    return None if sent is None else evolve(sent[0], dataset=Dataset(pa.ipc.open_stream(sent[1]).read_all()))
