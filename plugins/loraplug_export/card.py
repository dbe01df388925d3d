"""The model card: base, data, training, figures, and how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import tomli

from loraplug import ExportContext, InputError, Provenance, read_provenance, redact, shareable
from loraplug_export.made_from import made_from_section

Kind = Literal["adapter", "merged", "gguf", "ollama"]

_FIGURES = {
    "validation_loss_before": "validation loss before training (nats per trained token)",
    "validation_loss_after": "validation loss after training (nats per trained token)",
    "adapted_share": "share of the layers' weights that have an adapter",
    "train_loss": "last training loss (nats per trained token)",
    "trained_tokens": "trained tokens",
    "steps": "optimizer steps",
    "seconds": "seconds of training",
    "tokens_per_second": "tokens per second",
    "peak_memory_bytes": "peak memory of training (bytes)",
    "loading_memory_bytes": "peak memory of loading (bytes)",
}

_LOAD: dict[Kind, str] = {
    "adapter": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"
base = AutoModelForCausalLM.from_pretrained({base}){grow}
model = PeftModel.from_pretrained(base, folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```""",
    "merged": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```""",
    "gguf": "```\nllama-cli -m {folder} --jinja\n```",
    "ollama": "```\nollama create {name} -f Modelfile\nollama run {name}\n```",
}


def write_card(result: ExportContext, out: Path, kind: Kind, proof: Mapping[str, Any] | None = None) -> None:
    """Write `README.md` into the folder `out`, without secrets and without paths of this machine."""
    from huggingface_hub import ModelCard, ModelCardData

    licence = base_licence(result.base)
    base = loadable_base(result)
    is_hub = not Path(base).is_absolute()
    named, loaded = public_name(result.base_id), f'"{base}"' if is_hub else _local_base(result.base_id)
    data = ModelCardData(
        base_model=base if is_hub else None,
        base_model_relation=("adapter" if kind == "adapter" else "finetune") if is_hub else None,
        library_name="peft" if kind == "adapter" else "transformers" if kind == "merged" else None,
        license=licence,
        pipeline_tag="text-generation",
        tags=["loraplug", *(["lora"] if result.kind == "adapter" else [])]
        + (["gguf"] if kind in ("gguf", "ollama") else []),
    )
    grow = _grow(result.adapter) if kind == "adapter" else ""
    load = _LOAD[kind].format(folder=".", base=loaded, name=result.run.name, grow=grow)
    sections = [
        f"# {result.run.name}",
        f"{_WHAT[kind] if result.kind == 'adapter' else 'Fine-tuned model'} of `{named}`, {_how(result)}.",
        f"- **Base:** `{named}`\n- **Licence of the base:** {licence or _NO_LICENCE}" + _shares(result.adapter),
        *made_from_section(_provenance(result.adapter).derived),
        *_recipe(result),
        *_figures(result, proof or {}),
        *_certificate(out),
        "## How to load\n\n" + load + (_lost_by_peft(result.adapter) if kind == "adapter" else ""),
    ]
    text = redact(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")
    ModelCard(text).save(out / "README.md")


_WHAT: dict[Kind, str] = {
    "adapter": "LoRA adapter",
    "merged": "Merged model",
    "gguf": "GGUF file",
    "ollama": "Ollama model",
}


def _grow(adapter: Path) -> str:
    """The line that resizes a base's embedding for tokens that the adapter trains, so that peft can fill the rows."""
    from loraplug_export.lora_files import CONFIG

    told = json.loads((adapter / CONFIG).read_text(encoding="utf-8")).get("trainable_token_indices") or []
    most = 1 + max(chain.from_iterable(told.values() if isinstance(told, dict) else [told]), default=-1)
    if not most:
        return ""
    return f"\nif base.get_input_embeddings().num_embeddings < {most}:\n    base.resize_token_embeddings({most})"


def _how(result: ExportContext) -> str:
    if result.kind == "model":
        return "whose own weights were trained by loraplug"
    made_by = (_provenance(result.adapter).derived or {}).get("made_by")
    return f"made with LoRA by {made_by}" if made_by else "fine-tuned with LoRA by loraplug"


_NO_LICENCE = "unknown; see the page of the base model: its licence applies to this model too"


def loadable_base(result: ExportContext) -> str:
    """The base as peft and transformers can load it: the hub id, else the folder with its weights.

    For a GGUF file it is the folder of its dequantized weights.
    """
    name = result.base_id
    hub = name.count("/") == 1 and name[0] not in "./~" and ":" not in name and not name.endswith(".gguf")
    return name if hub and not Path(name).exists() else str(result.base.absolute())


def public_name(base: str) -> str:
    """The base's name for publication: a hub id or `package:…` unchanged, of a local path only the last part."""
    if re.match(r"package:|hub:|https?:", base) or (
        base.count("/") == 1 and base[0] not in "./~" and not base.endswith(".gguf") and not Path(base).exists()
    ):
        return base
    return re.split(r"[\\/]", base.rstrip("/\\"))[-1] or base


def _local_base(base: str) -> str:
    """The arguments of `from_pretrained` for a base that is not on the hub; where it lies is for the reader to fill in.

    That of a GGUF file is its folder, as transformers has it.
    """
    folder, _, name = f"path/to/{public_name(base).removeprefix('package:')}".rpartition("/")
    return f'"{folder}", gguf_file="{name}"' if name.endswith(".gguf") else f'"{folder}/{name}"'


def base_licence(base: Path) -> str | None:
    """The licence that the base's own model card names, or None."""
    from huggingface_hub import ModelCard

    path = base / "README.md"
    if not path.is_file():
        return None
    try:
        data = ModelCard.load(path).data.to_dict()
    except (ValueError, OSError):  # a model card without valid metadata names no licence
        return None
    licence = data.get("license_name") or data.get("license")
    return str(licence) if licence else None


def _provenance(adapter: Path) -> Provenance:
    """The adapter's; an empty one where its file is missing or damaged, which is no reason to write no card."""
    try:
        return read_provenance(adapter) or Provenance()
    except InputError:
        return Provenance()


def _shares(adapter: Path) -> str:
    """Which parts of the base were adapted and quantized, if the trainer recorded it beside the adapter."""
    provenance = _provenance(adapter)
    said = {"Adapted": provenance.adapted, "Quantized in training": provenance.quantised}
    return "".join(f"\n- **{what}:** {one['text']}" for what, one in said.items() if one and "text" in one)


def _lost_by_peft(adapter: Path) -> str:
    """What peft alone leaves at zero, where the trainer has found that, and what to take instead."""
    lost = _provenance(adapter).lost_by_peft
    if not lost:
        return ""
    named = ", ".join(f"`{name}`" for name in lost[:4]) + (f" and {len(lost) - 4} more" if len(lost) > 4 else "")
    return (
        f"\n\n**peft alone does not load all of this adapter:** it takes the names of {len(lost)} modules ({named}) "
        "for others and leaves their adapters at zero. `loraplug chat`, `eval`, `serve` and `export` load them; for "
        "other programs use the merged model (`loraplug export --to merged`)."
    )


def _recipe(result: ExportContext) -> list[str]:
    lock = result.extras.get("recipe.lock.toml") or result.adapter / "recipe.lock.toml"
    if not lock.is_file():
        return []
    text = shareable(lock.read_text(encoding="utf-8")).strip()
    told = tomli.loads(text).get("dataset") or {}
    rows = [
        f"- `{key}`: `{value}`" if isinstance(told, dict) else f"- `{table.get('name')}.{key}`: `{value}`"
        for table in (told if isinstance(told, list) else [told])
        for key, value in table.items()
        if not isinstance(value, dict)
    ]
    return ["## Data\n\n" + "\n".join(rows)] * bool(rows) + [f"## Recipe\n\n```toml\n{text}\n```"]


def _certificate(out: Path) -> list[str]:
    """A link to the certificate, if the folder has one."""
    from loraplug_export.certificate import FILE, PAGE

    if not (out / FILE).is_file():
        return []
    return [
        f"## Certificate\n\nIts answers were compared with those of base + adapter: [{PAGE}]({PAGE}), [{FILE}]({FILE})."
    ]


def _figures(result: ExportContext, proof: Mapping[str, Any]) -> list[str]:
    rows = [(_FIGURES.get(key, key), value) for key, value in result.figures.items()]
    if proof:
        what = "the merged model's logits" if proof["by"] == "logits" else "a merged module"
        rows.append((f"largest difference of {what} from base + adapter", proof["largest"]))
    if not rows:
        return []
    table = "\n".join(f"| {name} | {value:{',.0f' if abs(value) >= 1e5 else ',.6g'}} |" for name, value in rows)
    return [f"## Figures\n\n| | |\n|---|---|\n{table}"]
