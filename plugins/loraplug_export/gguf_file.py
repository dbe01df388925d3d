"""`gguf`: one file for llama.cpp and what is built on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from attrs import frozen

from loraplug import Doc, ExportContext, Exporter, Problem, Run
from loraplug_export.choices import OntoName, TypeName
from loraplug_export.merged import MergedExporter


@frozen
class GgufExporter(Exporter):
    """The merged model as one GGUF file, tokenizer and chat template included; runs in llama.cpp."""

    name = "gguf"
    takes = frozenset({"adapter", "model"})
    type: Annotated[
        TypeName, Doc("number format of the matrices; q4_k_m needs the package xllamacpp, which carries llama.cpp")
    ] = "f16"
    out: Annotated[Path | None, Doc("the folder to put the file into; by default outputs/gguf")] = None
    onto: Annotated[OntoName, Doc("as in the exporter merged; not used where that has run before")] = "original"
    verify: Annotated[bool, Doc("as in the exporter merged; not used where that has run before")] = True

    def place(self, run: Run) -> Path:
        """`<out>/<run name>.gguf`, with the type in the name where it is not f16."""
        suffix = "" if self.type == "f16" else f"-{self.type}"
        return (self.out or run.outputs / "gguf") / f"{run.name}{suffix}.gguf"

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """A family or tokenizer that is not written to GGUF here, a quantizer that is not installed."""
        from loraplug_export.gguf_known import gguf_problems

        yield from gguf_problems(recipe.model.facts(run=run), self.type, f"exporter.{self.name}")

    def disk(self, run: Run, recipe: Any) -> Mapping[Path, int]:
        """The file and, where no exporter `merged` comes before, the merged model it is made from."""
        from loraplug_export.estimate import gguf_bytes

        return {self.place(run): gguf_bytes(self, run, recipe, self.type)}

    def export(self, result: ExportContext, out: Path) -> Path:
        """Write the file `out`, from the merged folder where there is one already.

        Raises:
            InputError: the model's family or tokenizer is not one that is written here; or as in `MergedExporter`.
            LoraplugError: a value does not fit the type; or as in `MergedExporter`.
        """
        from loraplug_export.gguf_model import read_family
        from loraplug_export.gguf_types import llama_cpp_quantizer
        from loraplug_export.gguf_write import write_gguf

        read_family(result.base)  # before the merge, which takes its time
        if self.type == "q4_k_m":
            llama_cpp_quantizer()
        out.parent.mkdir(parents=True, exist_ok=True)
        with merged_folder(result, out, MergedExporter(onto=self.onto, verify=self.verify)) as folder:
            write_gguf(folder, out, self.type, result)
        return out


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
