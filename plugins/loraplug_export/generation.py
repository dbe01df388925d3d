"""The generation config of an export: the base's, with the end-of-turn token as an end of answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from loraplug import end_of_turn
from loraplug_export.folders import TEXT_CONFIGS, has_tokenizer

GENERATION = "generation_config.json"
_NUMBERS = ("bos_token_id", "eos_token_id", "pad_token_id")


def generation_settings(base: Path, tokenizer: Path) -> dict[str, Any]:
    """The base's generation config (from config.json if it has none), with the end-of-turn token in `eos_token_id`.

    Without it a base model that was trained to chat would not stop at the end of its answer.

    Args:
        tokenizer: the folder of the tokenizer with the chat template that was trained.
    """
    settings = _own(base)
    end = _end_of_turn(tokenizer)
    given = settings.get("eos_token_id")
    stops = [] if given is None else [*given] if isinstance(given, list) else [given]
    if end is not None and end not in stops:
        settings["eos_token_id"] = [*stops, end] if stops else end
    return settings


def write_generation_config(base: Path, tokenizer: Path, out: Path) -> None:
    """Write it to the folder `out`: a copy of the base's if nothing is to be added; nothing if there is none."""
    path = base / GENERATION
    settings = generation_settings(base, tokenizer)
    if path.is_file() and settings == _own(base):
        shutil.copyfile(path, out / GENERATION)
    elif settings.get("eos_token_id") is not None and (path.is_file() or settings != _own(base)):
        (out / GENERATION).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _own(base: Path) -> dict[str, Any]:
    path = base / GENERATION
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    if not (base / "config.json").is_file():
        return {}
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = next((config[key] for key in TEXT_CONFIGS if isinstance(config.get(key), dict)), {})
    found = {key: config.get(key, text.get(key)) for key in _NUMBERS}
    return {key: value for key, value in found.items() if value is not None}


def _end_of_turn(folder: Path) -> int | None:
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        return None
    try:
        return end_of_turn(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except (ValueError, OSError, KeyError, ImportError):  # a tokenizer that needs remote code, which is not run here
        return None
