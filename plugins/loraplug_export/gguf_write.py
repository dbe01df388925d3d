"""Writes a merged transformers folder as one GGUF file, tensor by tensor."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from loraplug import ExportContext, LoraplugError
from loraplug_export.card import base_licence, loadable_base
from loraplug_export.choices import TypeName
from loraplug_export.gguf_types import FILE_TYPES, encode, tensor_type
from loraplug_export.tensors import Tensor, open_checkpoint

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    from loraplug_export.gguf_model import Family


@frozen
class _Item:
    """A tensor to write: its name in transformers and in GGUF, and its format."""

    source: str
    name: str
    tensor: Tensor
    kind: GGMLQuantizationType


def write_gguf(folder: Path, out: Path, wanted: TypeName, result: ExportContext) -> None:
    """Convert a transformers folder; the largest tensor in memory, not the model.

    Raises:
        InputError, LoraplugError: as `GgufExporter.export`.
    """
    import numpy as np
    from gguf import GGUFWriter, LlamaFileType

    from loraplug_export.gguf_model import read_family
    from loraplug_export.gguf_tokenizer import read_vocabulary

    family = read_family(folder)
    items = _items(folder, family, wanted)
    vocabulary = read_vocabulary(folder, family.config.vocab_size)
    writer = GGUFWriter(None, family.arch)
    writer.add_type("model")
    general(writer, result)
    writer.add_file_type(LlamaFileType[FILE_TYPES[wanted]])
    writer.add_quantization_version(2)
    family.write(writer)
    vocabulary.write(writer)
    factors = family.rope_factors()
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, np.dtype(np.float32), factors.nbytes)
    for item in items:
        writer.add_tensor_info(item.name, item.tensor.shape, np.dtype(np.float32), _bytes(item), item.kind)
    writer.open_output_file(out)
    try:
        writer.write_header_to_file(out)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors.numpy())
        with result.run.progress(f"writing {wanted}", len(items)) as bar:
            for item in items:
                writer.write_tensor_data(_encoded(item, family))
                bar.advance()
    finally:
        writer.close()


def _items(folder: Path, family: Family, wanted: TypeName) -> list[_Item]:
    checkpoint = open_checkpoint(folder)
    tied = bool(family.config.tie_word_embeddings)
    stored = {name: tensor for name, tensor in checkpoint.tensors.items() if not (tied and name == "lm_head.weight")}
    layers = family.config.num_hidden_layers
    items = []
    for source, tensor in stored.items():
        if source.endswith("rotary_emb.inv_freq"):
            continue
        name = family.tensor_name(source, folder)
        items.append(_Item(source, name, tensor, tensor_type(wanted, name, tensor.shape, layers, tied)))
    return items


def _bytes(item: _Item) -> int:
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[item.kind]
    return int(prod(item.tensor.shape) // block * size)


def _encoded(item: _Item, family: Family) -> np.ndarray[Any, Any]:
    """The tensor's bytes, encoded a few rows at a time."""
    import numpy as np

    if family.whole(item.source):
        return encode(family.arranged(item.source, item.tensor.read()), item.kind, item.source).reshape(-1)
    data = np.empty(_bytes(item), dtype=np.uint8)
    at = 0
    for first, last in item.tensor.pieces():
        piece = encode(family.values(item.source, item.tensor.read(first, last)), item.kind, item.source).reshape(-1)
        data[at : at + piece.size] = piece
        at += piece.size
    if at != data.size:
        raise LoraplugError(
            f"{item.name}: {at} of {data.size} bytes", where="exporter.gguf", todo="report this as a bug"
        )
    return data


def general(writer: GGUFWriter, result: ExportContext) -> None:
    """Add name, licence and base to a GGUF header."""
    writer.add_name(result.run.name)
    writer.add_finetune(result.run.name)
    if licence := base_licence(result.base):
        writer.add_license(licence)
    base = loadable_base(result)
    if not Path(base).is_absolute():
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base.split("/")[-1])
        writer.add_base_model_organization(0, base.split("/")[0])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{base}")
