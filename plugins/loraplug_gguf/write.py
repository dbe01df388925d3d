"""A merged transformers folder as GGUF: llama.cpp's converter first, then its quantizer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import ExportContext, Run
from loraplug_export import MergedExporter, base_licence, loadable_base, open_checkpoint, rows_of_samples
from loraplug_gguf.choices import CONVERTED, TypeName
from loraplug_gguf.converter import run_converter
from loraplug_gguf.preflight import check_folder

if TYPE_CHECKING:
    from loraplug_gguf.exporter import GgufExporter

_MEASURED = ("iq1", "iq2", "iq3", "q2")  # types that are measured for by default begin so


def check_before(base: Path, wanted: TypeName, run: Run, proved: bool) -> None:
    """Find before the merge what would stop the export after it; `proved`: whether there will be a certificate.

    Raises:
        InputError: llama.cpp does not take such a model, or is not known to take it rightly; there is no quantizer.
    """
    check_folder(base, run, proved)
    if wanted not in CONVERTED:
        from loraplug_gguf.encoding import llama_cpp

        llama_cpp()


def write_gguf(folder: Path, out: Path, exporter: GgufExporter, result: ExportContext) -> None:
    """Write `out`; memory is a few tensors beside the libraries, whatever the model's size.

    Raises:
        InputError, LoraplugError: as `GgufExporter.export`.
    """
    from loraplug_gguf.quantize import check_values, quantize

    run, wanted = result.run, exporter.type
    file = out
    if exporter.split:
        out.mkdir()
        file = out / f"{exporter.place(run).name}.gguf"
    split = int(exporter.split * 1e9) if exporter.split else 0
    header = metadata(result)
    if wanted in CONVERTED:
        run_converter(run, "convert", folder, out=str(file.absolute()), type=wanted, metadata=header, split=split)
        for made in [file] if file.is_file() else sorted(out.iterdir()):
            check_values(made)
        return
    between = out.with_name(out.name + ".between")
    try:
        run_converter(run, "convert", folder, out=str(between.absolute()), type=_stored(folder), metadata=header)
        quantize(between, file, wanted, _importance(exporter, folder, result), run, split)
    finally:
        between.unlink(missing_ok=True)


def _stored(folder: Path) -> str:
    """The type that holds the folder's matrices as they are."""
    kinds = {tensor.dtype for tensor in open_checkpoint(folder).tensors.values() if len(tensor.shape) > 1}
    return {frozenset({"BF16"}): "bf16", frozenset({"F16"}): "f16"}.get(frozenset(kinds), "f32")


def _importance(exporter: GgufExporter, folder: Path, result: ExportContext) -> Mapping[str, Any]:
    """What columns count, by GGUF's names of the tensors; nothing where it is not measured."""
    if exporter.importance == "never":
        return {}
    if exporter.importance == "auto" and not exporter.type.startswith(_MEASURED):
        return {}
    from loraplug_gguf.importance import measure_importance

    rows = rows_of_samples(result, folder)
    measured = measure_importance(folder, rows, result.run)
    tensors = open_checkpoint(folder).tensors
    shapes = {name: tensors[name].shape for name in measured if name in tensors}
    places = run_converter(result.run, "layout", folder, shapes=shapes)["places"]
    tokens = sum(map(len, rows))
    result.run.say(f"gguf: importance of {len(places)} matrices measured over {tokens:,} tokens")
    return {place["name"]: measured[name] for name, place in places.items()}


def metadata(result: ExportContext) -> dict[str, Any]:
    """Name, licence and base, by the names of the fields of gguf's `Metadata`."""
    said: dict[str, Any] = {"name": result.run.name, "finetune": result.run.name}
    if licence := base_licence(result.base):
        said["license"] = licence
    base = loadable_base(result)
    if not Path(base).is_absolute():
        owner, _, name = base.partition("/")
        said["base_models"] = [{"name": name, "organization": owner, "repo_url": f"https://huggingface.co/{base}"}]
    return said


@contextmanager
def merged_folder(result: ExportContext, beside: Path, exporter: MergedExporter) -> Iterator[Path]:
    """The merged model: what this run's `merged` has made of the same base, else one made for the time of the block.

    Where a model was trained, that.
    """
    if result.kind == "model":
        yield result.adapter
        return
    made = result.artefact("merged", onto=exporter.onto)
    if made is not None and made.is_dir():
        yield made
        return
    folder = beside.with_name(beside.name + ".merged")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield exporter.export(result, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
