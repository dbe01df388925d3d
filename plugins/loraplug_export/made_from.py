"""The origin of derived adapters: kept in `made_from.json`, shown on the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MADE_FROM = "made_from.json"


def read_made_from(adapter: Path) -> Mapping[str, Any]:
    """The content of an adapter folder's `made_from.json`; empty if there is none, or it is not a JSON object."""
    try:
        found = json.loads((adapter / MADE_FROM).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def made_from_section(adapter: Path) -> list[str]:
    """The section of the model card; empty for a trained adapter."""
    facts = read_made_from(adapter)
    if not facts:
        return []
    rows = [f"- **{key.replace('_', ' ').capitalize()}:** {_text(facts[key])}" for key in facts if key not in _LONG]
    sources = facts.get("sources")
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict):
            parts = ", ".join(
                f"{key.replace('_', ' ')} {_text(value)}" for key, value in source.items() if key != "name"
            )
            rows.append(f"- `{source.get('name')}`" + (f": {parts}" if parts else ""))
    return ["## Made from\n\n" + "\n".join(rows)]


_LONG = ("sources", "layers")


def _text(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())
