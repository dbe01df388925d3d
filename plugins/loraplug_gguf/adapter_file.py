"""LoRA pairs in GGUF's words, as llama.cpp reads them: `<tensor>.lora_a` (r, inputs), `<tensor>.lora_b` (outputs, r).

llama.cpp adds alpha / r · B A, with one alpha for the whole file and r read from each pair. Where an adapter scales
some layers otherwise (rsLoRA, `alpha_pattern`), what is over goes into their B.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from loraplug import ExportContext, InputError, LoraplugError, atomic_output
from loraplug_export import (
    WEIGHTS,
    LowRank,
    Plan,
    UnsupportedAdapterError,
    make_plan,
    open_adapter,
    open_checkpoint,
    public_name,
    same_values,
)
from loraplug_gguf.choices import TypeName
from loraplug_gguf.converter import run_converter
from loraplug_gguf.write import metadata, write_gguf

if TYPE_CHECKING:
    from torch import Tensor

    from loraplug_gguf.adapter import AdapterType
    from loraplug_gguf.exporter import GgufExporter

TODO = "export gguf, which merges it; or make a plain LoRA of it: loraplug convert ADAPTER --to lora --rank N"


@frozen
class _Pair:
    """A LoRA pair: GGUF's name of the weight it is on, the order of its rows there if it is another, the pair."""

    name: str
    rows: list[int] | None
    pair: LowRank


def write_adapter(result: ExportContext, out: Path, wanted: AdapterType) -> None:
    """Write the adapter of a finished run as one GGUF file; a pair at a time is in memory.

    Raises:
        InputError: as `GgufAdapterExporter.export`.
        LoraplugError: a value is too large for fp16.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    arch, pairs = _pairs(result)
    first = pairs[0].pair
    alpha = first.scale * first.a.shape[0]
    kind = GGMLQuantizationType[wanted.upper()]
    writer = GGUFWriter(None, arch)
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
            for values in _values(one, alpha, wanted):
                writer.write_tensor_data(values)
    finally:
        writer.close()
    result.run.say(f"gguf-adapter: {len(pairs)} LoRA pairs, alpha {alpha:g}")


def _values(one: _Pair, alpha: float, wanted: AdapterType) -> Iterator[Any]:
    """The bytes of A, then of B with its rows in llama.cpp's order."""
    yield _bytes(one.pair.a.read(), wanted, f"{one.name}.lora_a")
    rows = one.pair.b.read().float()
    if one.rows is not None:
        rows = rows[one.rows]
    over = one.pair.scale * one.pair.a.shape[0] / alpha
    yield _bytes(rows if over == 1 else rows * over, wanted, f"{one.name}.lora_b")


def _bytes(values: Tensor, wanted: AdapterType, name: str) -> Any:
    import torch

    made = values.to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[wanted]).contiguous()
    if wanted == "f16" and not made.isfinite().all():
        what = f"{name} has values too large for f16"
        raise LoraplugError(what, where="exporter.gguf-adapter", todo='use type = "bf16"')
    return made.view(torch.uint8).numpy().reshape(-1)


def _header(writer: Any, result: ExportContext, alpha: float) -> None:
    from gguf import GGUFType, Keys

    said = metadata(result)
    writer.add_name(said["name"])
    writer.add_finetune(said["finetune"])
    if "license" in said:
        writer.add_license(said["license"])
    for base in said.get("base_models", ()):
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base["name"])
        writer.add_base_model_organization(0, base["organization"])
        writer.add_base_model_repo_url(0, base["repo_url"])
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)


def _pairs(result: ExportContext) -> tuple[str, list[_Pair]]:
    """GGUF's name of the architecture, and the pairs."""
    where = result.adapter / WEIGHTS
    try:
        plan = make_plan(open_adapter(result.adapter), open_checkpoint(result.base))
    except UnsupportedAdapterError as reason:
        raise InputError(f"{reason}, and a GGUF adapter can only hold LoRA", where=where, todo=TODO) from None
    if problems := sorted(set(_not_carried(plan))):
        text = f"a GGUF adapter can only hold LoRA on linear layers, and this one {'; '.join(problems)}"
        raise InputError(text, where=where, todo=TODO)
    found = {name: edit.low_rank for name, edit in plan.edits.items() if edit.low_rank is not None}
    shapes = {name: (pair.b.shape[0], pair.a.shape[1]) for name, pair in found.items()}
    told = run_converter(result.run, "layout", result.base, shapes=shapes)
    if lost := sorted(found.keys() - told["places"].keys()):
        what = f"{len(lost)} of the adapted weights are stored differently in a GGUF file: {lost[0]}"
        raise InputError(what, where=where, todo="export gguf, which merges it")
    return told["arch"], [_Pair(**told["places"][name], pair=pair) for name, pair in found.items()]


def _not_carried(plan: Plan) -> Iterator[str]:
    """What llama.cpp has no place for; it would refuse the file, or, worse, answer as if it were not there."""
    for name, edit in plan.edits.items():
        module = name.rpartition(".")[0]
        if edit.replacement is not None and not same_values(edit.replacement, plan.base.tensors[plan.names[name]]):
            yield f"holds a full copy of {name}"
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
    last = public_name(result.base_id).rpartition("/")[2].removesuffix(".gguf")
    return f"{last}-{wanted}.gguf"


def write_base(result: ExportContext, folder: Path, exporter: GgufExporter) -> Path:
    """Write the base itself into the folder, unless it is there.

    Raises:
        InputError, LoraplugError: as `GgufExporter.export`.
    """
    place = folder / base_name(result, exporter.type)
    if place.is_file():
        result.run.say(f"gguf-adapter: the base is there already: {place}")
        return place
    with atomic_output(place) as fresh:
        write_gguf(result.base, fresh, exporter, evolve(result, run=evolve(result.run, name=place.stem)))
    result.run.say(f"gguf-adapter: the base: {place}")
    return place
