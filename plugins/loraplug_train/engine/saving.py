"""Writes the training result for exporters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loraplug import Adapter, Run, Share, atomic_output, quantised_share, save_adapter


def save_result(run: Run, adapter: Adapter | None, adapted: Any, tokenizer: Any, coverage: Share) -> None:
    """Save the adapter or model with its tokenizer, and its provenance in loraplug.json."""
    quantization = getattr(adapted.config, "quantization_config", None)
    facts: dict[str, Any] = {"quantization": quantization.to_dict() if quantization is not None else None}
    with atomic_output(run.folder / ("adapter" if adapter is None else adapter.makes)) as out:
        if adapter is None:
            facts |= _saved(run, adapted, out)
        else:
            adapter.save(model=adapted, folder=out)
        tokenizer.save_pretrained(out)
        facts["adapted"] = coverage.facts() | {"text": coverage.sentence()}
        if quantization is not None:
            quantised = quantised_share(adapted)
            facts["quantised"] = quantised.facts() | {"text": quantised.sentence()}
        facts["dtype"] = str(adapted.dtype).removeprefix("torch.")
        (out / "loraplug.json").write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")


def _saved(run: Run, adapted: Any, out: Path) -> dict[str, Any]:
    """Save the adapter; what peft alone would not load of it, for its card, is told in the log, too."""
    lost = save_adapter(adapted, out)
    if not lost:
        return {}
    ends = sorted({name.rsplit(".", 1)[-1] for name in lost})
    run.warn(
        f"adapter: PeftModel.from_pretrained alone leaves those of {len(lost)} modules ({', '.join(ends)}) at zero, as "
        "peft takes their names for others; loraplug loads them. Give others the merged model (exporter merged)"
    )
    return {"lost_by_peft": lost}
