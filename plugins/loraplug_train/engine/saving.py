"""What a training leaves for exporters."""

from __future__ import annotations

import json
from typing import Any

from loraplug import Adapter, Run, Share, atomic_output, quantised_share
from loraplug_train.adapters.lora import save_lora


def save_result(run: Run, adapter: Adapter | None, adapted: Any, tokenizer: Any, coverage: Share) -> None:
    """The adapter, or the model, with its tokenizer, and in loraplug.json what it was trained on."""
    with atomic_output(run.folder / ("adapter" if adapter is None else adapter.makes)) as out:
        if adapter is None:
            save_lora(adapted, out)
        else:
            adapter.save(model=adapted, folder=out)
        tokenizer.save_pretrained(out)
        quantization = getattr(adapted.config, "quantization_config", None)
        facts: dict[str, Any] = {"quantization": quantization.to_dict() if quantization is not None else None}
        facts["adapted"] = coverage.facts() | {"text": coverage.sentence()}
        if quantization is not None:
            quantised = quantised_share(adapted)
            facts["quantised"] = quantised.facts() | {"text": quantised.sentence()}
        facts["dtype"] = str(adapted.dtype).removeprefix("torch.")
        (out / "loraplug.json").write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
