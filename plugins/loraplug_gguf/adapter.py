"""`gguf-adapter`: the adapter alone as a GGUF file, which llama.cpp and Ollama put on a base of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from attrs import frozen

from loraplug import Doc, ExportContext, Exporter, Problem, Run
from loraplug_gguf.choices import TypeName
from loraplug_gguf.exporter import GgufExporter

AdapterType = Literal["f32", "f16", "bf16"]

_WAY_OUT = "export gguf, which merges it; or loraplug convert makes a plain LoRA of it"


@frozen
class GgufAdapterExporter(Exporter):
    """The LoRA adapter as a GGUF file that llama.cpp and Ollama put on their own base: one base serves many."""

    name = "gguf-adapter"
    type: Annotated[AdapterType, Doc("number format of A and B")] = "f32"
    base_type: Annotated[
        TypeName | None,
        Doc("also write the base itself, as <base>-<type>.gguf beside the adapters, where that is not there yet"),
    ] = None
    out: Annotated[Path | None, Doc("the folder to put the file into; by default outputs/gguf")] = None

    def place(self, run: Run) -> Path:
        """`<out>/<run name>-lora.gguf`, with the type in the name where it is not f32."""
        suffix = "" if self.type == "f32" else f"-{self.type}"
        return (self.out or run.outputs / "gguf") / f"{run.name}-lora{suffix}.gguf"

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """A family that is not written to GGUF here, and what llama.cpp's adapters have no place for."""
        yield from adapter_problems(recipe, run, self.name)
        if self.base_type is not None:
            from loraplug_gguf.preflight import gguf_problems

            yield from gguf_problems(recipe.model.facts(run=run), self.base_type, f"exporter.{self.name}", run)

    def disk(self, run: Run, recipe: Any) -> Mapping[Path, int]:
        """The base, where `base_type` asks for it; an adapter is small beside it."""
        from loraplug_gguf.estimate import gguf_file_bytes

        return {} if self.base_type is None else {self.place(run): gguf_file_bytes(run, recipe, self.base_type)}

    def export(self, result: ExportContext, out: Path) -> Path:
        """Write the file `out`, and the base beside its place where `base_type` asks for it.

        Raises:
            InputError: the model's family is not one that is written here, or the adapter holds more than LoRA pairs on
                linear layers; every such thing is named.
            LoraplugError: a value does not fit the type.
        """
        from loraplug_gguf.adapter_file import write_adapter, write_base

        out.parent.mkdir(parents=True, exist_ok=True)
        write_adapter(result, out, self.type)
        if self.base_type is not None:
            write_base(result, self.place(run=result.run).parent, GgufExporter(type=self.base_type, importance="never"))
        return out


def adapter_problems(recipe: Any, run: Run, name: str) -> Iterator[Problem]:
    """What of a recipe's base and LoRA options an adapter in a GGUF file cannot carry."""
    from loraplug_gguf.preflight import config_problems

    facts = recipe.model.facts(run=run)
    for wrong in config_problems(facts.config, run) if facts is not None else ():
        yield Problem("exporter", f"{name}: {wrong}; use the exporter adapter")
    if getattr(recipe.model, "add_tokens", ()):
        yield Problem("model.add_tokens", f"trains embeddings, and {name} can only hold LoRA; {_WAY_OUT}")
    table = "lora" if getattr(recipe.trainer, "adapter", None) is None else "adapter"
    for option, what in _not_carried(getattr(recipe.trainer, table, None)).items():
        yield Problem(f"trainer.{table}.{option}", f"{what}, and {name} can only hold LoRA; {_WAY_OUT}")


def _not_carried(lora: Any) -> Mapping[str, str]:
    """Options of a table for LoRA, whichever trainer it is of, to what they do."""
    found = {}
    if getattr(lora, "use_dora", False):
        found["use_dora"] = "trains magnitudes"
    if modules := getattr(lora, "modules_to_save", ()):
        found["modules_to_save"] = f"fully trains {', '.join(modules)}"
    if (init := getattr(lora, "init_lora_weights", "default")) in ("pissa", "olora"):
        found["init_lora_weights"] = f'"{init}" changes the base weights'
    targets = getattr(lora, "target_modules", ())
    if not isinstance(targets, str) and "embed_tokens" in targets:
        found["target_modules"] = "adapts embed_tokens"
    return found
