"""Bases that were published in quantized formats that can neither be trained here nor merged."""

from __future__ import annotations

import re
from pathlib import Path

from loraplug import BaseFacts

METHODS = {
    "aqlm": "AQLM", "auto-round": "AutoRound", "awq": "AWQ", "exl2": "EXL2", "exl3": "EXL3", "gptq": "GPTQ",
    "spqr": "SpQR", "vptq": "VPTQ",
}  # fmt: skip
"""Names of the methods, as in config.json."""


def prequantised(facts: BaseFacts) -> str | None:
    """The message for a base that was published in an unsupported quantized format; None for others."""
    settings = facts.config.get("quantization_config")
    method = METHODS.get(str(settings.get("quant_method"))) if isinstance(settings, dict) else None
    if method is None:
        return None
    original = _original(facts.folder)
    named = f'id = "{original}"' if original else "the model that this one was made from (see its card)"
    return (
        f"is published in the format of {method}, into which an adapter cannot be merged; use the original, {named}; "
        'for 4 bits add [quantizer] use = "bitsandbytes"'
    )


def _original(folder: Path) -> str | None:
    """The original model that the model card names."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return None
    found = re.search(r"^base_model:\s*(?:\n\s*-\s*)?[\"']?([\w.-]+/[\w.-]+)[\"']?\s*$", head, re.MULTILINE)
    return found[1] if found else None
