"""`gguf`: one file for llama.cpp and what is built on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from attrs import field, frozen, validators

from loraplug import Doc, ExportContext, Problem, Run
from loraplug_export import MergedExporter, OntoName, write_card
from loraplug_export.certificate import FILE, PAGE, ProvedExporter
from loraplug_gguf.choices import TypeName


@frozen
class GgufExporter(ProvedExporter):
    """The merged model as one GGUF file, tokenizer and chat template included; runs in llama.cpp."""

    name = "gguf"
    takes = frozenset({"adapter", "model"})
    type: Annotated[
        TypeName,
        Doc(
            "number format of the matrices; all but f32, f16, bf16 and q8_0 need the package xllamacpp, llama.cpp's own"
        ),
    ] = "f16"
    importance: Annotated[
        Literal["auto", "always", "never"],
        Doc(
            "measure on the run's samples how much each input of a matrix counts, and round by that; auto does so for "
            "types of three bits and less. The model is in memory for it"
        ),
    ] = "auto"
    split: Annotated[
        float | None, Doc("the most that one file holds (GB); a model that is larger becomes a folder of files")
    ] = field(default=None, validator=validators.optional(validators.gt(0.0)))
    out: Annotated[Path | None, Doc("the folder to put the file into; by default outputs/gguf")] = None
    onto: Annotated[OntoName, Doc("as in the exporter merged; not used where that has run before")] = "original"
    verify: Annotated[bool, Doc("as in the exporter merged; not used where that has run before")] = True

    def place(self, run: Run) -> Path:
        """`<out>/<run name>.gguf`, with the type in the name where it is not f16; with `split`, a folder."""
        name = run.name if self.type == "f16" else f"{run.name}-{self.type}"
        return (self.out or run.outputs / "gguf") / (name if self.split else f"{name}.gguf")

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """An architecture or tokenizer that llama.cpp does not take, settings it ignores, a quantizer not installed."""
        from loraplug_gguf.preflight import gguf_problems

        proved = self.prove == "always"
        yield from gguf_problems(recipe.model.facts(run=run), self.type, f"exporter.{self.name}", run, proved)
        yield from self.proving_problems(run, recipe)
        if self.prove == "always" and find_spec("xllamacpp") is None:
            yield Problem("exporter.prove", "a certificate needs llama.cpp, and xllamacpp is not installed")

    def disk(self, run: Run, recipe: Any) -> Mapping[Path, int]:
        """The file, one of 16 bits to make it of, and the merged model where no exporter `merged` comes before."""
        from loraplug_gguf.estimate import gguf_bytes

        return {self.place(run): gguf_bytes(self, run, recipe, self.type)}

    def export(self, result: ExportContext, out: Path) -> Path:
        """Write the file (with `split`, the folder) `out`, from the merged folder where there is one already.

        Raises:
            InputError: llama.cpp does not take the model or its tokenizer; or as in `MergedExporter`.
            LoraplugError: a value does not fit the type; or as in `MergedExporter`.
        """
        from loraplug_gguf.write import check_before, merged_folder, write_gguf

        source = result.adapter if result.kind == "model" else result.base
        check_before(source, self.type, result.run, self.prove == "always")  # the merge takes its time
        out.parent.mkdir(parents=True, exist_ok=True)
        with merged_folder(result, out, MergedExporter(onto=self.onto, verify=self.verify, prove="never")) as folder:
            write_gguf(folder, out, self, result)
            if self.proves(result) and find_spec("xllamacpp") is not None:
                self._certify(result, out, folder)
        if out.is_dir():
            write_card(result, out, "gguf")
        return out

    def _certify(self, result: ExportContext, out: Path, folder: Path) -> None:
        from loraplug_export.certificate import certify, server_claims, settle
        from loraplug_gguf.proof import file_claim

        if self.onto == "dequantized":
            result.run.say("gguf: no certificate: merged onto rounded weights, the file differs from base + adapter")
            return
        claim = file_claim(out, self.type, folder, result.run)
        certificate = certify(result, [claim, *server_claims(self, result, claim.limit)])
        place = self.place(run=result.run)
        data, readable = (out / FILE, out / PAGE) if out.is_dir() else beside(place)
        settle(certificate, data, readable, place)


def beside(file: Path) -> tuple[Path, Path]:
    """Where the certificate of a file lies: its data, and its page."""
    return file.with_name(f"{file.name}.{FILE}"), file.with_name(f"{file.name}.{PAGE}")
