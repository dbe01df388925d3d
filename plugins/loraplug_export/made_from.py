"""The origin of derived adapters on the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def made_from_section(facts: Mapping[str, Any] | None) -> list[str]:
    """The section of the model card about `Provenance.derived`; empty for a trained adapter, which has none."""
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
