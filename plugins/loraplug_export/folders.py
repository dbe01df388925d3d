"""The files beside the weights: config, tokenizer, chat template, licence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "COPYING*")


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder has a tokenizer."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def copy_tokenizer(sources: Iterable[Path], out: Path) -> None:
    """Copy the tokenizer, chat template included, from the first folder that has one."""
    for source in sources:
        if has_tokenizer(source):
            for name in TOKENIZER:
                if (source / name).is_file():
                    shutil.copyfile(source / name, out / name)
            if (source / "additional_chat_templates").is_dir():
                shutil.copytree(source / "additional_chat_templates", out / "additional_chat_templates")
            return


def copy_model(folder: Path, out: Path) -> None:
    """Copy a model's config, weights and tokenizer to the folder `out`.

    Raises:
        InputError: a file is missing, or the weights are damaged.
    """
    from loraplug_export.generation import write_generation_config
    from loraplug_export.tensors import open_checkpoint

    files = open_checkpoint(folder).metadata
    out.mkdir(parents=True)
    index = "model.safetensors.index.json"
    for name in sorted({*files, "config.json", *([index] if (folder / index).is_file() else [])}):
        shutil.copyfile(folder / name, out / name)
    copy_tokenizer([folder], out)
    write_generation_config(folder, out, out)


def copy_licences(base: Path, out: Path) -> None:
    """Copy the base's licence texts."""
    for pattern in LICENCES:
        for path in sorted(base.glob(pattern)):
            if path.is_file() and not (out / path.name).exists():
                shutil.copyfile(path, out / path.name)


def write_config(base: Path, out: Path, vocabulary: int | None = None, untied: bool = False) -> None:
    """Copy the base's config.json with changes.

    Args:
        vocabulary: the new number of rows of the embedding, if it has changed.
        untied: whether embedding and output layer are no longer tied.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text = _text_config(config)  # the text part of a multimodal model's config
    if vocabulary is not None:
        text["vocab_size"] = vocabulary
    if untied:
        text["tie_word_embeddings"] = config["tie_word_embeddings"] = False
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    return next((config[key] for key in TEXT_CONFIGS if isinstance(config.get(key), dict)), config)
