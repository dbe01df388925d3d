"""A GGUF file to one of another type, tensor by tensor, as llama.cpp's `llama-quantize` makes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import InputError, LoraplugError, Run
from loraplug_gguf.choices import TypeName
from loraplug_gguf.mixture import ModelFacts, quantised, tensor_type

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

    Array = np.ndarray[Any, Any]

_PIECE = 1 << 24  # values in memory at a time as fp32


@frozen
class _Item:
    """A tensor of the source, its shape with the rows last, and its new format."""

    source: Any
    shape: tuple[int, ...]
    kind: GGMLQuantizationType

    @property
    def bytes(self) -> int:
        from gguf import GGML_QUANT_SIZES

        block, size = GGML_QUANT_SIZES[self.kind]
        return int(prod(self.shape) // block * size)


def quantize(source: Path, out: Path, wanted: TypeName, importance: Mapping[str, Array], run: Run, split: int) -> None:
    """Write `out`; a few rows of one tensor are in memory as numbers, and one tensor as bytes.

    Args:
        importance: of the columns of tensors, by GGUF's names; empty where none was measured.
        split: the most bytes of tensors a file holds; 0 for one file.

    Raises:
        InputError: a tensor's format needs its importance, and that is not known; there is no quantizer.
    """
    import numpy as np
    from gguf import GGUFReader, GGUFWriter

    reader = GGUFReader(source)
    facts = _facts(reader, bool(importance))
    items = [_item(tensor, wanted, facts) for tensor in reader.tensors]
    _check(items, importance, wanted)
    writer = GGUFWriter(None, facts.arch, split_max_size=split)
    _copy_header(reader, writer, wanted)
    for item in items:
        writer.add_tensor_info(item.source.name, item.shape, np.dtype(np.float32), item.bytes, item.kind)
    writer.write_header_to_file(out)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        with run.progress(f"writing {wanted}", len(items)) as bar:
            for item in items:
                writer.write_tensor_data(_encoded(item, importance.get(item.source.name)))
                bar.advance()
    finally:
        writer.close()


def check_values(path: Path) -> None:
    """Refuse a file with values that its format could not hold.

    Raises:
        LoraplugError: names the tensor.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader

    for tensor in GGUFReader(path).tensors:
        if tensor.tensor_type == GGMLQuantizationType.F16 and not np.isfinite(tensor.data).all():
            what = f"{tensor.name} has values too large for f16"
            raise LoraplugError(what, where="exporter.gguf", todo='use type = "bf16"')


def _facts(reader: GGUFReader, measured: bool) -> ModelFacts:
    arch = str(reader.fields["general.architecture"].contents())

    def number(key: str) -> int:
        field = reader.fields.get(f"{arch}.{key}")
        found = field.contents() if field is not None else 0
        return int(max(found) if isinstance(found, list) else found)

    heads, groups = number("attention.head_count"), number("attention.head_count_kv")
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    shared = heads // groups if groups else 1
    return ModelFacts(arch, number("block_count"), shared, number("expert_count"), tied, measured)


def _item(tensor: Any, wanted: TypeName, facts: ModelFacts) -> _Item:
    shape = tuple(int(size) for size in reversed(tensor.shape))
    kind = tensor_type(wanted, tensor.name, shape, facts) if quantised(tensor.name, shape) else tensor.tensor_type
    return _Item(tensor, shape, kind)


def _check(items: list[_Item], importance: Mapping[str, Array], wanted: TypeName) -> None:
    from loraplug_gguf.encoding import needs_importance

    lacking = [
        item.source.name
        for item in items
        if item.kind != item.source.tensor_type and needs_importance(item.kind) and item.source.name not in importance
    ]
    if lacking:
        what = f"type {wanted} needs an importance matrix, and this one lacks {lacking[0]} ({len(lacking)} in all)"
        raise InputError(what, where="exporter.gguf", todo="use a type of three or more bits, such as q3_k_m")


def _copy_header(reader: GGUFReader, writer: GGUFWriter, wanted: TypeName) -> None:
    from gguf import GGUFValueType, LlamaFileType

    for name, field in reader.fields.items():
        if name.startswith(("GGUF.", "split.")) or name in ("general.architecture", "general.file_type"):
            continue
        is_list = field.types[0] == GGUFValueType.ARRAY
        writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if is_list else None)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{wanted.upper()}"])


def _encoded(item: _Item, importance: Array | None) -> Array:
    """The tensor's bytes; experts one after another, each with its own importance where that is known."""
    import numpy as np
    from gguf import GGMLQuantizationType

    if item.kind == item.source.tensor_type:
        return np.ascontiguousarray(item.source.data)
    from loraplug_gguf.encoding import encode

    data = np.empty(item.bytes, dtype=np.uint8)
    at = 0
    for rows, weights in _pieces(item, importance):
        if item.kind == GGMLQuantizationType.F16:
            made = rows.astype(np.float16).view(np.uint8)
        else:
            made = encode(rows, item.kind, weights)
        data[at : at + made.size] = made.reshape(-1)
        at += made.size
    return data


def _pieces(item: _Item, importance: Array | None) -> Iterator[tuple[Array, Array | None]]:
    """A few rows at a time in fp32, (rows, columns), with what their columns count."""
    import numpy as np
    from gguf import quants

    *outer, rows, columns = item.shape
    matrices = item.source.data.reshape(prod(outer), rows, -1)
    step = max(1, _PIECE // columns)
    for number, matrix in enumerate(matrices):
        weights = importance if importance is None or importance.ndim == 1 else importance[number]
        for first in range(0, rows, step):
            part = matrix[first : first + step]
            yield quants.dequantize(part, item.source.tensor_type).astype(np.float32, copy=False), weights
