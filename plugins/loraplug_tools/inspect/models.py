"""What is known of the family that a recipe's model belongs to, as `make families` measured it on a tiny one."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from loraplug import BaseFacts


def family_row(facts: BaseFacts | None) -> dict[str, Any] | None:
    """The family's row: `family`, `transformers` and the words of each cell; None where there is none.

    A model of several kinds of input is looked up by its text part. Where a family has several rows, that with its name
    counts.
    """
    if facts is None or facts.is_gguf:
        return None
    data = json.loads(files("loraplug_tools.inspect").joinpath("models.json").read_text(encoding="utf-8"))
    text = facts.config.get("text_config")
    kinds = [config.get("model_type") for config in (text, facts.config) if isinstance(config, dict)]
    for kind in filter(None, kinds):
        names = [name for name, row in data["rows"].items() if row["model_type"] == kind]
        if names:
            name = kind if kind in names else names[0]
            cells = {column: cell["text"] for column, cell in data["rows"][name]["cells"].items()}
            return {"family": name, "transformers": data["transformers"], **cells}
    return None


def sentence(row: dict[str, Any]) -> str:
    """The row in one line."""
    gguf = {"yes": "GGUF", "with a certificate": "GGUF with a certificate"}.get(row["gguf"], "no GGUF")
    return (
        f"{row['family']}, by a tiny one with transformers {row['transformers']}: adapters on {row['covered']} of the "
        f"layers' weights, documents {row['packs']}, NF4 {row['nf4']}, bfloat16 {row['bfloat16']}, merge proved by "
        f"{row['merge']}, {gguf}, fast kernel {row['kernel']}"
    )
