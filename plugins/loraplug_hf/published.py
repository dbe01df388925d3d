"""Bases that were published in fewer bits, by methods whose weights take no adapter here and no merge anywhere."""

from __future__ import annotations

import re
from pathlib import Path

from loraplug import BaseFacts

METHODS = {
    "aqlm": "AQLM", "auto-round": "AutoRound", "awq": "AWQ", "exl2": "EXL2", "exl3": "EXL3", "gptq": "GPTQ",
    "spqr": "SpQR", "vptq": "VPTQ",
}  # fmt: skip
"""By their names in config.json."""


def prequantised(facts: BaseFacts) -> str | None:
    """In words, that a base was published in a form that cannot be trained on, and what to take in its place."""
    settings = facts.config.get("quantization_config")
    method = METHODS.get(str(settings.get("quant_method"))) if isinstance(settings, dict) else None
    if method is None:
        return None
    original = _original(facts.folder)
    named = f'id = "{original}"' if original else "the model that this one was made of (its card names it)"
    return (
        f"is published in {method}'s form, of which an adapter could not be merged; take the original, {named}, "
        'and to have it in 4 bits [quantizer] use = "bitsandbytes"'
    )


def _original(folder: Path) -> str | None:
    """The model that the card beside the weights says they were made of."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return None
    found = re.search(r"^base_model:\s*(?:\n\s*-\s*)?[\"']?([\w.-]+/[\w.-]+)[\"']?\s*$", head, re.MULTILINE)
    return found[1] if found else None
