"""`ollama`: a GGUF file and the Modelfile that makes an Ollama model of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from attrs import frozen

from loraplug import Doc, Exporter, InputError, Problem, Run, Trained
from loraplug_export.choices import OntoName, TypeName
from loraplug_export.gguf_file import GgufExporter, not_carried

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
    out: Annotated[Path | None, Doc("the folder to put it into; by default outputs/ollama")] = None
    onto: Annotated[OntoName, Doc("as in the exporter merged; not used where that has run before")] = "original"
    verify: Annotated[bool, Doc("as in the exporter merged; not used where that has run before")] = True

    def place(self, run: Run) -> Path:
        """`<out>/<run name>`."""
        return (self.out or run.outputs / "ollama") / run.name

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """As of `gguf`."""
        yield from not_carried(run, recipe)

    def export(self, result: Trained, out: Path) -> Path:
        """Make a folder with `Modelfile`, `model.gguf` and a model card.

        Raises:
            InputError: the chat template cannot be said in Ollama's words; or as in `GgufExporter`.
        """
        from loraplug_export.card import write_card
        from loraplug_export.folders import has_tokenizer

        folder = result.adapter if has_tokenizer(result.adapter) else result.base
        modelfile = self._modelfile(result, folder)
        out.mkdir(parents=True)
        made = result.artefacts.get("gguf")
        if made is not None and made.is_file():
            _link(made, out / "model.gguf")
        else:
            GgufExporter(type=self.type, onto=self.onto, verify=self.verify).export(result, out / "model.gguf")
        (out / "Modelfile").write_text(modelfile, encoding="utf-8")
        write_card(result, out, "ollama")
        return out

    def _modelfile(self, result: Trained, folder: Path) -> str:
        from transformers import AutoTokenizer

        from loraplug_export.gguf_tokenizer import begins
        from loraplug_export.ollama_template import find_pieces, renderer, stop_texts

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
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
            result.run.warn("ollama: the chat template says the date; the Modelfile says today's for ever")
        if pieces.system is None:
            result.run.warn(
                "ollama: the chat template takes no system text at the beginning; Ollama's will be left out"
            )
        settings = _settings(result.base)
        stops = [] if (found := settings.get("eos_token_id")) is None else found
        lines = ["FROM ./model.gguf", f'TEMPLATE """{pieces.go()}"""']
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


def _settings(base: Path) -> dict[str, Any]:
    path = base / "generation_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return settings


def _licence(base: Path) -> str | None:
    from loraplug_export.folders import LICENCES

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
