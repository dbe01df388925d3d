"""Writes the training result for exporters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loraplug import (
    Adapter,
    Provenance,
    Run,
    Share,
    atomic_output,
    quantised_share,
    save_adapter,
    write_provenance,
)
from loraplug_train.adapters.lora import LoraAdapter


def save_result(run: Run, adapter: Adapter | None, adapted: Any, tokenizer: Any, coverage: Share) -> None:
    """Save the adapter or model with its tokenizer, and its provenance in loraplug.json."""
    quantization = getattr(adapted.config, "quantization_config", None)
    with atomic_output(run.folder / ("adapter" if adapter is None else adapter.makes)) as out:
        lost: tuple[str, ...] = ()
        if adapter is None or isinstance(adapter, LoraAdapter):
            lost = _saved(run, adapted, out)
        else:
            adapter.save(model=adapted, folder=out)
        tokenizer.save_pretrained(out)
        provenance = Provenance(
            dtype=str(adapted.dtype).removeprefix("torch."),
            quantization=quantization.to_dict() if quantization is not None else None,
            adapted=_share(coverage),
            quantised=_share(quantised_share(adapted)) if quantization is not None else None,
            lost_by_peft=lost,
        )
        write_provenance(out, provenance)


def _share(share: Share) -> dict[str, Any]:
    return share.facts() | {"text": share.sentence()}


def _saved(run: Run, adapted: Any, out: Path) -> tuple[str, ...]:
    """Save the adapter, and warn of modules that plain peft would not load; returns their names, for the card."""
    lost = tuple(save_adapter(adapted, out))
    if not lost:
        return ()
    ends = sorted({name.rsplit(".", 1)[-1] for name in lost})
    run.warn(
        f"adapter: PeftModel.from_pretrained alone leaves those of {len(lost)} modules ({', '.join(ends)}) at zero, as "
        "peft takes their names for others; loraplug loads them. Give others the merged model (exporter merged)"
    )
    return lost
