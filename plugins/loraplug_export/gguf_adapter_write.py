"""LoRA pairs in GGUF's words, as llama.cpp reads them: `<tensor>.lora_a` (r, inputs), `<tensor>.lora_b` (outputs, r).

llama.cpp adds alpha / r · B A, with one alpha for the whole file and r read from each pair. Where an adapter scales
some layers otherwise (rsLoRA, `alpha_pattern`), what is over goes into their B.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from loraplug import ExportContext, InputError, atomic_output
from loraplug_export.choices import TypeName
from loraplug_export.edits import LowRank
from loraplug_export.lora_files import WEIGHTS, open_adapter
from loraplug_export.tensors import open_checkpoint, same_values

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    from loraplug_export.gguf_adapter import AdapterType
    from loraplug_export.gguf_model import Family
    from loraplug_export.plan import Plan

TODO = "export gguf, which merges it; or make a plain LoRA of it: loraplug convert ADAPTER --to lora --rank N"


@frozen
class _Pair:
    """A LoRA pair: the model's name of the weight it is on, GGUF's, and the pair itself."""

    source: str
    name: str
    pair: LowRank


def write_adapter(result: ExportContext, out: Path, wanted: AdapterType) -> None:
    """Write the adapter of a finished run as one GGUF file; a pair at a time is in memory.

    Raises:
        InputError: as `GgufAdapterExporter.export`.
        LoraplugError: a value is too large for fp16.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    from loraplug_export.gguf_model import read_family

    family = read_family(result.base)
    pairs = _pairs(result, family)
    first = pairs[0].pair
    alpha = first.scale * first.a.shape[0]
    kind = GGMLQuantizationType[wanted.upper()]
    writer = GGUFWriter(None, family.arch)
    _header(writer, result, alpha)
    for one in pairs:
        for half, tensor in (("a", one.pair.a), ("b", one.pair.b)):
            size = (4 if wanted == "f32" else 2) * tensor.shape[0] * tensor.shape[1]
            writer.add_tensor_info(f"{one.name}.lora_{half}", tensor.shape, np.dtype(np.float32), size, kind)
    writer.open_output_file(out)
    try:
        writer.write_header_to_file(out)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in pairs:
            for values in _values(one, family, alpha, kind):
                writer.write_tensor_data(values)
    finally:
        writer.close()
    result.run.say(f"gguf-adapter: {len(pairs)} LoRA pairs, alpha {alpha:g}")


def _values(
    one: _Pair, family: Family, alpha: float, kind: GGMLQuantizationType
) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """The bytes of A, then of B with its rows in llama.cpp's order."""
    from loraplug_export.gguf_types import encode

    yield encode(one.pair.a.read(), kind, f"{one.name}.lora_a").reshape(-1)
    rows = family.arranged(one.source, one.pair.b.read()).float()
    over = one.pair.scale * one.pair.a.shape[0] / alpha
    yield encode(rows if over == 1 else rows * over, kind, f"{one.name}.lora_b").reshape(-1)


def _header(writer: GGUFWriter, result: ExportContext, alpha: float) -> None:
    from gguf import GGUFType, Keys

    from loraplug_export.gguf_write import general

    general(writer, result)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)


def _pairs(result: ExportContext, family: Family) -> list[_Pair]:
    from loraplug_export.plan import UnsupportedAdapterError, make_plan

    where = result.adapter / WEIGHTS
    try:
        plan = make_plan(open_adapter(result.adapter), open_checkpoint(result.base))
    except UnsupportedAdapterError as reason:
        raise InputError(f"{reason}, and a GGUF adapter carries LoRA alone", where=where, todo=TODO) from None
    if problems := sorted(set(_not_carried(plan))):
        text = f"a GGUF adapter carries LoRA pairs on linear layers alone, and this one {'; '.join(problems)}"
        raise InputError(text, where=where, todo=TODO)
    found = [(name, edit.low_rank) for name, edit in plan.edits.items()]
    return [_Pair(name, family.tensor_name(name, result.base), pair) for name, pair in found if pair is not None]


def _not_carried(plan: Plan) -> Iterator[str]:
    """What llama.cpp has no place for; it would refuse the file, or, worse, answer as if it were not there."""
    for name, edit in plan.edits.items():
        module = name.rpartition(".")[0]
        if edit.replacement is not None and not same_values(edit.replacement, plan.base.tensors[plan.names[name]]):
            yield f"holds {name} whole"
        elif edit.rows is not None:
            yield f"trained rows of {name} for {len(edit.rows.numbers)} tokens"
        elif edit.added is not None:
            yield f"trained the bias of B ({module})"
        elif edit.low_rank is not None and edit.low_rank.magnitude is not None:
            yield "is a DoRA, whose magnitudes are no pairs"
        elif edit.low_rank is not None and edit.low_rank.transposed:
            yield f"adapts the embedding {module}"
        elif name == plan.untied:
            yield f"adapts {module}, which the base ties to its embedding: the base's GGUF file has no such tensor"


def base_name(result: ExportContext, wanted: TypeName) -> str:
    """File name of the base as GGUF: the last part of what the recipe calls it, and the type."""
    from loraplug_export.card import public_name

    last = public_name(result.base_id).rpartition("/")[2].removesuffix(".gguf")
    return f"{last}-{wanted}.gguf"


def write_base(result: ExportContext, folder: Path, wanted: TypeName) -> Path:
    """Write the base itself into the folder, unless it is there.

    Raises:
        InputError, LoraplugError: as `GgufExporter.export`.
    """
    from loraplug_export.gguf_write import write_gguf

    place = folder / base_name(result, wanted)
    if place.is_file():
        result.run.say(f"gguf-adapter: the base is there already: {place}")
        return place
    with atomic_output(place) as fresh:
        write_gguf(result.base, fresh, wanted, evolve(result, run=evolve(result.run, name=place.stem)))
    result.run.say(f"gguf-adapter: the base: {place}")
    return place
