"""`ollama`: a GGUF file and the Modelfile that makes an Ollama model of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from attrs import frozen

from loraplug import Doc, ExportContext, Exporter, InputError, Problem, Run
from loraplug_export import LICENCES, OntoName, comes_before, generation_settings, has_tokenizer, write_card
from loraplug_gguf.choices import TypeName
from loraplug_gguf.exporter import GgufExporter

_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*(:[A-Za-z0-9._-]+)?")
_PARAMETERS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
"""transformers' generation settings to Ollama's."""


@frozen
class OllamaExporter(Exporter):
    """A GGUF file and a Modelfile (template, stop tokens, parameters) for `ollama create`."""

    name = "ollama"
    type: Annotated[TypeName, Doc("as in the exporter gguf; not used where that has run before")] = "f16"
    context: Annotated[int | None, Doc("num_ctx in the Modelfile (tokens); Ollama's own default where not set")] = None
    base: Annotated[
        str | None,
        Doc(
            "the base in Ollama: a model's name there, or a GGUF file of it (a path that ends in .gguf). The Modelfile "
            "puts the adapter alone on it (ADAPTER), and nothing is merged: one base serves many"
        ),
    ] = None
    out: Annotated[Path | None, Doc("the folder to put it into; by default outputs/ollama")] = None
    onto: Annotated[OntoName, Doc("as in the exporter merged; not used where that has run before")] = "original"
    verify: Annotated[bool, Doc("as in the exporter merged; not used where that has run before")] = True

    def place(self, run: Run) -> Path:
        """`<out>/<run name>`."""
        return (self.out or run.outputs / "ollama") / run.name

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """As of the exporter gguf; and a base without a chat template."""
        from loraplug_gguf.preflight import gguf_problems

        facts = recipe.model.facts(run=run)
        if self.base is None:
            yield from gguf_problems(facts, self.type, "exporter.ollama", run)
        else:
            from loraplug_gguf.adapter import adapter_problems

            yield from adapter_problems(recipe, run, self.name)
            if wrong := _not_a_base(self.base):
                yield Problem("exporter.base", wrong)
        if facts is not None and facts.chat_template is None:
            yield Problem("exporter", "ollama needs a chat template, and the model has none; export gguf in its place")

    def disk(self, run: Run, recipe: Any) -> Mapping[Path, int]:
        """As of the exporter gguf; nothing with `base`, or where that comes before, of which it makes a link."""
        from loraplug_gguf.estimate import gguf_bytes

        made = self.base is not None or comes_before(recipe, self, "gguf")
        return {} if made else {self.place(run): gguf_bytes(self, run, recipe, self.type)}

    def export(self, result: ExportContext, out: Path) -> Path:
        """Make a folder with `Modelfile`, `model.gguf` (with `base`: `adapter.gguf`) and a model card.

        Raises:
            InputError: the chat template cannot be said in Ollama's words; or as in `GgufExporter`.
        """

        folder = result.adapter if has_tokenizer(result.adapter) else result.base
        if self.base is not None and (wrong := _not_a_base(self.base)):
            raise InputError(wrong, where="exporter.ollama.base", todo="name a model of Ollama, or a GGUF file")
        modelfile = self._modelfile(result, folder, out)
        out.mkdir(parents=True)
        made = result.artefact("gguf", type=self.type) or result.artefact("gguf")
        if self.base is not None:
            from loraplug_gguf.adapter_file import write_adapter

            write_adapter(result, out / "adapter.gguf", "f32")
        elif made is not None and made.is_file():
            _link(made, out / "model.gguf")
        else:
            GgufExporter(type=self.type, onto=self.onto, verify=self.verify, prove="never").export(
                result, out / "model.gguf"
            )
        (out / "Modelfile").write_text(modelfile, encoding="utf-8")
        write_card(result, out, "ollama")
        return out

    def _modelfile(self, result: ExportContext, folder: Path, out: Path) -> str:
        from transformers import AutoTokenizer

        from loraplug_gguf.ollama_template import find_pieces, renderer, stop_texts
        from loraplug_gguf.vocabulary import begins

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not tokenizer.chat_template:
            raise InputError("has no chat template", where=folder, todo="train with one, or export gguf")
        bos = tokenizer.bos_token if begins(tokenizer)[0] else None
        pieces = find_pieces(renderer(tokenizer, bos))
        if pieces is None:
            raise InputError(
                "the chat template is more than fixed words around the texts, so Ollama cannot be told it",
                where=folder / "chat_template.jinja",
                todo="export gguf, and write a Modelfile by hand; llama.cpp itself runs the template with --jinja",
            )
        if "strftime_now" in str(tokenizer.chat_template):
            result.run.warn("ollama: the chat template inserts the date; the Modelfile will always insert today's")
        if pieces.system is None:
            result.run.warn(
                "ollama: the chat template takes no system text at the beginning; Ollama's will be left out"
            )
        settings = generation_settings(result.base, folder)
        stops = [] if (found := settings.get("eos_token_id")) is None else found
        lines = [*self._from(out), f'TEMPLATE """{pieces.go()}"""']
        texts = stop_texts(tokenizer, pieces, stops if isinstance(stops, list) else [stops])
        lines += [f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in texts]
        lines += [
            f"PARAMETER {ours} {settings[key]}" for key, ours in _PARAMETERS.items() if settings.get(key) is not None
        ]
        if self.context:
            lines.append(f"PARAMETER num_ctx {self.context}")
        if (licence := _licence(result.base)) and '"""' not in licence:
            lines.append(f'LICENSE """{licence}"""')
        return "\n".join(lines) + "\n"

    def _from(self, out: Path) -> list[str]:
        """The lines that name the weights; files relative to the Modelfile, as Ollama reads them."""
        if self.base is None:
            return ["FROM ./model.gguf"]
        is_file = self.base.endswith(".gguf")
        place = Path(os.path.relpath(Path(self.base).expanduser().absolute(), out)).as_posix() if is_file else self.base
        return [f"FROM {place}", "ADAPTER ./adapter.gguf"]


def _not_a_base(base: str) -> str | None:
    """What is wrong with the option `base`; Ollama itself knows whether it has a model of that name."""
    if base.endswith(".gguf"):
        path = Path(base).expanduser()
        return None if path.is_file() and "\n" not in base else f"there is no file {base}"
    return None if _MODEL.fullmatch(base) else f"{base!r} is neither a model's name in Ollama nor a .gguf file"


def _licence(base: Path) -> str | None:
    for pattern in LICENCES:
        for path in sorted(base.glob(pattern)):
            return path.read_text(encoding="utf-8", errors="replace")
    return None


def _link(source: Path, target: Path) -> None:
    """The same file under a second name where the file system can, else a copy."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
