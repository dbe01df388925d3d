"""The streaming merge: from the base's files to the merged model's, in chunks of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from loraplug import LoraplugError, Run
from loraplug_export.edits import Edit
from loraplug_export.onto import WeightTransform
from loraplug_export.plan import Plan
from loraplug_export.tensors import FLOATS, Checkpoint, Tensor, Writer, in_range, type_bytes

if TYPE_CHECKING:
    import torch


@frozen
class Output:
    """One tensor to write: the source of its values and how they change."""

    stored: Tensor
    edit: Edit | None = None
    onto: WeightTransform | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor as it will be written."""
        return self.stored.shape if self.edit is None else self.edit.shape(self.stored.shape)

    @property
    def length(self) -> int:
        """Bytes."""
        return prod(self.shape) * type_bytes(self.stored.dtype) if self.edit or self.onto else self.stored.length

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """Chunks of rows of the merged tensor, in the base's dtype.

        Raises:
            LoraplugError: a value is NaN or too large for the base's dtype.
        """
        import torch

        edit = (self.edit or Edit()).load()
        dtype = getattr(torch, FLOATS[self.stored.dtype])
        source = edit.edit.replacement or self.stored
        onto = None if edit.edit.replacement else self.onto
        whole = onto is not None or not edit.edit.by_rows
        for first, last in [(0, source.shape[0])] if whole else source.pieces():
            rows = source.read(first, last)
            merged = edit.apply(onto(rows) if onto else rows.float(), first)
            if self.edit is not None and self.edit.rows is not None:
                merged = self.edit.rows.put_on(merged, first)
            _check_range(name, merged, dtype, self.stored.file)
            yield merged.to(dtype)
        if self.edit is not None and self.edit.rows is not None and self.shape[0] > source.shape[0]:
            merged = self.edit.rows.put_on(
                torch.zeros(self.shape[0] - source.shape[0], *self.shape[1:]), source.shape[0]
            )
            _check_range(name, merged, dtype, self.stored.file)
            yield merged.to(dtype)


def merge(plan: Plan, out: Path, run: Run, onto: Mapping[str, WeightTransform] | None = None) -> None:
    """Write the merged weights to the folder `out`, split into files like the base's.

    Args:
        onto: transforms of weights, by stored name, that are applied before the adapter is added.

    Raises:
        LoraplugError: a merged value is not finite.
        InputError: a file of the base is truncated.
    """
    onto = onto or {}
    edits = plan.stored_edits()
    total = sum(tensor.length for tensor in plan.base.tensors.values())
    with run.progress("merging", total) as bar:
        for file, metadata in plan.base.metadata.items():
            outputs = {
                name: Output(stored, edits.get(name), onto.get(name))
                for name, stored in plan.base.of_file(file).items()
            }
            if plan.untied and (source := plan.base.tensors[plan.names[plan.untied]]).file.name == file:
                outputs[plan.untied] = Output(source, plan.edits[plan.untied])
            layout = {name: (item.stored.dtype, item.shape, item.length) for name, item in outputs.items()}
            with Writer(out / file, layout, metadata) as writer:
                for name, item in outputs.items():
                    if item.stored.dtype in FLOATS:
                        for piece in item.pieces(name):
                            writer.write(piece)
                    else:
                        writer.copy(item.stored)
                    bar.advance(item.stored.length)
    _write_index(plan.base, out, {plan.untied: plan.base.tensors[plan.names[plan.untied]]} if plan.untied else {})


def write_values(
    base: Checkpoint, values: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], out: Path, run: Run
) -> None:
    """Write weights from memory, split into files and stored in dtypes like the base's.

    Args:
        values: by stored name; others are copied from the base.
        new: weights that the base does not store; they go into its last file, in the type of its first tensor.

    Raises:
        LoraplugError: a value is not finite, or too large for its type.
    """
    import torch

    last = list(base.metadata)[-1]
    some = next(tensor for tensor in base.of_file(last).values() if tensor.dtype in FLOATS)
    with run.progress("writing", len(base.tensors) + len(new)) as bar:
        for file, metadata in base.metadata.items():
            stored = base.of_file(file) | (dict.fromkeys(new, some) if file == last else {})
            made = {name: value for name, value in {**values, **new}.items() if name in stored}
            made = {name: value for name, value in made.items() if stored[name].dtype in FLOATS}
            layout = {}
            for name, tensor in stored.items():
                shape = tuple(made[name].shape) if name in made else tensor.shape
                length = prod(shape) * type_bytes(tensor.dtype) if name in made else tensor.length
                layout[name] = (tensor.dtype, shape, length)
            with Writer(out / file, layout, metadata) as writer:
                for name, tensor in stored.items():
                    if name in made:
                        dtype = getattr(torch, FLOATS[tensor.dtype])
                        _check_range(name, made[name], dtype, tensor.file)
                        writer.write(made[name].detach().to(dtype))
                    else:
                        writer.copy(tensor)
                    bar.advance()
    _write_index(base, out, dict.fromkeys(new, some))


def _check_range(name: str, values: torch.Tensor, dtype: torch.dtype, file: Path) -> None:
    if not in_range(values, dtype):
        raise LoraplugError(
            f"{name} has NaN, infinite or too large values for {str(dtype).removeprefix('torch.')} after merging",
            where=file,
            todo="check base and adapter for NaN or infinite values",
        )


def _write_index(base: Checkpoint, out: Path, new: Mapping[str, Tensor]) -> None:
    """Write the base's index, if it has one; new names are put into the file of the tensor given for each."""
    path = base.folder / "model.safetensors.index.json"
    if not path.is_file():
        return
    index = json.loads(path.read_text(encoding="utf-8"))
    for name, beside in new.items():
        index["weight_map"][name] = beside.file.name
    written = sum((out / name).stat().st_size for name in base.metadata)
    headers = sum(_header_bytes(out / name) for name in base.metadata)
    index["metadata"] = (index.get("metadata") or {}) | {"total_size": written - headers}
    (out / path.name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")
